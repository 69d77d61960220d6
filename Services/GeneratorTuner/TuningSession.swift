import Alignment
import Backbones
import Safetensors
import Synchronization
import Tensors

/// A tuner that travels between numeric threads, one at a time: the job awaits each stretch before it asks for the next.
final class TuningSession: Sendable {
    private let tuner: Mutex<Box>

    /// The tuner is not Sendable, because its graph belongs to one thread; inside the mutex only one thread at a time can reach it.
    private struct Box: @unchecked Sendable {  // guarded by `tuner`, and never handed out
        let tuner: LatentTuner
    }

    /// - Parameter state: what ``state()`` gave before; nil starts from the base.
    init(
        generator: WanWeights, data: TuningData, judge: LatentJudgeMaker?, configuration: TuningConfiguration, state: [UInt8]?
    ) throws {
        let made =
            if let state {
                try LatentTuner(
                    generator: generator, data: data, judge: judge, configuration: configuration, resuming: SafetensorsFile(data: state))
            } else {
                try LatentTuner(generator: generator, data: data, judge: judge, configuration: configuration)
            }
        tuner = Mutex(Box(tuner: made))
    }

    var iteration: Int { tuner.withLock { $0.tuner.iteration } }
    var adapter: LoRAWeights { tuner.withLock { $0.tuner.adapter } }
    var records: [TuningRecord] { tuner.withLock { $0.tuner.records } }

    /// Iterates up to `target`, or until `more` says no. Blocks: call it on a numeric thread.
    func advance(to target: Int, _ more: (TuningRecord) -> Bool) throws {
        try tuner.withLock { box in
            while box.tuner.iteration < target {
                let record = try box.tuner.advance()
                if !more(record) { return }
            }
        }
    }

    /// The whole state, for a checkpoint.
    func state() -> [UInt8] { tuner.withLock { $0.tuner.stateData } }
}
