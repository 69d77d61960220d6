public import Foundation

/// Where a pair is on its way from a labelling tool to a data set.
public enum PairState: String, Codable, Sendable, CaseIterable {
    /// Stored; its artifacts have not been checked yet.
    case received
    /// Both artifacts were fetched and checked; snapshots take it.
    case usable
    /// Something is wrong with it; the reason says what.
    case quarantined
}

/// One side of a pair: where its latent lies, and what its bytes must hash to.
public struct PairSide: Codable, Sendable, Equatable {
    /// `file:`, `http:`, `https:` or `s3:`. May hold a signature in its query: only ``shown`` may be shown.
    public var url: String
    /// 64 lower-case hexadecimal digits.
    public var sha256: String

    /// A side by its artifact.
    public init(url: String, sha256: String) {
        self.url = url
        self.sha256 = sha256
    }

    /// As it may be shown: without the URL's query.
    public var shown: PairSide { PairSide(url: Self.shown(url), sha256: sha256) }

    /// A URL as it may be shown: a presigned one has its signature in the query.
    static func shown(_ url: String) -> String { String(url.prefix { $0 != "?" && $0 != "#" }) }
}

/// A preference as a labelling tool posts it.
public struct NewPair: Codable, Sendable, Equatable {
    /// The tool or project; with `externalID` the pair's natural key.
    public var source: String
    /// The tool's own key within the source.
    public var externalID: String
    /// What both latents were generated from.
    public var prompt: String
    /// What was judged: `overall`, `vq`, `mq`, `ta`, or the project's own.
    public var dimension: String
    /// What the rater says.
    public var label: PairLabel
    /// Who judged, a pseudonym.
    public var rater: String
    /// The first latent.
    public var a: PairSide
    /// The second latent.
    public var b: PairSide

    /// The verdict.
    public var outcome: Outcome { label.outcome }

    /// A pair from its parts; nothing is checked here.
    public init(
        source: String, externalID: String, prompt: String, dimension: String, label: PairLabel, rater: String, a: PairSide, b: PairSide
    ) {
        self.source = source
        self.externalID = externalID
        self.prompt = prompt
        self.dimension = dimension
        self.label = label
        self.rater = rater
        self.a = a
        self.b = b
    }

    /// A pair whose label is an outcome alone.
    public init(
        source: String, externalID: String, prompt: String, dimension: String, outcome: Outcome, rater: String, a: PairSide, b: PairSide
    ) {
        self.init(
            source: source, externalID: externalID, prompt: prompt, dimension: dimension, label: PairLabel(outcome), rater: rater, a: a,
            b: b)
    }

    enum CodingKeys: String, CodingKey {
        case source
        case externalID = "external_id"
        case prompt, dimension, rater, a, b
    }

    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        source = try values.decode(String.self, forKey: .source)
        externalID = try values.decode(String.self, forKey: .externalID)
        prompt = try values.decode(String.self, forKey: .prompt)
        dimension = try values.decode(String.self, forKey: .dimension)
        rater = try values.decode(String.self, forKey: .rater)
        a = try values.decode(PairSide.self, forKey: .a)
        b = try values.decode(PairSide.self, forKey: .b)
        // The label's fields stand beside the others.
        label = try PairLabel(from: decoder)
    }

    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(source, forKey: .source)
        try values.encode(externalID, forKey: .externalID)
        try values.encode(prompt, forKey: .prompt)
        try values.encode(dimension, forKey: .dimension)
        try values.encode(rater, forKey: .rater)
        try values.encode(a, forKey: .a)
        try values.encode(b, forKey: .b)
        try label.encode(to: encoder)
    }
}

/// A stored preference.
public struct PreferencePair: Sendable, Equatable {
    /// Ours, opaque.
    public let id: String
    /// What was posted, with the label that holds now.
    public let pair: NewPair
    /// Where it stands.
    public let state: PairState
    /// Why it is quarantined.
    public let reason: String?
    /// The backbone that its latents' metadata name; known once it is usable.
    public let backbone: String?
    /// The latents' shape, `[C,F,H,W]` or `[C,H,W]`; empty until it is usable.
    public let shape: [Int]
    /// When it was posted first.
    public let receivedAt: Date
    /// The ranking that it was read from.
    public let rankingID: String?
    /// How often it was corrected, retracted or restored.
    public let revision: Int
    /// Since when snapshots leave it out.
    public let retractedAt: Date?
}

/// What became of a posted pair.
public enum PostResult: Sendable, Equatable {
    /// It is new.
    case created(id: String)
    /// The same was posted before.
    case replayed(id: String, state: PairState)
    /// Its key is taken by a label with another content; the JSON Pointers of the fields that differ.
    case conflict(id: String, pointers: [String])

    /// The id of what is new.
    var createdID: String? { if case .created(let id) = self { id } else { nil } }
}

/// How many pairs, or ratings, are in each state.
public struct PairSummary: Codable, Sendable, Equatable {
    /// Posted and not yet checked.
    public var received: Int
    /// Ready for data sets.
    public var usable: Int
    /// Refused by verification.
    public var quarantined: Int

    /// Counts.
    public init(received: Int = 0, usable: Int = 0, quarantined: Int = 0) {
        self.received = received
        self.usable = usable
        self.quarantined = quarantined
    }
}

/// A page of a listing.
public struct LabelPage<Item: Sendable>: Sendable {
    /// The labels, oldest first.
    public let items: [Item]
    /// The cursor of the next page; nil at the end.
    public let next: String?
}

/// A page of pairs.
public typealias PairPage = LabelPage<PreferencePair>

/// Which of a page's labels are wanted: those that fit all that is said.
public struct LabelFilter: Sendable, Equatable {
    /// Where they stand.
    public var state: PairState?
    /// What they judge.
    public var dimension: String?
    /// The tool that they are from.
    public var source: String?

    /// All labels, but for what is said.
    public init(state: PairState? = nil, dimension: String? = nil, source: String? = nil) {
        self.state = state
        self.dimension = dimension
        self.source = source
    }
}

/// What verification learnt from a usable pair's artifacts.
public struct PairDescriptor: Codable, Sendable, Equatable {
    /// `backbone` of the metadata, as written there.
    public var backbone: String
    /// `vae` of the metadata.
    public var vae: String
    /// `CFHW` or `CHW`.
    public var layout: String
    /// `flow`, `vp_eps` or `vp_v`.
    public var noiseKind: String
    /// The latents' shape.
    public var shape: [Int]
    /// Shapes of the other tensors, by name.
    public var tensors: [String: [Int]]

    /// A descriptor from its parts.
    public init(backbone: String, vae: String, layout: String, noiseKind: String, shape: [Int], tensors: [String: [Int]]) {
        self.backbone = backbone
        self.vae = vae
        self.layout = layout
        self.noiseKind = noiseKind
        self.shape = shape
        self.tensors = tensors
    }
}

/// What verification found out about one pair.
public struct PairVerdict: Sendable, Equatable {
    /// The pair.
    public let id: String
    /// What its artifacts are, when it is usable.
    public let descriptor: PairDescriptor?
    /// Why it is not, when it is not.
    public let reason: String?

    /// The pair may be used.
    public static func usable(_ id: String, _ descriptor: PairDescriptor) -> PairVerdict {
        PairVerdict(id: id, descriptor: descriptor, reason: nil)
    }

    /// The pair may not be used.
    public static func quarantined(_ id: String, _ reason: String) -> PairVerdict {
        PairVerdict(id: id, descriptor: nil, reason: reason)
    }
}
