import Postgres

extension PostgresClient {
    /// A statement in the caller's transaction, or on any connection when there is none.
    @discardableResult
    func query(_ sql: String, _ parameters: [PostgresValue], on connection: PostgresConnection?) async throws -> [PostgresRow] {
        if let connection { return try await connection.query(sql, parameters) }
        return try await query(sql, parameters)
    }
}
