public import Foundation

/// A parameter of a statement, sent in text format: the statement's own types decide how the server reads it.
public enum PostgresValue: Sendable, Hashable {
    /// SQL's NULL.
    case null
    /// Text, or anything in its text form: a number, a timestamp, an array literal.
    case string(String)
    /// An integer of any width.
    case int(Int64)
    /// A double, shortest form that reads back the same.
    case double(Double)
    /// A boolean.
    case bool(Bool)
    /// A `bytea`.
    case bytes([UInt8])
    /// JSON text for `json` and `jsonb`.
    case json(String)

    /// An integer.
    public static func int(_ value: Int) -> PostgresValue { .int(Int64(value)) }

    /// A `timestamptz`, to the microsecond.
    public static func date(_ value: Date) -> PostgresValue { .string(timestampText(value)) }

    /// A value as JSON text, keys sorted.
    public static func json(encoding value: some Encodable) throws -> PostgresValue {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return .json(String(decoding: try encoder.encode(value), as: UTF8.self))
    }

    /// An array literal: `.array([1, 2, 3] as [Int64])` for `$1::bigint[]`.
    public static func array(_ values: [Int64]) -> PostgresValue {
        // Written digit by digit into one text, because jobs come and go by the thousand in such arrays.
        .string(
            String(unsafeUninitializedCapacity: 21 * values.count + 2) { text in
                text[0] = UInt8(ascii: "{")
                var end = 1
                for value in values {
                    if end > 1 {
                        text[end] = UInt8(ascii: ",")
                        end += 1
                    }
                    if value < 0 {
                        text[end] = UInt8(ascii: "-")
                        end += 1
                    }
                    var rest = value.magnitude
                    var digits = 1
                    var power: UInt64 = 10
                    while digits < 19, rest >= power { (digits, power) = (digits + 1, power &* 10) }
                    end += digits
                    for place in 1...digits {
                        text[end - place] = UInt8(ascii: "0") + UInt8(truncatingIfNeeded: rest % 10)
                        rest /= 10
                    }
                }
                text[end] = UInt8(ascii: "}")
                return end + 1
            })
    }

    /// An array literal of integers.
    public static func array(_ values: [Int]) -> PostgresValue { .array(values.map(Int64.init)) }

    /// An array literal of doubles.
    public static func array(_ values: [Double]) -> PostgresValue { .array(values.map(PostgresValue.double)) }

    /// An array literal of booleans.
    public static func array(_ values: [Bool]) -> PostgresValue { .array(values.map(PostgresValue.bool)) }

    /// An array literal of texts.
    public static func array(_ values: [String]) -> PostgresValue { .array(values.map(PostgresValue.string)) }

    /// An array literal of texts with NULLs among them.
    public static func array(_ values: [String?]) -> PostgresValue { .array(values.map { $0.map(PostgresValue.string) ?? .null }) }

    /// An array literal of any values; each element is quoted and escaped.
    public static func array(_ values: [PostgresValue]) -> PostgresValue {
        var text: [UInt8] = [UInt8(ascii: "{")]
        for (index, value) in values.enumerated() {
            if index > 0 { text.append(UInt8(ascii: ",")) }
            guard let element = value.text else {
                text.append(contentsOf: "NULL".utf8)
                continue
            }
            text.append(UInt8(ascii: "\""))
            for byte in element.utf8 {
                if byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\") { text.append(UInt8(ascii: "\\")) }
                text.append(byte)
            }
            text.append(UInt8(ascii: "\""))
        }
        text.append(UInt8(ascii: "}"))
        return .string(String(decoding: text, as: UTF8.self))
    }

    /// What goes over the wire; nil is NULL.
    var text: String? {
        switch self {
        case .null: nil
        case .string(let value), .json(let value): value
        case .int(let value): String(value)
        case .double(let value): value.isNaN ? "NaN" : value.isInfinite ? (value < 0 ? "-Infinity" : "Infinity") : value.description
        case .bool(let value): value ? "t" : "f"
        case .bytes(let value): hexText(value)
        }
    }
}

extension PostgresValue: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral, ExpressibleByBooleanLiteral,
    ExpressibleByNilLiteral, ExpressibleByStringInterpolation
{
    /// Text.
    public init(stringLiteral value: String) { self = .string(value) }
    /// An integer.
    public init(integerLiteral value: Int64) { self = .int(value) }
    /// A double.
    public init(floatLiteral value: Double) { self = .double(value) }
    /// A boolean.
    public init(booleanLiteral value: Bool) { self = .bool(value) }
    /// NULL.
    public init(nilLiteral: ()) { self = .null }

    /// Text, or NULL.
    public init(_ value: String?) { self = value.map(PostgresValue.string) ?? .null }
    /// An integer, or NULL.
    public init(_ value: Int64?) { self = value.map(PostgresValue.int) ?? .null }
    /// An integer, or NULL.
    public init(_ value: Int?) { self = value.map { .int(Int64($0)) } ?? .null }
    /// A double, or NULL.
    public init(_ value: Double?) { self = value.map(PostgresValue.double) ?? .null }
    /// A boolean, or NULL.
    public init(_ value: Bool?) { self = value.map(PostgresValue.bool) ?? .null }
    /// A `timestamptz`, or NULL.
    public init(_ value: Date?) { self = value.map(PostgresValue.date) ?? .null }
}

/// `\x…`, as `bytea` reads it.
private func hexText(_ bytes: [UInt8]) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(unsafeUninitializedCapacity: 2 + 2 * bytes.count) { buffer in
        buffer[0] = UInt8(ascii: "\\")
        buffer[1] = UInt8(ascii: "x")
        for (index, byte) in bytes.enumerated() {
            buffer[2 + 2 * index] = digits[Int(byte >> 4)]
            buffer[3 + 2 * index] = digits[Int(byte & 15)]
        }
        return 2 + 2 * bytes.count
    }
}

/// `2026-11-21 07:00:00.123456+00`.
func timestampText(_ date: Date) -> String {
    let microseconds = (date.timeIntervalSince1970 * 1e6).rounded()
    let seconds = (microseconds / 1e6).rounded(.down)
    var time = time_t(seconds)
    var parts = tm()
    gmtime_r(&time, &parts)
    func padded(_ value: Int, _ width: Int) -> String {
        let digits = String(value)
        return String(repeating: "0", count: max(0, width - digits.count)) + digits
    }
    let day = "\(padded(Int(parts.tm_year) + 1900, 4))-\(padded(Int(parts.tm_mon) + 1, 2))-\(padded(Int(parts.tm_mday), 2))"
    let clock = "\(padded(Int(parts.tm_hour), 2)):\(padded(Int(parts.tm_min), 2)):\(padded(Int(parts.tm_sec), 2))"
    return "\(day) \(clock).\(padded(Int(microseconds - seconds * 1e6), 6))+00"
}
