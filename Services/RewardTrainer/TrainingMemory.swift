import Rewards
import Synchronization

/// The last training, kept for a while: the next job often reads the same clips (another dimension or loss), and takes its features over.
final class TrainingMemory: Sendable {
    /// How long it is kept; features may take gigabytes.
    private static let patience: Duration = .seconds(60)

    private struct State {
        var training: RewardTraining?
        var uses = 0
    }

    private let state = Mutex(State())

    var last: RewardTraining? { state.withLock { $0.training } }

    func keep(_ training: RewardTraining) {
        let use = state.withLock {
            $0.training = training
            $0.uses += 1
            return $0.uses
        }
        Task {
            try await Task.sleep(for: Self.patience)
            state.withLock { if $0.uses == use { $0.training = nil } }
        }
    }
}
