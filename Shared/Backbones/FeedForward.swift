import Tensors

/// `body` over tokens x [B,N,D], for a feed-forward network (with its norm and its residual) whose hidden layer is `hidden` wide; variables that
/// it uses beside x and its parameters are `others` (see `byParts`).
///
/// The hidden layer is several times as wide as the stream, and for a long video the largest tensor there is: beyond 128 MiB it is computed for
/// some tokens after the others, in parts of 64 MiB, which are rows enough for matrix products to run at full speed.
func feedForward(
    _ x: consuming Variable, hidden: Int, others: [Variable], _ body: (_ x: Variable, _ others: [Variable]) -> Variable
) -> Variable {
    let values = max(1, x.shape[0] * hidden)
    let tokens = max(1, x.shape[1])
    let size = tokens * values <= 32 << 20 ? tokens : max(1, (16 << 20) / values)
    return byParts(consume x, axis: 1, size: size, others: others, body)
}
