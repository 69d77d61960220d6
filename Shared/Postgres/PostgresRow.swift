import CLibpq
public import Foundation

/// A value that is not what was asked for.
public struct PostgresDecodingError: Error, Sendable, CustomStringConvertible {
    /// The column asked for.
    public let column: String
    /// What was expected, and what was found.
    public let reason: String

    /// Column and reason.
    public var description: String { "column \(column): \(reason)" }
}

/// One result of the server, whole; rows refer to it.
final class ResultStorage: @unchecked Sendable {  // a PGresult is never written after PQgetResult handed it out, and PQgetvalue only reads
    let handle: OpaquePointer
    let columns: [String]
    let indices: [String: Int]
    let rowCount: Int

    /// Takes over a result; it is cleared with the last row that refers to it.
    init(_ handle: OpaquePointer) {
        self.handle = handle
        rowCount = Int(PQntuples(handle))
        columns = (0..<PQnfields(handle)).map { String(cString: PQfname(handle, $0)) }
        // Of two columns of one name the first is meant.
        indices = Dictionary(zip(columns, columns.indices), uniquingKeysWith: { first, _ in first })
    }

    deinit { PQclear(handle) }

    func bytes(row: Int, column: Int) -> UnsafeBufferPointer<UInt8>? {
        guard PQgetisnull(handle, CInt(row), CInt(column)) == 0 else { return nil }
        let count = Int(PQgetlength(handle, CInt(row), CInt(column)))
        return UnsafeRawPointer(PQgetvalue(handle, CInt(row), CInt(column))).map {
            UnsafeBufferPointer(start: $0.assumingMemoryBound(to: UInt8.self), count: count)
        }
    }
}

/// A row of an answer. Values are read by column name: `try row["id"].int64`, `try row["reason"].optionalString`.
public struct PostgresRow: Sendable {
    let storage: ResultStorage
    let index: Int

    /// The columns' names in the order of the statement.
    public var columns: [String] { storage.columns }

    /// The value in a column. A column that does not exist throws where it is read.
    public subscript(_ column: String) -> PostgresCell {
        PostgresCell(storage: storage, row: index, column: storage.indices[column], name: column)
    }

    /// The value in a column, counted from 0.
    public subscript(_ column: Int) -> PostgresCell {
        let exists = storage.columns.indices.contains(column)
        return PostgresCell(
            storage: storage, row: index, column: exists ? column : nil, name: exists ? storage.columns[column] : String(column))
    }
}

/// One value of a row. Every accessor throws ``PostgresDecodingError`` where the text is not of that type; those that are not
/// `optional…` throw for NULL too.
public struct PostgresCell: Sendable {
    let storage: ResultStorage
    let row: Int
    let column: Int?
    let name: String

    /// Whether the value is NULL.
    public var isNull: Bool { get throws { try optionalString == nil } }

    /// The text, whatever the type.
    public var string: String { get throws { try required(optionalString, "text") } }
    /// An integer.
    public var int: Int { get throws { try required(optionalInt, "an integer") } }
    /// A 64-bit integer.
    public var int64: Int64 { get throws { try required(optionalInt64, "an integer") } }
    /// A number.
    public var double: Double { get throws { try required(optionalDouble, "a number") } }
    /// A boolean.
    public var bool: Bool { get throws { try required(optionalBool, "a boolean") } }
    /// A `bytea`.
    public var bytes: [UInt8] { get throws { try required(optionalBytes, "bytea") } }
    /// A `timestamptz`, `timestamp` (read as UTC) or `date`.
    public var date: Date { get throws { try required(optionalDate, "a timestamp") } }
    /// An array of integers.
    public var intArray: [Int64] { get throws { try raw().flatMap(decimals) ?? array { Int64($0) } } }
    /// An array of texts; NULL elements are refused.
    public var stringArray: [String] { get throws { try array { $0 } } }

