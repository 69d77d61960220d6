/// Rows for ``PostgresConnection/copyIn(_:_:)``, in COPY's binary format. Fields are written once, in the order of the columns: nothing is
/// escaped, and no value is made for a field first.
///
/// The format has no types of its own: each field must be appended as what its column is.
public struct CopyRows: Sendable {
    /// From which size on a piece goes to the server.
    private static let piece = 1 << 16

    /// The columns' names as they stand in SQL.
    public let columns: [String]
    /// How many rows there are.
    public private(set) var count = 0
    private var full: [[UInt8]] = []
    private var bytes: [UInt8] = []
    private var missing = 0

    /// No rows yet.
    public init(columns: [String]) {
        self.columns = columns
        bytes.reserveCapacity(Self.piece + 4096)
        // The signature, no flags, no extension.
        bytes += Array("PGCOPY\n".utf8) + [0xff, 0x0d, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    /// Begins the next row; a value for each column follows.
    public mutating func beginRow() {
        endRow()
        if bytes.count >= Self.piece {
            full.append(bytes)
            bytes.removeAll(keepingCapacity: true)
        }
        count += 1
        missing = columns.count
        append(raw: Int16(columns.count))
    }

    /// A `text`; nil is NULL.
    public mutating func append(_ text: String?) {
        guard var text else { return appendNull() }
        text.withUTF8 { buffer in
            begin(buffer.count)
            bytes.append(contentsOf: buffer)
        }
    }

    /// A `jsonb`, as JSON text; nil is NULL.
    public mutating func append(json text: String?) {
        guard var text else { return appendNull() }
        text.withUTF8 { buffer in
            begin(buffer.count + 1)
            // The version of jsonb's own format.
            bytes.append(1)
            bytes.append(contentsOf: buffer)
        }
    }

    /// A `bigint`; nil is NULL.
    public mutating func append(bigint value: Int64?) { append(fixed: value) }

    /// A `smallint`; nil is NULL.
    public mutating func append(smallint value: Int16?) { append(fixed: value) }

    /// A `double precision`; nil is NULL.
    public mutating func append(_ value: Double?) { append(fixed: value?.bitPattern) }

    /// Everything in the order in which it is to be sent.
    consuming func pieces() -> [[UInt8]] {
        endRow()
        append(raw: Int16(-1))
        return full + [bytes]
    }

    private func endRow() { precondition(missing == 0, "a row lacks \(missing) of its fields") }

    private mutating func appendNull() {
        begin(-1)
    }

    private mutating func append(fixed value: (some FixedWidthInteger)?) {
        guard let value else { return appendNull() }
        begin(value.bitWidth / 8)
        append(raw: value)
    }

    private mutating func begin(_ size: Int) {
        precondition(missing > 0, "a row has more fields than columns")
        missing -= 1
        append(raw: Int32(size))
    }

    private mutating func append(raw value: some FixedWidthInteger) {
        withUnsafeBytes(of: value.bigEndian) { bytes.append(contentsOf: $0) }
    }
}

extension PostgresConnection {
    /// Copies rows into a table, and returns how many the server took. All or nothing.
    ///
    /// - Parameter table: the table's name as it stands in SQL, schema and quotes included.
    @discardableResult
    public func copyIn(_ table: String, _ rows: consuming CopyRows, isolation: isolated (any Actor)? = #isolation) async throws -> Int {
        let columns = rows.columns.joined(separator: ", ")
        return try await copy("COPY \(table) (\(columns)) FROM STDIN (FORMAT binary)", rows.pieces())
    }
}
