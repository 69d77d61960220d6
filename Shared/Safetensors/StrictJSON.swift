/// A JSON value as it stands in the text: objects keep their order, and integers stay integers.
///
/// Foundation's parser keeps one of two equal keys and says nothing; a file whose meaning depends on which one is refused here. So is a text
/// nested deeper than 32, or of more than a million values: what it costs to hold is then known beforehand.
public enum StrictJSON: Sendable, Equatable {
    /// Members in the order of the text, no two with the same key.
    case object([Member])
    case array([StrictJSON])
    case string(String)
    /// A number without fraction or exponent that fits 64 bits.
    case integer(Int)
    case number(Double)
    case bool(Bool)
    case null

    /// One member of an object.
    public struct Member: Sendable, Equatable {
        public let key: String
        public let value: StrictJSON
    }

    /// Parses one value that fills the whole text; white space may surround it.
    /// - Throws: `SafetensorsError` with the byte position.
    public static func parse(_ bytes: [UInt8]) throws -> StrictJSON {
        try bytes.withUnsafeBufferPointer { buffer in
            var parser = StrictJSONParser(bytes: buffer)
            return try parser.document()
        }
    }

    /// Parses a regular file of at most `limit` bytes (a symbolic link to one is fine; a pipe, a device or a folder is refused, not waited for).
    /// - Throws: `SafetensorsError` with what is wrong; the path is for the caller to add.
    public static func parse(contentsOf path: String, limit: Int) throws -> StrictJSON {
        let file = try OpenFile(path: path)
        guard file.size <= limit else { throw SafetensorsError("has \(file.size) bytes, above the limit of \(limit)") }
        return try parse(file.read(at: 0, count: file.size))
    }

    /// The member called `key`, nil when there is none or this is no object.
    public subscript(key: String) -> StrictJSON? {
        guard case .object(let members) = self else { return nil }
        return members.first { $0.key == key }?.value
    }

    /// What kind of value this is, for messages.
    public var kind: String {
        switch self {
        case .object: "an object"
        case .array: "an array"
        case .string: "a string"
        case .integer, .number: "a number"
        case .bool: "a boolean"
        case .null: "null"
        }
    }

    /// The text as a JSON string literal, quotes included; the same bytes for the same text always.
    public static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\r": result += "\\r"
            case "\t": result += "\\t"
            case _ where scalar.value < 32:
                let hex = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
