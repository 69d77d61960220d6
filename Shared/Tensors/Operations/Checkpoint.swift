/// `body(inputs)` without keeping what is inside: only the inputs and the result stay in memory, and the backward pass runs the body again.
///
/// The body must compute the same thing twice. Parameters (leaves) that it captures get their gradients as usual; every other variable it uses
/// must come in through `inputs`.
public func checkpointed(_ inputs: [Variable], _ body: @escaping ([Variable]) -> Variable) -> Variable {
    // The body's own graph tells whether a captured parameter requires a gradient; it is let go at once.
    let first = body(inputs.map { Variable($0.tensor, requiresGradient: $0.requiresGradient) })
    guard first.requiresGradient else { return first }
    let tensors = inputs.map(\.tensor)
    return .forced(first.tensor, inputs: inputs.map(\.place)) { gradient, inputs in
        let again = zip(tensors, inputs).map { Variable($0, requiresGradient: $1.requiresGradient) }
        body(again).backward(gradient)
        for (copy, input) in zip(again, inputs) { if let slope = copy.gradient { input.accumulate(slope) } }
    }
}
