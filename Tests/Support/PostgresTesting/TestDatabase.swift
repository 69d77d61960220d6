import Foundation
import Glibc
public import Postgres
import Synchronization

/// Databases for tests: one private server a test process, in a temporary place, and a fresh database for every test.
///
/// ```swift
/// try await TestDatabase.with(migrations: BundledMigrations.all()) { database in
///     try await database.client.query("SELECT 1")
/// }
/// ```
public struct TestDatabase: Sendable {
    /// The fresh database's connection URL.
    public let url: String
    /// A pool of eight connections to it.
    public let client: PostgresClient
    /// The database's name.
    public let name: String

    /// Makes a fresh database, migrated by what is given, and drops it when `body` is done.
    public static func with<Result>(
        migrations: [Migration] = [], isolation: isolated (any Actor)? = #isolation, _ body: (TestDatabase) async throws -> Result
    ) async throws -> Result {
        let database = try await make(migrations: migrations)
        do {
            let result = try await body(database)
            try await database.drop()
            return result
        } catch {
            try? await database.drop()
            throw error
        }
    }

    /// Makes a fresh database that lives until ``drop()`` or the end of the process.
    public static func make(migrations: [Migration] = []) async throws -> TestDatabase {
        let server = try await TestServer.shared.url()
        let name = "test_\(getpid())_\(counter.wrappingAdd(1, ordering: .relaxed).newValue)"
        let administrator = PostgresClient(configuration: PostgresConfiguration(url: server), maximumConnections: 1)
        try await administrator.query("CREATE DATABASE \(name)")
        await administrator.close()
        let url = server.replacing("postgresql:///\(EmbeddedPostgres.databaseName)?", with: "postgresql:///\(name)?")
        let client = PostgresClient(configuration: PostgresConfiguration(url: url), maximumConnections: 8, applicationName: "test")
        if !migrations.isEmpty { try await Migrator(migrations).migrate(client) }
        return TestDatabase(url: url, client: client, name: name)
    }

    /// Closes the pool and drops the database with whoever is still connected to it.
    public func drop() async throws {
        await client.close()
        let administrator = PostgresClient(
            configuration: PostgresConfiguration(url: try await TestServer.shared.url()), maximumConnections: 1)
        try await administrator.query("DROP DATABASE IF EXISTS \(name) WITH (FORCE)")
        await administrator.close()
    }

    private static let counter = Atomic<Int>(0)
}

/// The test process's server. It ends with the process; what it leaves is removed by the next test process.
private actor TestServer {
    static let shared = TestServer()
    private var starting: Task<(EmbeddedPostgres, String), any Error>?

    func url() async throws -> String {
        let task =
            starting
            ?? Task {
                let folder = "/tmp/foretaste-test-\(getpid())"
                // Every test has a pool of its own, and many run at once. A database lives for seconds: vacuuming each would only disturb
                // the tests that count statements.
                let server = EmbeddedPostgres(
                    dataDirectory: folder, durability: .testing, settings: ["max_connections": "600", "autovacuum": "off"])
                let url = try await server.start()
                // At exit the server is gone with its parent's death; its files go here.
                atexit { TestServer.cleanUp() }
                return (server, url)
            }
        starting = task
        return try await task.value.1
    }

    /// Runs in `exit`, where nothing can be awaited: an immediate shutdown, then the files go.
    private static func cleanUp() {
        EmbeddedPostgres.destroy(dataDirectory: "/tmp/foretaste-test-\(getpid())")
    }
}
