import CLibpq

/// What PostgreSQL, or the connection to it, complained about.
public struct PostgresError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The five characters of the error's class and kind, such as `23505`. Trouble with the connection itself is class `08`.
    public var sqlState: String
    /// The primary message, one line.
    public var message: String
    /// The secondary message, if there is one.
    public var detail: String?
    /// What the server suggests.
    public var hint: String?
    /// The violated constraint's name.
    public var constraint: String?
    /// The table that the error is about.
    public var table: String?
    /// The column that the error is about.
    public var column: String?

    /// An error from its parts.
    public init(
        sqlState: String, message: String, detail: String? = nil, hint: String? = nil, constraint: String? = nil, table: String? = nil,
        column: String? = nil
    ) {
        self.sqlState = sqlState
        self.message = message
        self.detail = detail
        self.hint = hint
        self.constraint = constraint
        self.table = table
        self.column = column
    }

    /// A unique key exists already.
    public var isUniqueViolation: Bool { sqlState == "23505" }

    /// The connection could not be made or was lost, the server is going down or coming up. A statement that was under way may or may
    /// not have been carried out.
    public var isConnectionFailure: Bool {
        sqlState.hasPrefix("08") || ["25P03", "57P01", "57P02", "57P03", "57P05", "53300"].contains(sqlState)
    }

    /// The same transaction may well succeed when it is run again: connection trouble, deadlock, serialization failure, lock not
    /// available, statement cancelled, disk full for the moment.
    public var isRetryable: Bool {
        isConnectionFailure || ["40001", "40P01", "53100", "55P03", "57014"].contains(sqlState)
    }

    /// State, message and what else is known, on one line.
    public var description: String {
        var text = "\(message) (SQLSTATE \(sqlState))"
        if let detail { text += "; detail: \(detail)" }
        if let hint { text += "; hint: \(hint)" }
        if let constraint { text += "; constraint: \(constraint)" }
        return text
    }

    static func connectionLost(_ message: String) -> PostgresError {
        PostgresError(sqlState: "08006", message: message.isEmpty ? "the connection to PostgreSQL was lost" : message)
    }

    static func cannotConnect(_ message: String) -> PostgresError {
        PostgresError(sqlState: "08001", message: message)
    }

    /// The error in a result of status `PGRES_FATAL_ERROR`.
    init(result: OpaquePointer) {
        // The field codes are character macros, which Swift does not import.
        func field(_ code: Unicode.Scalar) -> String? {
            PQresultErrorField(result, CInt(code.value)).map { String(cString: $0) }
        }
        let whole = String(cString: PQresultErrorMessage(result)).onOneLine
        let state = field("C") ?? "08006"
        // Of a row that breaks a CHECK or lacks a value the detail is the row itself, which belongs in no log; constraint and column are named.
        let detail = ["23502", "23514"].contains(state) ? nil : field("D")
        self.init(
            sqlState: state, message: field("M") ?? whole, detail: detail, hint: field("H"), constraint: field("n"),
            table: field("t"), column: field("c"))
    }
}

extension String {
    /// libpq's own messages have line breaks and tabs in them; a log's line has none.
    var onOneLine: String { split(whereSeparator: \.isWhitespace).joined(separator: " ") }
}
