/// A JSON value as it stands in the text: objects keep their order, and integers stay integers.
///
/// Foundation's parser keeps one of two equal keys and says nothing; a file whose meaning depends on which one is refused here.
public indirect enum StrictJSON: Sendable, Equatable {
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

/// A recursive-descent parser for RFC 8259 with a depth limit and no duplicate keys.
struct StrictJSONParser {
    static let depthLimit = 32
    let bytes: UnsafeBufferPointer<UInt8>
    var position = 0

    init(bytes: UnsafeBufferPointer<UInt8>) { self.bytes = bytes }

    mutating func document() throws -> StrictJSON {
        skipSpace()
        let result = try value(depth: 0)
        skipSpace()
        guard position == bytes.count else { throw failure("text after the JSON value") }
        return result
    }

    private func failure(_ what: String) -> SafetensorsError { SafetensorsError("JSON: \(what) at byte \(position)") }

    private mutating func skipSpace() {
        while position < bytes.count, [0x20, 0x09, 0x0A, 0x0D].contains(bytes[position]) { position += 1 }
    }

    private mutating func accept(_ byte: UInt8) -> Bool {
        guard position < bytes.count, bytes[position] == byte else { return false }
        position += 1
        return true
    }

    private mutating func expect(_ byte: UInt8) throws {
        guard accept(byte) else { throw failure("expected '\(Character(UnicodeScalar(byte)))'") }
    }

    private mutating func value(depth: Int) throws -> StrictJSON {
        guard depth < Self.depthLimit else { throw failure("nested deeper than \(Self.depthLimit)") }
        guard position < bytes.count else { throw failure("the text ends too early") }
        switch bytes[position] {
        case UInt8(ascii: "{"): return try object(depth: depth)
        case UInt8(ascii: "["): return try array(depth: depth)
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"):
            try word("true")
            return .bool(true)
        case UInt8(ascii: "f"):
            try word("false")
            return .bool(false)
        case UInt8(ascii: "n"):
            try word("null")
            return .null
        default: return try number()
        }
    }

    private mutating func word(_ text: StaticString) throws {
        for offset in 0..<text.utf8CodeUnitCount {
            guard accept(text.utf8Start[offset]) else { throw failure("expected '\(text)'") }
        }
    }

    private mutating func object(depth: Int) throws -> StrictJSON {
        try expect(UInt8(ascii: "{"))
        var members: [StrictJSON.Member] = []
        var seen: Set<String> = []
        skipSpace()
        if accept(UInt8(ascii: "}")) { return .object([]) }
        while true {
            skipSpace()
            let key = try string()
            guard seen.insert(key).inserted else { throw failure("duplicate key \(key.quotedForMessage)") }
            skipSpace()
            try expect(UInt8(ascii: ":"))
            skipSpace()
            members.append(.init(key: key, value: try value(depth: depth + 1)))
            skipSpace()
            if accept(UInt8(ascii: "}")) { return .object(members) }
            try expect(UInt8(ascii: ","))
        }
    }

    private mutating func array(depth: Int) throws -> StrictJSON {
        try expect(UInt8(ascii: "["))
        var items: [StrictJSON] = []
        skipSpace()
        if accept(UInt8(ascii: "]")) { return .array([]) }
        while true {
            skipSpace()
            items.append(try value(depth: depth + 1))
            skipSpace()
            if accept(UInt8(ascii: "]")) { return .array(items) }
            try expect(UInt8(ascii: ","))
        }
    }

    private mutating func string() throws -> String {
        try expect(UInt8(ascii: "\""))
        var text: [UInt8] = []
        while position < bytes.count {
            let byte = bytes[position]
            position += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let result = String(validating: text, as: UTF8.self) else { throw failure("a string that is not UTF-8") }
                return result
            case UInt8(ascii: "\\"): try escape(into: &text)
            case 0..<0x20: throw failure("a control character inside a string")
            default: text.append(byte)
            }
        }
        throw failure("a string without an end")
    }

    private mutating func escape(into text: inout [UInt8]) throws {
        guard position < bytes.count else { throw failure("a string without an end") }
        let byte = bytes[position]
        position += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(byte)
        case UInt8(ascii: "b"): text.append(0x08)
        case UInt8(ascii: "f"): text.append(0x0C)
        case UInt8(ascii: "n"): text.append(0x0A)
        case UInt8(ascii: "r"): text.append(0x0D)
        case UInt8(ascii: "t"): text.append(0x09)
        case UInt8(ascii: "u"):
            var code = try hexadecimal()
            if (0xD800..<0xDC00).contains(code) {
                guard accept(UInt8(ascii: "\\")), accept(UInt8(ascii: "u")) else { throw failure("half a surrogate pair") }
                let low = try hexadecimal()
                guard (0xDC00..<0xE000).contains(low) else { throw failure("half a surrogate pair") }
                code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
            }
            guard let scalar = UnicodeScalar(code) else { throw failure("half a surrogate pair") }
            text.append(contentsOf: Array(String(Character(scalar)).utf8))
        default: throw failure("an unknown escape")
        }
    }

    private mutating func hexadecimal() throws -> UInt32 {
        guard position + 4 <= bytes.count else { throw failure("an escape cut short") }
        var code: UInt32 = 0
        for _ in 0..<4 {
            guard let digit = Character(UnicodeScalar(bytes[position])).hexDigitValue else { throw failure("a bad \\u escape") }
            code = code << 4 | UInt32(digit)
            position += 1
        }
        return code
    }

    private mutating func digits() throws {
        let start = position
        while position < bytes.count, (0x30...0x39).contains(bytes[position]) { position += 1 }
        guard position > start else { throw failure("expected a JSON value") }
    }

    private mutating func number() throws -> StrictJSON {
        let start = position
        _ = accept(UInt8(ascii: "-"))
        let first = position
        try digits()
        guard bytes[first] != UInt8(ascii: "0") || position == first + 1 else { throw failure("a number with a leading zero") }
        var whole = true
        if accept(UInt8(ascii: ".")) {
            whole = false
            try digits()
        }
        if accept(UInt8(ascii: "e")) || accept(UInt8(ascii: "E")) {
            whole = false
            if !accept(UInt8(ascii: "+")) { _ = accept(UInt8(ascii: "-")) }
            try digits()
        }
        guard position - start <= 64 else { throw failure("a number with too many digits") }
        let text = String(decoding: bytes[start..<position], as: UTF8.self)
        if whole, let integer = Int(text) { return .integer(integer) }
        guard let number = Double(text), number.isFinite else { throw failure("a number out of range") }
        return .number(number)
    }
}
