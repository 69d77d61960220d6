import Tensors

/// Numbers that both sides can make without a file: `peer.py` has the same. Uniform, of about unit variance.
///
/// Value i is the low 32 bits of (i + 1 + seed · 7919) · 2654435761, mapped onto ±1.7.
func numbers(_ shape: [Int], seed: Int, scale: Float = 1) -> Tensor {
    Tensor(shape: shape) { buffer in
        var place = UInt32(truncatingIfNeeded: 1 + seed * 7919)
        for i in buffer.indices {
            let hash = place &* 2_654_435_761
            buffer[i] = Float((Double(hash) / 2_147_483_648 - 1) * 1.7) * scale
            place &+= 1
        }
    }
}

/// The mean of the absolute values: what both sides compare to know that they did the same work.
func magnitude(_ tensors: [Tensor]) -> Double {
    var (sum, count) = (0.0, 0)
    for tensor in tensors {
        tensor.withUnsafeBufferPointer { for value in $0 { sum += Double(value.magnitude) } }
        count += tensor.count
    }
    return sum / Double(max(count, 1))
}
