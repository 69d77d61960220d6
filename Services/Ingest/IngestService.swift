import Access
import HTTPTypes
import JobQueue
import Logging
import Postgres
import Preferences
import ServiceKit
import ServiceWiring

/// Ingest put together: the HTTP side, the verification worker, and the search for verifications that got lost.
enum IngestService {
    static let name = "ingest"
    static let summary = "Takes preference pairs over HTTP, verifies their artifacts, and makes them usable or says why not."
    /// How often lost verifications are looked for.
    static let rescueInterval: Duration = .seconds(30)

    static func application(_ service: ServiceConfiguration, _ logger: Logger) async throws -> ServiceApplication {
        let configuration = try IngestConfiguration(service.environment)
        let client = try service.databaseClient(maximumConnections: 8, logger: logger)
        let store = PreferenceStore(client: client)
        let verifier = PairVerifier(
            fetcher: try service.artifactFetcher(logger: logger), registry: ModelRegistry(client: client),
            artifactLimit: configuration.artifactLimit,
            logger: logger)
        let job = VerificationJob(
            store: store, verifier: verifier, fetchLog: ArtifactFetchLog(client: client), configuration: configuration, logger: logger)
        let worker = JobWorker(client: client, service: name, handlers: [job.handler], version: BuildInformation.version, logger: logger)

        var application = ServiceApplication(configuration: service, logger: logger)
        application.requireTable("preferences.pair", client: client)
        let dimensions = DimensionRegistry(client: client)
        let reader = LabelReader(registry: dimensions)
        let changes = Changes(client: client)
        application.addRoutes {
            IngestRoutes(client: client, changes: changes, configuration: configuration, reader: reader).add(to: $0)
            LabelRoutes(store: store, changes: changes, configuration: configuration).add(to: $0)
            DimensionRoutes(registry: dimensions, reader: reader, changes: changes, configuration: configuration).add(to: $0)
            SnapshotRoutes(client: client, changes: changes, configuration: configuration).add(to: $0)
            AuditRoutes(client: client).add(to: $0)
        }
        application.addTask("verification") { try await worker.run() }
        application.addTask("rescue") {
            while true {
                try await Task.sleep(for: rescueInterval)
                do {
                    let lost = try await store.rescueLostVerifications()
                    if lost > 0 { logger.warning("Verifications were lost and queued again", metadata: ["pairs": "\(lost)"]) }
                } catch let error as PostgresError {
                    logger.warning("Lost verifications could not be looked for", metadata: ["error": "\(error)"])
                }
            }
        }
        application.onShutdown { await client.close() }
        try application.requireKeys(client: client) { method, path in
            switch path {
            case "/version": .key
            case "/v1/audit": .scope(.admin)
            default: .scope(method == .get || method == .head ? .read : .ingest)
            }
        }
        return application
    }
}
