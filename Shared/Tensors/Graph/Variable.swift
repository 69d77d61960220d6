/// A node of the reverse-mode graph: a tensor, and how to pass a gradient on to the tensors it was made from.
///
/// Not Sendable: a graph belongs to one thread. To compute on several threads, make leaves on each over the same tensors
/// (`Variable(master.tensor, requiresGradient: true)`, a struct copy that shares memory), and hand their gradients (tensors are Sendable) back.
/// An optimizer step changes the master's tensor in place when nobody else holds it, else it copies; replicas keep the values they were made
/// with, so make replicas anew for each step and let them go before the optimizer runs.
public final class Variable {
    public var tensor: Tensor
    /// None where no gradient is required.
    let node: Node?

    /// Adds to the parents' gradients (`accumulate`), given the gradient of this node. Parents are the inputs of the operation, in order.
    public typealias Rule = (_ gradient: Tensor, _ parents: [Node]) -> Void

    /// A leaf.
    public init(_ tensor: Tensor, requiresGradient: Bool = false) {
        self.tensor = tensor
        node = requiresGradient ? Node(shape: tensor.shape, requiresGradient: true) : nil
    }

    private init(result tensor: Tensor, parents: [Node], rule: @escaping Rule) {
        self.tensor = tensor
        node = Node(shape: tensor.shape, requiresGradient: true, parents: parents, rule: rule)
    }

    /// This variable's place in a graph: what an operation needs of an input whose values no rule reads.
    var place: Node { node ?? Node(shape: tensor.shape, requiresGradient: false) }

    /// The result of an operation over `inputs`. The rule is kept only if some input requires a gradient, and should compute gradients only for
    /// those that do; it captures the tensors that it needs, and no others: an input's tensor is not kept for it.
    public static func operation(_ tensor: Tensor, inputs: [Variable], backward rule: @escaping Rule) -> Variable {
        guard inputs.contains(where: \.requiresGradient) else { return Variable(tensor) }
        return Variable(result: tensor, parents: inputs.map(\.place), rule: rule)
    }

    /// A result that requires a gradient although perhaps none of its inputs does (what it captures does).
    static func forced(_ tensor: Tensor, inputs: [Node], backward rule: @escaping Rule) -> Variable {
        Variable(result: tensor, parents: inputs, rule: rule)
    }

    public var requiresGradient: Bool { node != nil }
    public var shape: [Int] { tensor.shape }
    /// True for a leaf: a parameter, an input, a constant, or a result whose graph has been used up.
    public var isLeaf: Bool { node?.isLeaf ?? true }

    /// The sum of the gradients of all `backward()` calls so far; on leaves only (results give theirs up during `backward()`). Setting it does
    /// nothing where no gradient is required.
    public var gradient: Tensor? {
        get { node?.gradient }
        set { node?.gradient = newValue }
    }

    /// A constant with the same tensor: gradients stop here.
    public func detached() -> Variable { Variable(tensor) }

    /// Computes the gradients of all leaves below, adding to what they hold. `cotangent` is the gradient of this node, of its shape; nil only
    /// for a one-element result, where it is 1. The graph is used up: a second call through the same nodes is a programming error.
    public func backward(_ cotangent: Tensor? = nil) {
        guard let node else { preconditionFailure("backward() of a result that depends on nothing that requires a gradient") }
        if let cotangent {
            precondition(cotangent.shape == shape, "backward(): a cotangent of shape \(cotangent.shape) for a result of shape \(shape)")
        } else {
            precondition(tensor.count == 1, "backward() without a cotangent needs a one-element result, not shape \(shape)")
        }
        node.accumulate(cotangent ?? Tensor(full: 1, shape: shape))
        node.propagate()
    }
}
