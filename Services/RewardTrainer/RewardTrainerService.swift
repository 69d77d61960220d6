import JobQueue
import Logging
import ServiceKit
import ServiceWiring
import Tensors

/// The trainer put together: a worker for two kinds of jobs, one of each at a time, and health over HTTP.
enum RewardTrainerService {
    static let name = "reward-trainer"

    static func application(_ configuration: ServiceConfiguration, _ logger: Logger) async throws -> ServiceApplication {
        let client = try configuration.databaseClient(logger: logger)
        logger.info("Computing on", metadata: ["machine": .string(machine)])
        let inputs = try TrainerInputs(configuration: configuration, client: client, logger: logger)
        let worker = JobWorker(
            client: client, service: name,
            handlers: [
                JobHandler(kind: "train_reward", slot: configuration.slot) { context in
                    try await inputs.recording { try await TrainRewardJob(inputs: inputs, context: context).run() }
                },
                JobHandler(kind: "evaluate_reward") { context in
                    try await inputs.recording { try await EvaluateRewardJob(inputs: inputs, context: context).run() }
                },
            ], version: BuildInformation.version, logger: logger)
        return ServiceApplication(configuration: configuration, client: client, worker: worker, logger: logger)
    }
}
