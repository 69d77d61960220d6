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
    /// Pointwise: the chosen latent is good, the other is bad. Ties say nothing.
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

    /// The loss of one pair and its derivatives by the two scores.
    public func callAsFunction(a: Double, b: Double, outcome: PairOutcome) -> (loss: Double, a: Double, b: Double) {
        switch outcome {
        case .a: return win(winner: a, loser: b)
        case .b:
            let mirrored = win(winner: b, loser: a)
            return (mirrored.loss, mirrored.b, mirrored.a)
        case .tie:
            guard let eta else { return (0, 0, 0) }
            let (gap, d) = (log(eta), a - b)
            let slope = sigmoid(gap + d) - sigmoid(gap - d)
            return (softplus(gap - d) + softplus(gap + d) - log(eta * eta - 1), slope, -slope)
        }
    }

    private func win(winner: Double, loser: Double) -> (loss: Double, a: Double, b: Double) {
        if case .crossEntropy = self {
            return ((softplus(-winner) + softplus(loser)) / 2, (sigmoid(winner) - 1) / 2, sigmoid(loser) / 2)
        }
        let gap = eta.map { log($0) } ?? 0
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
