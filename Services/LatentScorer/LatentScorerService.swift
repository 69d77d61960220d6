import Access
import Logging
import Postgres
import Preferences
import ServiceKit
import ServiceWiring
import Tensors

/// The scorer put together: routes, the models behind them, and an ear for aliases that move.
enum LatentScorerService {
    static let name = "scorer"

    static func application(_ service: ServiceConfiguration, _ logger: Logger) async throws -> ServiceApplication {
        let configuration = try ScorerConfiguration(service.environment)
        let client = try service.databaseClient(logger: logger)
        logger.info("Computing on", metadata: ["machine": .string(machine)])
        let fetches = FetchNotes(client: client, service: name, logger: logger)
        let fetcher = try service.artifactFetcher(logger: logger) { fetches.add($0) }
        let models = RewardModels(
            registry: ModelRegistry(client: client), fetcher: fetcher, limit: configuration.modelLimit, logger: logger)
        let routes = ScorerRoutes(
            models: models, lane: ScoringLane(waitingLimit: configuration.waitingLimit), fetcher: fetcher, configuration: configuration)

        var application = ServiceApplication(configuration: service, logger: logger)
        // Ready without a model: there is none before the first training, and a request is then told so.
        application.requireTable("registry.model", client: client)
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
