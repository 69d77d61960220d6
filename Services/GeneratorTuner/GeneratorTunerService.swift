import Artifacts
import JobQueue
import Logging
import Postgres
import Preferences
import ServiceKit
import Tensors

/// The tuner put together: a worker for two kinds of jobs, one of each at a time, and health over HTTP.
enum GeneratorTunerService {
    static let name = "generator-tuner"

    static func application(_ configuration: ServiceConfiguration, _ logger: Logger) async throws -> ServiceApplication {
        let client = PostgresClient(
            configuration: PostgresConfiguration(url: try configuration.requireDatabaseURL()), maximumConnections: 4, applicationName: name,
            logger: logger)
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

        var application = ServiceApplication(configuration: configuration, logger: logger)
        application.addReadinessCheck("database") {
            guard try await client.query("select to_regclass('queue.job') is not null as ready")[0]["ready"].bool else {
                throw ConfigurationError(variable: "DATABASE_URL", problem: "names a database without our tables; run `foretaste migrate`")
            }
        }
        application.addTask("jobs") { try await worker.run() }
        application.onShutdown { await client.close() }
        return application
    }
}
