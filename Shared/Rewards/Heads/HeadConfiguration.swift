/// The two papers' heads.
public enum HeadKind: String, Sendable, Codable, CaseIterable {
    /// Visual and text tokens projected to one width, learned queries attend over both, MLP (arXiv 2606.20310).
    case prism
    /// One learned query attends over visual tokens, its value is added back, MLP (arXiv 2511.21541).
    case pavrm
}

/// The shape of a head.
public struct HeadConfiguration: Sendable, Equatable, Codable {
    public var kind: HeadKind
    /// Width D of the trunk's tokens.
    public var featureWidth: Int
    /// Width W inside the head; PAVRM's is the trunk's.
    public var width: Int
    /// Learned queries.
    public var queries: Int
    /// Attention heads; they divide the width.
    public var heads: Int
    /// Widths between the pooled vector and the scalar.
    public var hidden: [Int]

    enum CodingKeys: String, CodingKey {
        case kind, width, queries, heads, hidden
        case featureWidth = "feature_width"
    }

    /// PRISM: width 1536 at most and the trunk's where that is narrower, one query, a five-layer MLP.
    public static func prism(featureWidth: Int, width: Int? = nil, queries: Int = 1, heads: Int? = nil) -> HeadConfiguration {
        let width = width ?? min(featureWidth, 1536)
        return HeadConfiguration(
            kind: .prism, featureWidth: featureWidth, width: width, queries: queries,
            heads: heads ?? divisor(of: width, atMost: width / 32),
            hidden: [width, width / 2, width / 4, width / 8].map { max($0, 4) })
    }

    /// PAVRM: the trunk's width, one query, eight heads, D → 1024 → 512 → 1, narrower for narrow trunks.
    public static func pavrm(featureWidth: Int) -> HeadConfiguration {
        HeadConfiguration(
            kind: .pavrm, featureWidth: featureWidth, width: featureWidth, queries: 1, heads: divisor(of: featureWidth, atMost: 8),
            hidden: [min(1024, featureWidth), min(512, max(featureWidth / 2, 4))])
    }

    /// The head of a kind for a trunk, with the papers' sizes.
    public static func standard(_ kind: HeadKind, featureWidth: Int) -> HeadConfiguration {
        kind == .prism ? prism(featureWidth: featureWidth) : pavrm(featureWidth: featureWidth)
    }

    private static func divisor(of width: Int, atMost limit: Int) -> Int {
        (1...max(1, min(limit, 16))).last { width % $0 == 0 } ?? 1
    }

    /// - Throws: `RewardError` naming the member that makes no sense.
    public func validate() throws {
        func require(_ condition: Bool, _ what: String) throws {
            guard condition else { throw RewardError("head: \(what)") }
        }
        for (name, value) in [("feature_width", featureWidth), ("width", width), ("queries", queries), ("heads", heads)] {
            try require((1...1 << 20).contains(value), "\(name) is \(value), expected at least 1")
        }
        try require(width % heads == 0, "heads (\(heads)) must divide width (\(width))")
        try require(!hidden.isEmpty && hidden.count <= 32 && hidden.allSatisfy { (1...1 << 20).contains($0) }, "hidden is \(hidden)")
        guard kind == .pavrm else { return }
        try require(width == featureWidth, "pavrm's width is the trunk's, \(featureWidth), not \(width)")
        try require(queries == 1, "pavrm has one query, not \(queries)")
    }

    /// Names and shapes of the parameters, in their fixed order.
    public var parameters: [(name: String, shape: [Int])] {
        var list: [(String, [Int])] = [("query", [queries, width])]
        func linear(_ name: String, _ input: Int, _ output: Int) {
            list += [("\(name).weight", [output, input]), ("\(name).bias", [output])]
        }
        if kind == .prism { linear("projection", featureWidth, width) }
        for name in ["to_q", "to_k", "to_v", "to_out"] { linear("attention.\(name)", width, width) }
        var input = queries * width
        for (index, output) in (hidden + [1]).enumerated() {
            linear("mlp.\(index)", input, output)
            input = output
        }
        return list
    }
}
