import CKernels

/// Rotary position embedding: in every head, each pair (2i, 2i+1) of x [B, N, heads*width] is turned by an angle whose cosine and sine are
/// given for position and pair as [N, width/2]. Backward: the turn the other way.
public func rotary(_ x: Variable, cos: Tensor, sin: Tensor, heads: Int) -> Variable {
    let span = Profile.begin("rotary")
    defer { span.end() }
    let (batch, rows, total) = batchRowsWidth(x, "rotary")
    let width = total / heads
    precondition(width * heads == total && width % 2 == 0, "rotary: \(heads) heads of an even width do not make \(total)")
    precondition(
        cos.shape == [rows, width / 2] && sin.shape == cos.shape,
        "rotary: cosines \(cos.shape) and sines \(sin.shape) should be [\(rows), \(width / 2)]")
    let input = x.tensor
    let turn = { (source: Tensor, sign: Float, target: UnsafeMutablePointer<Float>, adds: Bool) in
        forEachBatch(batch, rows, total) { b, start, count in
            let place = (b * rows + start) * total
            ck_rotary(
                source.pointer + place, cos.pointer + start * (width / 2), sin.pointer + start * (width / 2), sign, target + place, count,
                heads,
                width, adds ? 1 : 0)
        }
        withExtendedLifetime((source, cos, sin)) {}
    }
    let result = Tensor(uninitialized: x.shape)
    turn(input, 1, result.mutablePointer, false)
    return .operation(result, inputs: [x]) { gradient, inputs in
        let span = Profile.begin("rotary backward")
        defer { span.end() }
        inputs[0].accumulateInPlace { turn(gradient, -1, $0, $1) }
    }
}
