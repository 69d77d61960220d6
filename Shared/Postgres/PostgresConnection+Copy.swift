import CLibpq
import Glibc

extension PostgresConnection {
    /// Copies rows into a table with COPY in text format, and returns how many the server took. All or nothing.
    ///
    /// - Parameters:
    ///   - table: the table's name as it stands in SQL, schema and quotes included.
    ///   - columns: the columns' names as they stand in SQL, in the order of the values of a row.
    ///   - rows: one array of values a row.
    @discardableResult
    public func copyIn(
        _ table: String, columns: [String], rows: some Sequence<[PostgresValue]>, isolation: isolated (any Actor)? = #isolation
    ) async throws -> Int {
        // Encoded on the caller's thread: the loop serves every other connection meanwhile.
        var chunks: [[UInt8]] = []
        var chunk: [UInt8] = []
        for row in rows {
            guard row.count == columns.count else {
                throw PostgresError(sqlState: "22023", message: "a row of \(row.count) values for \(columns.count) columns of \(table)")
            }
            appendCopyLine(row, to: &chunk)
            if chunk.count >= 1 << 16 {
                chunks.append(chunk)
                chunk.removeAll(keepingCapacity: true)
            }
        }
        chunks.append(chunk)
        return try await copy("COPY \(table) (\(columns.joined(separator: ", "))) FROM STDIN", chunks)
    }

    func copy(_ sql: String, _ chunks: [[UInt8]]) async throws -> Int {
        try await inTurn(cancellable: true) {
            guard let handle, isUsable else { throw PostgresError.connectionLost("") }
            guard PQsendQuery(handle, sql) == 1 else { throw currentError() }
            try await flush()
            _ = try await results()
            for chunk in chunks where !chunk.isEmpty {
                if Task.isCancelled { break }
                let state = chunk.withUnsafeBytes { PQputCopyData(handle, $0.baseAddress, CInt($0.count)) }
                guard state == 1 else { break }
                try await flush()
            }
            PQputCopyEnd(handle, Task.isCancelled ? "cancelled" : nil)
            try await flush()
            do {
                return PostgresAnswer(try await results().last ?? nil).rowCount
            } catch {
                try Task.checkCancellation()
                throw error
            }
        }
    }
}

/// A row in COPY's text format.
func appendCopyLine(_ row: [PostgresValue], to bytes: inout [UInt8]) {
    for (index, value) in row.enumerated() {
        if index > 0 { bytes.append(UInt8(ascii: "\t")) }
        guard let text = value.text else {
            bytes.append(contentsOf: "\\N".utf8)
            continue
        }
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\\"): bytes.append(contentsOf: "\\\\".utf8)
            case UInt8(ascii: "\t"): bytes.append(contentsOf: "\\t".utf8)
            case UInt8(ascii: "\n"): bytes.append(contentsOf: "\\n".utf8)
            case UInt8(ascii: "\r"): bytes.append(contentsOf: "\\r".utf8)
            default: bytes.append(byte)
            }
        }
    }
    bytes.append(UInt8(ascii: "\n"))
}
