import Access
import Artifacts
import Logging
import Postgres
import Preferences
import ServiceKit
import Tensors

/// The scorer put together: routes, the models behind them, and an ear for aliases that move.
enum LatentScorerService {
    static let name = "scorer"

    static func application(_ service: ServiceConfiguration, _ logger: Logger) async throws -> ServiceApplication {
        let configuration = try ScorerConfiguration(service.environment)
        let client = PostgresClient(
            configuration: PostgresConfiguration(url: try service.requireDatabaseURL()), maximumConnections: 4, applicationName: name,
            logger: logger)
        logger.info("Computing on", metadata: ["machine": .string(machine)])
        let fetches = FetchNotes(log: ArtifactFetchLog(client: client), logger: logger)
        let fetcher: ArtifactFetcher
        do {
            fetcher = try ArtifactFetcher(
                allow: service.artifactsAllow + [service.artifactsStore].filter { !$0.hasPrefix("file:") },
                fileRoots: service.artifactsFileRoots, cache: service.artifactsCache, cacheLimit: service.artifactsCacheLimit,
                maximumBytes: service.artifactsMaximumBytes, deadlineSeconds: service.artifactsDeadlineSeconds,
                s3: S3Configuration(environment: service.environment.variables), logger: logger, onFetch: { fetches.add($0) })
        } catch let error as ArtifactError {
            throw ConfigurationError(variable: "FORETASTE_ARTIFACTS_ALLOW", problem: "cannot be used: \(error)")
        }
        let models = RewardModels(
            registry: ModelRegistry(client: client), fetcher: fetcher, folders: service.artifactsCache + "/folders",
            limit: configuration.modelLimit, logger: logger)
        let routes = ScorerRoutes(
            models: models, lane: ScoringLane(waitingLimit: configuration.waitingLimit), fetcher: fetcher, configuration: configuration)

        var application = ServiceApplication(configuration: service, logger: logger)
        // Ready without a model: there is none before the first training, and a request is then told so.
        application.addReadinessCheck("database") {
            guard try await client.query("select to_regclass('registry.model') is not null as ready")[0]["ready"].bool else {
                throw ConfigurationError(variable: "DATABASE_URL", problem: "names a database without our tables; run `foretaste migrate`")
            }
        }
        application.addRoutes { routes.add(to: $0) }
        application.addTask("aliases") {
            // The first marker comes when we listen for the first time: that is when the champion is loaded ahead of the first request.
            for await _ in client.listen([ModelRegistry.channel]) { await models.refresh() }
            try Task.checkCancellation()
        }
        application.addTask("fetches") { try await fetches.run() }
        application.onShutdown { await client.close() }
        try application.requireKeys(client: client) { _, path in path == "/version" ? .key : .scope(.score) }
        return application
    }
}
