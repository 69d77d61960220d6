import CKernels
import Glibc

/// Counter-based random numbers (Philox4x32-10): what a stream yields follows from (seed, run, step, item) and the position alone, so results
/// do not depend on batch sizes, threads or interruptions.
public struct RandomStream: Sendable {
    private let key: (UInt32, UInt32)
    private let stream: (UInt32, UInt32, UInt32)
    private var block: UInt32 = 0
    private var words: (UInt32, UInt32, UInt32, UInt32) = (0, 0, 0, 0)
    private var left = 0
    private var spare: Float?

    public init(seed: UInt64, run: UInt32 = 0, step: UInt32 = 0, item: UInt32 = 0) {
        key = (UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32))
        stream = (item, step, run)
    }

    /// The next 32 random bits.
    public mutating func next() -> UInt32 {
        if left == 0 {
            words = Self.philox(counter: (block, stream.0, stream.1, stream.2), key: key)
            block &+= 1
            left = 4
        }
        left -= 1
        switch left {
        case 3: return words.0
        case 2: return words.1
        case 1: return words.2
        default: return words.3
        }
    }

    /// Uniform in [0, 1), 24 bits.
    public mutating func uniform() -> Float { Float(next() >> 8) * 0x1p-24 }

    public mutating func uniform(in range: Range<Float>) -> Float {
        range.lowerBound + (range.upperBound - range.lowerBound) * uniform()
    }

    /// Uniform over a non-empty range of fewer than 2^32 integers, without bias (Lemire's method).
    public mutating func integer(in range: Range<Int>) -> Int {
        precondition(!range.isEmpty && range.count <= Int(UInt32.max), "integer(in:) needs 1 … 2^32 - 1 values, not \(range)")
        let size = UInt32(range.count)
        let threshold = (0 &- size) % size
        while true {
            let product = UInt64(next()) * UInt64(size)
            if UInt32(truncatingIfNeeded: product) >= threshold { return range.lowerBound + Int(product >> 32) }
        }
    }

    /// Standard normal (Box-Muller; the second of each pair is kept for the next call).
    public mutating func normal() -> Float {
        if let value = spare.take() { return value }
        // In (0, 1]: the logarithm is finite.
        let u = (Float(next() >> 8) + 1) * 0x1p-24
        let angle = 2 * Float.pi * (Float(next() >> 8) * 0x1p-24)
        let radius = (-2 * logf(u)).squareRoot()
        spare = radius * sinf(angle)
        return radius * cosf(angle)
    }

    public mutating func normals(_ count: Int) -> [Float] {
        [Float](unsafeUninitializedCapacity: count) { buffer, filled in
            for i in 0..<count { buffer.initializeElement(at: i, to: normal()) }
            filled = count
        }
    }

    /// An order of 0 ..< count, every order equally likely (Fisher-Yates).
    public mutating func permutation(_ count: Int) -> [Int] {
        var order = Array(0..<count)
        for i in order.indices.dropFirst().reversed() { order.swapAt(i, integer(in: 0..<i + 1)) }
        return order
    }

    /// The bijection itself: four words for a counter and a key.
    public static func philox(
        counter: (UInt32, UInt32, UInt32, UInt32), key: (UInt32, UInt32)
    ) -> (UInt32, UInt32, UInt32, UInt32) {
        var result: (UInt32, UInt32, UInt32, UInt32) = (0, 0, 0, 0)
        withUnsafeBytes(of: counter) { counter in
            withUnsafeBytes(of: key) { key in
                withUnsafeMutableBytes(of: &result) { result in
                    ck_philox(
                        counter.assumingMemoryBound(to: UInt32.self).baseAddress, key.assumingMemoryBound(to: UInt32.self).baseAddress,
                        result.assumingMemoryBound(to: UInt32.self).baseAddress)
                }
            }
        }
        return result
    }
}

extension Tensor {
    /// Standard normal elements, in row-major order from `stream`.
    public static func normal(shape: [Int], _ stream: inout RandomStream) -> Tensor {
        Tensor(shape: shape) { buffer in for i in buffer.indices { buffer[i] = stream.normal() } }
    }

    /// Elements uniform in `range`, in row-major order from `stream`.
    public static func uniform(shape: [Int], in range: Range<Float> = 0..<1, _ stream: inout RandomStream) -> Tensor {
        Tensor(shape: shape) { buffer in for i in buffer.indices { buffer[i] = stream.uniform(in: range) } }
    }
}
