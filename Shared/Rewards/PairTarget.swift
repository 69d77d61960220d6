/// What raters say together about a comparison, as shares of their voices: what a loss learns towards.
public struct PairTarget: Sendable, Equatable {
    /// The share for a; the four sum to one.
    public let a: Double
    /// The share for b.
    public let b: Double
    /// The share that found both equally good.
    public let tie: Double
    /// The share that found both bad. It says nothing about which is better: only the pointwise loss learns from it.
    public let bothBad: Double
    /// How much better a is, in the raters' unit, negative where b is; 0 where nobody says.
    public let margin: Double

    /// Shares of voices, however many they are.
    /// - Throws: `RewardError` where there is no voice, or a negative one.
    public init(a: Double, b: Double, tie: Double = 0, bothBad: Double = 0, margin: Double = 0) throws {
        let voices = a + b + tie + bothBad
        guard voices > 0, voices.isFinite, margin.isFinite, min(a, b, tie, bothBad) >= 0 else {
            throw RewardError("a comparison has the voices a \(a), b \(b), tie \(tie), both bad \(bothBad) and the margin \(margin)")
        }
        self.init(shares: (a / voices, b / voices, tie / voices, bothBad / voices), margin: margin)
    }

    /// One voice.
    public init(_ outcome: PairOutcome) {
        self.init(shares: (outcome == .a ? 1 : 0, outcome == .b ? 1 : 0, outcome == .tie ? 1 : 0, 0), margin: 0)
    }

    private init(shares: (a: Double, b: Double, tie: Double, bothBad: Double), margin: Double) {
        (a, b, tie, bothBad) = shares
        self.margin = margin
    }

    /// The side that more voices are for: what an accuracy is measured against. Ties and pairs that are both bad are left out of it.
    public var outcome: PairOutcome { a == b ? .tie : a > b ? .a : .b }
}