    /// The text, or nil for NULL.
    public var optionalString: String? { get throws { try raw().map { String(decoding: $0, as: UTF8.self) } } }
    /// An integer, or nil for NULL.
    public var optionalInt: Int? { get throws { try optionalInt64.map { Int($0) } } }
    /// A 64-bit integer, or nil for NULL.
    public var optionalInt64: Int64? {
        get throws {
            guard let bytes = try raw() else { return nil }
            // Most numbers are short: read without making a text first.
            return try decimal(bytes) ?? parsed("an integer") { Int64($0) }
        }
    }
    /// A number, or nil for NULL.
    public var optionalDouble: Double? { get throws { try parsed("a number") { Double($0) } } }
    /// A boolean, or nil for NULL.
    public var optionalBool: Bool? {
        get throws {
            if let bytes = try raw(), bytes.count == 1 {
                if bytes[0] == UInt8(ascii: "t") { return true }
                if bytes[0] == UInt8(ascii: "f") { return false }
            }
            return try parsed("a boolean") { $0 == "t" || $0 == "true" ? true : $0 == "f" || $0 == "false" ? false : nil }
        }
    }
    /// A `bytea`, or nil for NULL.
    public var optionalBytes: [UInt8]? { get throws { try parsed("bytea") { unhex($0.utf8) } } }
    /// A timestamp, or nil for NULL.
    public var optionalDate: Date? { get throws { try parsed("a timestamp") { timestamp($0) } } }

    /// The lines of a text, none of which is copied; no lines for NULL.
    package var lines: [PostgresText] {
        get throws {
            guard let bytes = try raw(), let start = bytes.baseAddress else { return [] }
            var lines: [PostgresText] = []
            var first = 0
            while let feed = memchr(start + first, CInt(UInt8(ascii: "\n")), bytes.count - first) {
                let end = UnsafeRawPointer(feed) - UnsafeRawPointer(start)
                lines.append(PostgresText(storage: storage, bytes: UnsafeBufferPointer(rebasing: bytes[first..<end])))
                first = end + 1
            }
            lines.append(PostgresText(storage: storage, bytes: UnsafeBufferPointer(rebasing: bytes[first...])))
            return lines
        }
    }

    /// A `json` or `jsonb` value decoded.
    public func decode<Value: Decodable>(_ type: Value.Type) throws -> Value {
        do {
            return try JSONDecoder().decode(type, from: Data(string.utf8))
        } catch let error as DecodingError {
            throw PostgresDecodingError(column: name, reason: "JSON that is no \(type): \(error)")
        }
    }

    /// A `json` or `jsonb` value decoded, or nil for NULL.
    public func decodeIfPresent<Value: Decodable>(_ type: Value.Type) throws -> Value? {
        try isNull ? nil : decode(type)
    }

    private func raw() throws -> UnsafeBufferPointer<UInt8>? {
        guard let column else {
            throw PostgresDecodingError(column: name, reason: "not in the answer, which has \(storage.columns.joined(separator: ", "))")
        }
        return storage.bytes(row: row, column: column)
    }

    private func required<Value>(_ value: Value?, _ kind: String) throws -> Value {
        guard let value else { throw PostgresDecodingError(column: name, reason: "expected \(kind), found NULL") }
        return value
    }

    private func parsed<Value>(_ kind: String, _ parse: (String) -> Value?) throws -> Value? {
        guard let text = try optionalString else { return nil }
        guard let value = parse(text) else {
            throw PostgresDecodingError(column: name, reason: "expected \(kind), found \(text.prefix(60))")
        }
        return value
    }

    private func array<Value>(_ parse: (String) -> Value?) throws -> [Value] {
        let text = try string
        guard let elements = arrayElements(text) else {
            throw PostgresDecodingError(column: name, reason: "expected a one-dimensional array, found \(text.prefix(60))")
        }
        return try elements.map { element in
            guard let element, let value = parse(element) else {
                throw PostgresDecodingError(column: name, reason: "unexpected array element \(element ?? "NULL")")
            }
            return value
        }
    }
}

/// A text, or a part of an answer's text that stays in the answer until somebody asks for it.
package struct PostgresText: @unchecked Sendable {  // the bytes are the storage's, which nobody writes
    private enum Place {
        case own(String)
        case part(ResultStorage, UnsafeBufferPointer<UInt8>)
    }

    private let place: Place

    init(storage: ResultStorage, bytes: UnsafeBufferPointer<UInt8>) { place = .part(storage, bytes) }

    /// A text that comes from elsewhere.
    package init(_ text: String) { place = .own(text) }

    /// The text, a copy.
    package var string: String {
        switch place {
        case .own(let text): text
        case .part(_, let bytes): String(decoding: bytes, as: UTF8.self)
        }
    }
}

