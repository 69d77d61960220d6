public import Tensors

/// A head as leaves of a graph, for one thread.
public final class HeadGraph {
    /// The head's values.
    public let head: RewardHead
    /// The leaves, in the order of `head.configuration.parameters`.
    public let parameters: [Variable]
    private let forward: (Variable, Variable) -> Variable

    /// - Parameter requiresGradient: false for a judge, whose parameters get no gradients.
    public init(_ head: RewardHead, requiresGradient: Bool = false) {
        self.head = head
        let leaves = head.tensors.map { Variable($0, requiresGradient: requiresGradient) }
        parameters = leaves
        let configuration = head.configuration
        let byName = Dictionary(uniqueKeysWithValues: zip(configuration.parameters.map(\.name), leaves))
        func linear(_ name: String) -> HeadLinear {
            HeadLinear(weight: byName["\(name).weight"]!, bias: byName["\(name).bias"]!)
        }
        let pooling = QueryPooling(
            query: byName["query"]!, toQ: linear("attention.to_q"), toK: linear("attention.to_k"), toV: linear("attention.to_v"),
            toOut: linear("attention.to_out"), projection: configuration.kind == .prism ? linear("projection") : nil,
            heads: configuration.heads)
        let mlp = (0...configuration.hidden.count).map { linear("mlp.\($0)") }
        switch configuration.kind {
        case .prism:
            let prism = PRISMHead(pooling: pooling, mlp: mlp)
            forward = { visual, text in prism(visual: visual, text: text) }
        case .pavrm:
            let pavrm = PAVRMHead(pooling: pooling, mlp: mlp)
            forward = { visual, _ in pavrm(visual: visual) }
        }
    }

    /// Scores [B] of the trunk's tokens as it gives them.
    /// - Parameters:
    ///   - visual: [B,N,D], the residual stream behind the head's block.
    ///   - text: [B,L,D], behind the text embedder.
    public func callAsFunction(visual: Variable, text: Variable) -> Variable {
        forward(head.normalization.visual(visual), head.normalization.text(text))
    }

    /// The same for tokens that are normalised already.
    func normalized(visual: Variable, text: Variable) -> Variable { forward(visual, text) }
}
