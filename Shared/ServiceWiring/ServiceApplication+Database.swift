public import JobQueue
public import Logging
public import Postgres
public import ServiceKit

extension ServiceConfiguration {
    /// The service's connections to the database.
    public func databaseClient(maximumConnections: Int = 4, logger: Logger) throws -> PostgresClient {
        PostgresClient(
            configuration: PostgresConfiguration(url: try requireDatabaseURL()), maximumConnections: maximumConnections,
            applicationName: service, logger: logger)
    }
}

extension ServiceApplication {
    /// A service that works off jobs: health over HTTP, and a worker until it ends.
    public init(configuration: ServiceConfiguration, client: PostgresClient, worker: JobWorker, logger: Logger) {
        self.init(configuration: configuration, logger: logger)
        requireTable("queue.job", client: client)
        addTask("jobs") { try await worker.run() }
        onShutdown { await client.close() }
    }

    /// Ready only when the database is there and has the table.
    public func requireTable(_ table: String, client: PostgresClient) {
        addReadinessCheck("database") {
            guard try await client.query("select to_regclass($1) is not null as ready", [.string(table)])[0]["ready"].bool else {
                throw ConfigurationError(variable: "DATABASE_URL", problem: "names a database without our tables; run `foretaste migrate`")
            }
        }
    }
}