/// The elements of `{1,-2,3}`, read without making texts of them; nil for anything that is not as plain.
private func decimals(_ bytes: UnsafeBufferPointer<UInt8>) -> [Int64]? {
    guard bytes.count >= 2, bytes[0] == UInt8(ascii: "{"), bytes[bytes.count - 1] == UInt8(ascii: "}") else { return nil }
    if bytes.count == 2 { return [] }
    var values: [Int64] = []
    var first = 1
    for index in 1..<bytes.count where bytes[index] == UInt8(ascii: ",") || index == bytes.count - 1 {
        guard let value = decimal(UnsafeBufferPointer(rebasing: bytes[first..<index])) else { return nil }
        values.append(value)
        first = index + 1
    }
    return values
}

/// A whole number of at most eighteen digits; nil for anything else.
private func decimal(_ bytes: UnsafeBufferPointer<UInt8>) -> Int64? {
    let isNegative = bytes.first == UInt8(ascii: "-")
    let digits = bytes.dropFirst(isNegative ? 1 : 0)
    guard (1...18).contains(digits.count) else { return nil }
    var value: Int64 = 0
    for byte in digits {
        guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else { return nil }
        value = value * 10 + Int64(byte - UInt8(ascii: "0"))
    }
    return isNegative ? -value : value
}

/// The bytes behind `\x…`.
private func unhex(_ text: String.UTF8View) -> [UInt8]? {
    guard text.starts(with: "\\x".utf8), text.count % 2 == 0 else { return nil }
    func digit(_ character: UInt8) -> UInt8? {
        switch character {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): character - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): character - UInt8(ascii: "a") + 10
        default: nil
        }
    }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(text.count / 2 - 1)
    var iterator = text.dropFirst(2).makeIterator()
    while let high = iterator.next(), let low = iterator.next() {
        guard let high = digit(high), let low = digit(low) else { return nil }
        bytes.append(high << 4 | low)
    }
    return bytes
}

/// Reads `2026-11-21 07:00:00.123456+00`, with any zone offset, or none for UTC, or a day alone.
func timestamp(_ text: String) -> Date? {
    let halves = text.split(maxSplits: 1) { $0 == " " || $0 == "T" }
    guard let day = halves.first?.split(separator: "-").map({ Int32($0) }), day.count == 3, let year = day[0], let month = day[1],
        let dayOfMonth = day[2]
    else { return nil }
    var parts = tm()
    (parts.tm_year, parts.tm_mon, parts.tm_mday) = (year - 1900, month - 1, dayOfMonth)
    guard halves.count == 2 else { return Date(timeIntervalSince1970: Double(timegm(&parts))) }
    let clock = halves[1].prefix { $0.isNumber || $0 == ":" || $0 == "." }
    let numbers = clock.split(separator: ":")
    guard numbers.count == 3, let hour = Int32(numbers[0]), let minute = Int32(numbers[1]), let second = Double(numbers[2]) else {
        return nil
    }
    (parts.tm_hour, parts.tm_min) = (hour, minute)
    var offset = 0
    let zone = halves[1].dropFirst(clock.count)
    if let sign = zone.first, sign == "+" || sign == "-" {
        let fields = zone.dropFirst().split(separator: ":").map { Int($0) }
        guard !fields.isEmpty, !fields.contains(nil) else { return nil }
        offset = (sign == "-" ? -1 : 1) * zip(fields, [3600, 60, 1]).reduce(0) { $0 + ($1.0 ?? 0) * $1.1 }
    } else if !(zone.isEmpty || zone == "Z") {
        return nil
    }
    return Date(timeIntervalSince1970: Double(timegm(&parts) - offset) + second)
}

/// The elements of `{1,"a b",NULL}`; nil where the text is no one-dimensional array.
func arrayElements(_ text: String) -> [String?]? {
    guard text.first == "{", text.last == "}", text.utf8.count >= 2 else { return nil }
    var elements: [String?] = []
    var current = ""
    var isQuoted = false
    var wasQuoted = false
    var isEscaped = false
    let inner = text.dropFirst().dropLast()
    if inner.isEmpty { return [] }
    func finished() -> String? { !wasQuoted && current == "NULL" ? nil : current }
    for scalar in inner.unicodeScalars {
        if isEscaped {
            current.unicodeScalars.append(scalar)
            isEscaped = false
        } else if scalar == "\\" {
            isEscaped = true
        } else if scalar == "\"" {
            isQuoted.toggle()
            wasQuoted = true
        } else if scalar == ",", !isQuoted {
            elements.append(finished())
            current = ""
            wasQuoted = false
        } else if scalar == "{", !isQuoted {
            return nil
        } else {
            current.unicodeScalars.append(scalar)
        }
    }
    elements.append(finished())
    return elements
}
