/// f(x, others), computed part after part of at most `size` positions of x along `axis`, for an f that treats every position alone: what f makes
/// in between (the wide hidden layer of a feed-forward network) is never there for more than one part at a time, forward and backward, but for
/// what its backward rules keep. Parts follow from the sizes alone, and are as equal as they can be.
///
/// Parameters (leaves) that f captures get their gradients as usual; every other variable that it uses must come in through `others`. A caller
/// that consumes x lets its memory go before the first part is computed.
public func byParts(
    _ x: consuming Variable, axis: Int, size: Int, others: [Variable] = [], _ f: (_ part: Variable, _ others: [Variable]) -> Variable
) -> Variable {
    precondition(size > 0, "byParts: parts of \(size) positions")
    let length = x.shape[axis]
    let parts = (length + size - 1) / size
    guard parts > 1 else { return f(x, others) }
    let even = (length + parts - 1) / parts
    let ranges = stride(from: 0, to: length, by: even).map { $0..<min($0 + even, length) }
    let slices = ranges.map { Variable(x.tensor.sliced(axis: axis, $0), requiresGradient: x.requiresGradient) }
    let places = [x.place] + others.map(\.place)
    _ = consume x
    let copies = others.map { Variable($0.tensor, requiresGradient: $0.requiresGradient) }
    let results = slices.map { f($0, copies) }
    let joined = Tensor.concatenate(results.map(\.tensor), axis: axis)
    guard results.contains(where: \.requiresGradient) else { return Variable(joined) }
    // Of the parts only the graphs are kept.
    var graphs = zip(slices, results).map { (slice: $0.node, result: $1.node) }
    let slopes = copies.map(\.node)
    return .forced(joined, inputs: places) { gradient, inputs in
        for range in ranges {
            // The first each time, so that what a part's graph kept goes with it.
            let (slice, result) = graphs.removeFirst()
            guard let result else { continue }
            result.accumulate(gradient.sliced(axis: axis, range))
            result.propagate()
            if let part = slice?.gradient { inputs[0].accumulate(part, axis: axis, range) }
        }
        for (copy, input) in zip(slopes, inputs.dropFirst()) { if let slope = copy?.gradient { input.accumulate(slope) } }
    }
}
