import CLibpq

/// The statements that the server keeps for a connection: its names for them, by their text.
struct PreparedStatements {
    private var names: [String: String] = [:]
    private var count = 0

    func name(of sql: String) -> String? { names[sql] }

    /// A name that this connection has not used before.
    mutating func newName() -> String {
        count += 1
        return "foretaste_\(count)"
    }

    mutating func keep(_ sql: String, as name: String) { names[sql] = name }
    mutating func forget(_ sql: String) { names[sql] = nil }
}

extension PostgresConnection {
    /// The same as ``query(_:_:)`` for a statement that comes again and again: the server parses it once for each connection.
    @discardableResult
    package func query(prepared sql: String, _ parameters: [PostgresValue] = []) async throws -> [PostgresRow] {
        do {
            return try await sendPrepared(sql, parameters)
        } catch let error as PostgresError where ["26000", "0A000"].contains(error.sqlState) {
            // Somebody had the server forget it (DISCARD ALL), or changed what it answers. Nothing was done yet.
            preparedStatements.forget(sql)
            guard isReusable else { throw error }
            return try await sendPrepared(sql, parameters)
        }
    }

    private func sendPrepared(_ sql: String, _ parameters: [PostgresValue]) async throws -> [PostgresRow] {
        let results = try await inTurn(cancellable: true) {
            let name: String
            if let known = preparedStatements.name(of: sql) {
                name = known
            } else {
                name = preparedStatements.newName()
                _ = try await exchangeNow { PQsendPrepare($0, name, sql, CInt(parameters.count), nil) }
                preparedStatements.keep(sql, as: name)
            }
            return try await exchangeNow { handle in
                withCStrings(parameters.map(\.text)) { PQsendQueryPrepared(handle, name, CInt(parameters.count), $0, nil, nil, 0) }
            }
        }
        return PostgresAnswer(results.last ?? nil).rows
    }
}

extension PostgresClient {
    /// The same on any connection.
    @discardableResult
    package func query(prepared sql: String, _ parameters: [PostgresValue] = []) async throws -> [PostgresRow] {
        try await withConnection { try await $0.query(prepared: sql, parameters) }
    }
}
