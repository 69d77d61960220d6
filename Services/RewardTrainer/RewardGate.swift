import Foundation

/// Whether a new head becomes champion: it has to be better than the one that is, on the same pairs and the same noise.
enum RewardGate {
    /// What there is to compare with.
    enum Champion: Sendable, Equatable {
        case none
        /// Its mean accuracy on the same held-out pairs.
        case measured(reference: String, accuracy: Double)
        /// It cannot judge these latents.
        case incomparable(reference: String, why: String)
    }

    struct Decision: Sendable, Equatable {
        let promotes: Bool
        let reason: String
    }

    /// - Parameters:
    ///   - accuracy: the new head's mean accuracy over the noise levels.
    ///   - evaluatedOn: which pairs, in words.
    static func decide(accuracy: Double, pairs: Int, evaluatedOn: String, champion: Champion) -> Decision {
        let own = "accuracy \(percent(accuracy)) on \(pairs) \(evaluatedOn)"
        switch champion {
        case .none: return Decision(promotes: true, reason: "the first of its name, \(own)")
        case .incomparable(let reference, let why):
            return Decision(promotes: true, reason: "\(own); \(reference) cannot be compared: \(why)")
        case .measured(let reference, let theirs) where accuracy > theirs:
            return Decision(promotes: true, reason: "\(own), against \(percent(theirs)) of \(reference) on the same pairs")
        case .measured(let reference, let theirs):
            return Decision(promotes: false, reason: "\(own), not better than the \(percent(theirs)) of \(reference) on the same pairs")
        }
    }

    private static func percent(_ value: Double) -> String { String(format: "%.2f %%", 100 * value) }
}
