public import Logging

/// A pool of connections to one database.
///
/// Nothing here blocks a cooperative thread. Retries are the caller's business: ``PostgresError/isRetryable`` says when one may help.
public final class PostgresClient: Sendable {
    /// Where the database is.
    public let configuration: PostgresConfiguration
    let applicationName: String
    let logger: Logger
    let pool: ConnectionPool
    let listeners = ListenerRegistry()

    /// Makes no connection yet.
    ///
    /// - Parameters:
    ///   - configuration: where the database is.
    ///   - maximumConnections: how many connections the pool has at most. Each ``listen(_:)`` has one more of its own.
    ///   - applicationName: what `pg_stat_activity` shows.
    ///   - logger: for what happens to connections.
    public init(
        configuration: PostgresConfiguration, maximumConnections: Int = 4, applicationName: String = "foretaste",
        logger: Logger = Logger(label: "postgres")
    ) {
        precondition(maximumConnections > 0, "a pool needs a connection")
        self.configuration = configuration
        self.applicationName = applicationName
        self.logger = logger
        pool = ConnectionPool(
            configuration: configuration, maximum: maximumConnections, applicationName: applicationName, logger: logger)
    }

    /// Sends one statement with its parameters (`$1`, `$2` …) on any connection and returns the rows of its answer.
    @discardableResult
    public func query(_ sql: String, _ parameters: [PostgresValue] = []) async throws -> [PostgresRow] {
        try await withConnection { try await $0.query(sql, parameters) }
    }

    /// The same, with the number of rows that an INSERT, UPDATE or DELETE touched.
    public func run(_ sql: String, _ parameters: [PostgresValue] = []) async throws -> PostgresAnswer {
        try await withConnection { try await $0.run(sql, parameters) }
    }

    /// Runs a script of several statements without parameters, in one implicit transaction unless the script says otherwise.
    public func execute(_ script: String) async throws {
        try await withConnection { try await $0.execute(script) }
    }

    /// Lends a connection to `body`. What `body` changes in the session (SET, advisory locks) is its own to undo.
    @discardableResult
    public func withConnection<Result>(
        isolation: isolated (any Actor)? = #isolation, _ body: (PostgresConnection) async throws -> Result
    ) async throws -> Result {
        let connection = try await pool.acquire()
        do {
            let result = try await body(connection)
            await pool.release(connection)
            return result
        } catch {
            await pool.release(connection)
            throw error
        }
    }

    /// Runs `body` in a transaction on a connection of its own. Whatever `body` throws rolls it back, and is thrown on.
    ///
    /// - Parameter options: what stands behind BEGIN, such as `ISOLATION LEVEL SERIALIZABLE`.
    @discardableResult
    public func transaction<Result>(
        _ options: String = "", isolation: isolated (any Actor)? = #isolation, _ body: (PostgresConnection) async throws -> Result
    ) async throws -> Result {
        try await withConnection { try await $0.transaction(options, body) }
    }

    /// Copies rows into a table with COPY, and returns how many the server took. All or nothing.
    @discardableResult
    public func copyIn(
        _ table: String, columns: [String], rows: some Sequence<[PostgresValue]>, isolation: isolated (any Actor)? = #isolation
    ) async throws -> Int {
        try await withConnection { try await $0.copyIn(table, columns: columns, rows: rows) }
    }

    /// Gives up on connections that have owed an answer for so many seconds: whoever waits for it gets a ``PostgresError`` of class `08`.
    ///
    /// For callers who know that no answer can be worth waiting for any more. A peer that went silent behind something that still
    /// acknowledges packets (a proxy, a load balancer) is noticed by nothing else.
    public func hangUp(owingFor seconds: Double) async { await pool.hangUp(owingFor: seconds) }

    /// Closes every connection and ends every ``listen(_:)``. Connections that are lent are closed when they come back.
    public func close() async {
        listeners.cancelAll()
        await pool.close()
    }
}
