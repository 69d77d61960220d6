import JobQueue
import Logging
import ServiceKit
import ServiceWiring
import Tensors

/// The tuner put together: a worker for two kinds of jobs, one of each at a time, and health over HTTP.
enum GeneratorTunerService {
    static let name = "generator-tuner"

    static func application(_ configuration: ServiceConfiguration, _ logger: Logger) async throws -> ServiceApplication {
        let client = try configuration.databaseClient(logger: logger)
        logger.info("Computing on", metadata: ["machine": .string(machine)])
        let inputs = try JobInputs(configuration: configuration, client: client, logger: logger)
        let worker = JobWorker(
            client: client, service: name,
            handlers: [
                JobHandler(kind: "tune_generator", slot: configuration.slot) {
                    try await TuneGeneratorJob(inputs: inputs, context: $0).run()
                },
                JobHandler(kind: "generate") { try await GenerateJob(inputs: inputs, context: $0).run() },
            ], version: BuildInformation.version, logger: logger)
        return ServiceApplication(configuration: configuration, client: client, worker: worker, logger: logger)
    }
}
