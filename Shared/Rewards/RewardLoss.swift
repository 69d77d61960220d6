import Foundation

/// How a comparison of two latents ended.
public enum PairOutcome: Int, Sendable, Codable, CaseIterable {
    case a
    case b
    case tie
}

/// What a head learns from a pair's two scores.
///
/// Written with the stable softplus; probabilities of the Rao-Kupper form sum to one for any difference (methods-video §2.3, where the
/// paper's printed A-wins branch has its eta on the wrong term).
public enum RewardLoss: Sendable, Equatable {
    /// Pointwise: the chosen latent is good, the other is bad, and where both are bad both are. Ties say nothing; ratings are learnt as they are.
    case crossEntropy
    /// −log σ(chosen − rejected). Ties say nothing.
    case bradleyTerry
    /// Bradley-Terry with ties: eta ≥ 1 is how much better a latent must be to win half of its comparisons.
    case raoKupper(eta: Double)

    /// The published threshold.
    public static let defaultEta = 5.0

    /// `bce`, `bradley-terry` or `rao-kupper`.
    public init?(name: String, eta: Double = defaultEta) {
        switch name {
        case "bce": self = .crossEntropy
        case "bradley-terry": self = .bradleyTerry
        case "rao-kupper": self = .raoKupper(eta: eta)
        default: return nil
        }
    }

    /// The name in settings and files.
    public var name: String {
        switch self {
        case .crossEntropy: "bce"
        case .bradleyTerry: "bradley-terry"
        case .raoKupper: "rao-kupper"
        }
    }

    /// The tie threshold; nil for a loss that knows no ties.
    public var eta: Double? {
        if case .raoKupper(let eta) = self { eta } else { nil }
    }

    /// Whether a tie teaches this loss anything.
    public var learnsFromTies: Bool { eta != nil }

    /// Whether it judges each latent by itself: ratings are then learnt as they are, and not as pairs.
    public var isPointwise: Bool { self == .crossEntropy }

    /// Whether it learns anything from such voices.
    public func learns(from target: PairTarget) -> Bool {
        target.a > 0 || target.b > 0 || (target.tie > 0 && learnsFromTies) || (target.bothBad > 0 && isPointwise)
    }

    /// The loss of one pair and its derivatives by the two scores.
    public func callAsFunction(a: Double, b: Double, outcome: PairOutcome) -> (loss: Double, a: Double, b: Double) {
        self(a: a, b: b, target: PairTarget(outcome))
    }

    /// The cross entropy between what raters say and what the scores give, voice by voice: lowest where the model's chances of a and b
    /// are as the voices'. Voices that this loss has no word for (ties; both bad) count nothing, and the others keep their share.
    ///
    /// - Parameter margin: score units that the preferred side must lead by for each unit of the raters' margin; the pointwise loss has no
    ///   place for it.
    public func callAsFunction(a: Double, b: Double, target: PairTarget, margin: Double = 0) -> (loss: Double, a: Double, b: Double) {
        var sum = (loss: 0.0, a: 0.0, b: 0.0)
        func add(_ share: Double, _ term: (loss: Double, a: Double, b: Double)) {
            guard share > 0 else { return }
            sum = (sum.loss + share * term.loss, sum.a + share * term.a, sum.b + share * term.b)
        }
        let lead = margin * target.margin
        add(target.a, win(winner: a, loser: b, lead: max(lead, 0)))
        let mirrored = win(winner: b, loser: a, lead: max(-lead, 0))
        add(target.b, (mirrored.loss, mirrored.b, mirrored.a))
        if let eta {
            let (gap, d) = (log(eta), a - b)
            let slope = sigmoid(gap + d) - sigmoid(gap - d)
            add(target.tie, (softplus(gap - d) + softplus(gap + d) - log(eta * eta - 1), slope, -slope))
        }
        if isPointwise { add(target.bothBad, ((softplus(a) + softplus(b)) / 2, sigmoid(a) / 2, sigmoid(b) / 2)) }
        return sum
    }

    /// The pointwise loss of a latent that was judged by itself, and its derivative by the score.
    /// - Parameter good: from 0, bad, to 1, good.
    public func callAsFunction(score: Double, good: Double) -> (loss: Double, slope: Double) {
        (good * softplus(-score) + (1 - good) * softplus(score), sigmoid(score) - good)
    }

    private func win(winner: Double, loser: Double, lead: Double) -> (loss: Double, a: Double, b: Double) {
        if case .crossEntropy = self {
            return ((softplus(-winner) + softplus(loser)) / 2, (sigmoid(winner) - 1) / 2, sigmoid(loser) / 2)
        }
        let gap = (eta.map { log($0) } ?? 0) + lead
        let slope = -sigmoid(gap - (winner - loser))
        return (softplus(gap - (winner - loser)), slope, -slope)
    }

    /// What the loss takes the chances of a comparison to be, by the difference of the scores; they sum to one.
    public func probabilities(difference d: Double) -> (a: Double, b: Double, tie: Double) {
        let gap = eta.map { log($0) } ?? 0
        let (a, b) = (sigmoid(d - gap), sigmoid(-d - gap))
        return (a, b, eta.map { ($0 * $0 - 1) * a * b } ?? 0)
    }
}

/// log(1 + eˣ) without overflow.
func softplus(_ x: Double) -> Double { max(x, 0) + log1p(exp(-abs(x))) }

/// 1 / (1 + e⁻ˣ) without overflow.
func sigmoid(_ x: Double) -> Double { x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)) }
