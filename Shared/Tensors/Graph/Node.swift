/// What the graph keeps of a variable: its place, its shape and its gradient, but not its tensor. So the result of an operation goes away as
/// soon as nobody needs it: neither the caller nor the rule of an operation that was applied to it.
public final class Node {
    public let shape: [Int]
    public let requiresGradient: Bool
    /// The sum of what arrived so far; on leaves only (results give theirs up during `backward()`).
    public internal(set) var gradient: Tensor?

    private var parents: [Node]
    private var rule: Variable.Rule?

    init(shape: [Int], requiresGradient: Bool, parents: [Node] = [], rule: Variable.Rule? = nil) {
        self.shape = shape
        self.requiresGradient = requiresGradient
        self.parents = parents
        self.rule = rule
    }

    /// True for a leaf, and for a result whose graph has been used up.
    var isLeaf: Bool { rule == nil }

    /// Passes this node's gradient on to everything below, using the graph up.
    func propagate() {
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
    private func sorted() -> [Node] {
        var order: [Node] = []
        var seen: Set<ObjectIdentifier> = [ObjectIdentifier(self)]
        var stack: [(node: Node, next: Int)] = [(self, 0)]
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
