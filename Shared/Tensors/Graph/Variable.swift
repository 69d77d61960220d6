/// A node of the reverse-mode graph: a tensor, and how to pass a gradient on to the tensors it was made from.
///
/// Not Sendable: a graph belongs to one thread. To compute on several threads, make leaves on each over the same tensors
/// (`Variable(master.tensor, requiresGradient: true)`, a struct copy that shares memory), and hand their gradients (tensors are Sendable) back.
/// An optimizer step changes the master's tensor in place when nobody else holds it, else it copies; replicas keep the values they were made
/// with, so make replicas anew for each step and let them go before the optimizer runs.
public final class Variable {
    public var tensor: Tensor
    public let requiresGradient: Bool
    /// The sum of the gradients of all `backward()` calls so far; on leaves only (results give theirs up during `backward()`).
    public var gradient: Tensor?

    private var parents: [Variable] = []
    private var rule: Rule?

    /// Adds to the parents' gradients (`accumulate`), given the gradient of this node.
    public typealias Rule = (_ gradient: Tensor, _ parents: [Variable]) -> Void

    /// A leaf.
    public init(_ tensor: Tensor, requiresGradient: Bool = false) {
        self.tensor = tensor
        self.requiresGradient = requiresGradient
    }

    private init(result tensor: Tensor, parents: [Variable], rule: @escaping Rule) {
        self.tensor = tensor
        self.requiresGradient = true
        self.parents = parents
        self.rule = rule
    }

    /// The result of an operation over `inputs`. The rule is kept only if some input requires a gradient, and should compute gradients only for
    /// those that do; it must capture tensors, not variables (it gets the inputs again).
    public static func operation(_ tensor: Tensor, inputs: [Variable], backward rule: @escaping Rule) -> Variable {
        guard inputs.contains(where: \.requiresGradient) else { return Variable(tensor) }
        return Variable(result: tensor, parents: inputs, rule: rule)
    }

    /// A result that requires a gradient although perhaps none of its inputs does (what it captures does).
    static func forced(_ tensor: Tensor, inputs: [Variable], backward rule: @escaping Rule) -> Variable {
        Variable(result: tensor, parents: inputs, rule: rule)
    }

    public var shape: [Int] { tensor.shape }
    /// True for a leaf: a parameter, an input, a constant, or a result whose graph has been used up.
    public var isLeaf: Bool { rule == nil }

    /// A constant with the same tensor: gradients stop here.
    public func detached() -> Variable { Variable(tensor) }

    /// Computes the gradients of all leaves below, adding to what they hold. `cotangent` is the gradient of this node, of its shape; nil only
    /// for a one-element result, where it is 1. The graph is used up: a second call through the same nodes is a programming error.
    public func backward(_ cotangent: Tensor? = nil) {
        precondition(requiresGradient, "backward() of a result that depends on nothing that requires a gradient")
        if let cotangent {
            precondition(cotangent.shape == shape, "backward(): a cotangent of shape \(cotangent.shape) for a result of shape \(shape)")
        } else {
            precondition(tensor.count == 1, "backward() without a cotangent needs a one-element result, not shape \(shape)")
        }
        accumulate(cotangent ?? Tensor(full: 1, shape: shape))
        var order = sorted()
        while let node = order.popLast() {
            guard let rule = node.rule else { continue }
            let parents = node.parents
            node.rule = nil
            node.parents = []
            // Nothing reached it: the gradient is zero, and so is everything it would add.
            guard let gradient = node.gradient.take() else { continue }
            rule(gradient, parents)
        }
    }

    /// Results below this node in an order in which every node comes after its parents; iterative, since graphs grow thousands of nodes deep.
    private func sorted() -> [Variable] {
        var order: [Variable] = []
        var seen: Set<ObjectIdentifier> = [ObjectIdentifier(self)]
        var stack: [(node: Variable, next: Int)] = [(self, 0)]
        while let (node, next) = stack.last {
            if next < node.parents.count {
                stack[stack.count - 1].next += 1
                let parent = node.parents[next]
                if parent.requiresGradient, parent.rule != nil, seen.insert(ObjectIdentifier(parent)).inserted { stack.append((parent, 0)) }
            } else {
                stack.removeLast()
                order.append(node)
            }
        }
        return order
    }

    // Dropping a deep graph that was never run backward must not recurse once a node.
    deinit {
        guard !parents.isEmpty else { return }
        var orphans = parents
        parents = []
        while var node = orphans.popLast() {
            if isKnownUniquelyReferenced(&node) {
                orphans.append(contentsOf: node.parents)
                node.parents = []
            }
        }
    }
}
