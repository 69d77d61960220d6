public import Foundation

/// A stored ranking.
public struct StoredRanking: Sendable, Equatable {
    /// Ours, opaque.
    public let id: String
    /// What was posted.
    public let ranking: NewRanking
    /// Where it stands: quarantined when one of its pairs is, else received when one is.
    public let state: PairState
    /// The ids of the pairs that were read from it.
    public let pairs: [String]
    /// Since when snapshots leave it out.
    public let retractedAt: Date?
}

/// A stored rating.
public struct StoredRating: Sendable, Equatable {
    /// Ours, opaque.
    public let id: String
    /// What was posted, with the rating that holds now.
    public let rating: NewRating
    /// Where it stands.
    public let state: PairState
    /// Why it is quarantined.
    public let reason: String?
    /// How often it was corrected, retracted or restored.
    public let revision: Int
    /// Since when snapshots leave it out.
    public let retractedAt: Date?
}

/// Something that was said about a pair or a rating, or done to it.
public struct LabelRevision: Sendable, Equatable {
    /// 0 is what was posted.
    public let number: Int
    /// `posted`, `corrected`, `retracted` or `restored`.
    public let action: String
    /// What it says from here on, as JSON.
    public let label: String
    /// Who.
    public let actor: String
    /// Why; nil for what was posted.
    public let reason: String?
    /// When.
    public let at: Date
}
