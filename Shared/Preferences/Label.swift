/// Which of two latents a rater preferred.
public enum Outcome: String, Codable, Sendable, CaseIterable {
    case a
    case b
    /// Equally good.
    case tie
    /// Equally bad. It says nothing about which is better, but what a pointwise loss wants to know.
    case bothBad = "both_bad"
    /// Not judged. Kept for the record, and never learnt from.
    case skip
}

/// How many raters said what, where a tool counts them.
public struct Votes: Codable, Sendable, Equatable {
    /// For a.
    public var a: Int
    /// For b.
    public var b: Int
    /// For neither, both being good.
    public var tie: Int
    /// For neither, both being bad.
    public var bothBad: Int

    enum CodingKeys: String, CodingKey {
        case a, b, tie
        case bothBad = "both_bad"
    }

    /// Counts.
    public init(a: Int, b: Int, tie: Int = 0, bothBad: Int = 0) {
        self.a = a
        self.b = b
        self.tie = tie
        self.bothBad = bothBad
    }

    /// What is left out counts nothing.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        a = try values.decodeIfPresent(Int.self, forKey: .a) ?? 0
        b = try values.decodeIfPresent(Int.self, forKey: .b) ?? 0
        tie = try values.decodeIfPresent(Int.self, forKey: .tie) ?? 0
        bothBad = try values.decodeIfPresent(Int.self, forKey: .bothBad) ?? 0
    }

    /// What most of them say: a side that more voted for than for the other and no fewer than for neither; else that neither is better.
    public var outcome: Outcome {
        let neither: Outcome = bothBad > tie ? .bothBad : .tie
        if a == b || max(a, b) < max(tie, bothBad) { return neither }
        return a > b ? .a : .b
    }
}

/// In which order a rater saw the two.
public enum Presentation: String, Codable, Sendable, CaseIterable {
    /// a first, or on the left.
    case ab
    case ba
}

/// What a rater says about a pair.
public struct PairLabel: Codable, Sendable, Equatable {
    /// The verdict.
    public var outcome: Outcome
    /// Counts a side, where the label stands for several raters.
    public var votes: Votes?
    /// The probability that a is preferred; above one half exactly where the outcome is a, below where it is b.
    public var softLabel: Double?
    /// How much better the preferred side is, in the source's own unit.
    public var margin: Double?
    /// 1 slightly, 2 clearly, 3 much better; 0 for a tie: half of a 7-point scale.
    public var strength: Int?
    /// In which order the two were shown.
    public var presentation: Presentation?

    enum CodingKeys: String, CodingKey {
        case outcome, votes, margin, strength, presentation
        case softLabel = "soft_label"
    }

    /// A label from its parts; nothing is checked here.
    public init(
        _ outcome: Outcome, votes: Votes? = nil, softLabel: Double? = nil, margin: Double? = nil, strength: Int? = nil,
        presentation: Presentation? = nil
    ) {
        self.outcome = outcome
        self.votes = votes
        self.softLabel = softLabel
        self.margin = margin
        self.strength = strength
        self.presentation = presentation
    }
}
