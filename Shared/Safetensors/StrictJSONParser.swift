/// A recursive-descent parser for RFC 8259 with limits on depth and number of values, and no duplicate keys.
///
/// `document()` builds a tree. A safetensors header, which may have a hundred million bytes, is not made into one: `SafetensorsHeader` walks it
/// with `members` and `elements`, and keeps what it needs.
struct StrictJSONParser {
    static let depthLimit = 32
    static let valueLimit = 1 << 20
    /// Up to how many members an object's keys are compared one with another.
    private static let few = 16

    let bytes: UnsafeBufferPointer<UInt8>
    var position = 0
    private var values = 0

    init(bytes: UnsafeBufferPointer<UInt8>) { self.bytes = bytes }

    mutating func document() throws -> StrictJSON {
        skipSpace()
        let result = try value(depth: 0)
        try end()
        return result
    }

    /// Requires that nothing but white space follows.
    mutating func end() throws {
        skipSpace()
        guard position == bytes.count else { throw failure("text after the JSON value") }
    }

    func failure(_ what: String) -> SafetensorsError { SafetensorsError("JSON: \(what) at byte \(position)") }

    /// What kind of value starts here, in `StrictJSON.kind`'s words, by its first byte; nil where none can.
    var kind: String? {
        guard position < bytes.count else { return nil }
        switch bytes[position] {
        case UInt8(ascii: "{"): return "an object"
        case UInt8(ascii: "["): return "an array"
        case UInt8(ascii: "\""): return "a string"
        case UInt8(ascii: "t"), UInt8(ascii: "f"): return "a boolean"
        case UInt8(ascii: "n"): return "null"
        case UInt8(ascii: "-"), 0x30...0x39: return "a number"
        default: return nil
        }
    }

    /// Calls `body` with each key of the object that starts here; it must consume the key's value. Duplicates are for the caller to refuse
    /// (`duplicate`), who knows the keys.
    mutating func members(keyLimit: Int = .max, _ body: (inout StrictJSONParser, String) throws -> Void) throws {
        try expect(UInt8(ascii: "{"))
        skipSpace()
        if accept(UInt8(ascii: "}")) { return }
        while true {
            skipSpace()
            let key = try string(limit: keyLimit)
            skipSpace()
            try expect(UInt8(ascii: ":"))
            skipSpace()
            try body(&self, key)
            skipSpace()
            if accept(UInt8(ascii: "}")) { return }
            try expect(UInt8(ascii: ","))
        }
    }

    func duplicate(_ key: String) -> SafetensorsError { failure("duplicate key \(key.quotedForMessage)") }

    /// Calls `body` at the start of each element of the array that starts here; it must consume the element.
    mutating func elements(_ body: (inout StrictJSONParser) throws -> Void) throws {
        try expect(UInt8(ascii: "["))
        skipSpace()
        if accept(UInt8(ascii: "]")) { return }
        while true {
            skipSpace()
            try body(&self)
            skipSpace()
            if accept(UInt8(ascii: "]")) { return }
            try expect(UInt8(ascii: ","))
        }
    }

    mutating func skipSpace() {
        while position < bytes.count {
            switch bytes[position] {
            case 0x20, 0x09, 0x0A, 0x0D: position += 1
            default: return
            }
        }
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
        guard values < Self.valueLimit else { throw failure("more than \(Self.valueLimit) values") }
        values += 1
        guard position < bytes.count else { throw failure("the text ends too early") }
        switch bytes[position] {
        case UInt8(ascii: "{"):
            var members: [StrictJSON.Member] = []
            // Of a few keys each is found faster by looking than by hashing.
            var seen: Set<String> = []
            try self.members { parser, key in
                if members.count < Self.few {
                    if members.contains(where: { $0.key == key }) { throw parser.duplicate(key) }
                } else {
                    if seen.isEmpty { seen = Set(members.map(\.key)) }
                    guard seen.insert(key).inserted else { throw parser.duplicate(key) }
                }
                members.append(.init(key: key, value: try parser.value(depth: depth + 1)))
            }
            return .object(members)
        case UInt8(ascii: "["):
            var items: [StrictJSON] = []
            try elements { items.append(try $0.value(depth: depth + 1)) }
            return .array(items)
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

    /// A string literal of at most `limit` bytes between its quotes; the limit is checked before any memory is taken.
    mutating func string(limit: Int = .max) throws -> String {
        try expect(UInt8(ascii: "\""))
        let start = position
        var escaped = false
        scan: while true {
            guard position < bytes.count else { throw failure("a string without an end") }
            switch bytes[position] {
            case UInt8(ascii: "\""): break scan
            case UInt8(ascii: "\\"):
                escaped = true
                position += 2
            case 0..<0x20: throw failure("a control character inside a string")
            default: position += 1
            }
        }
        let raw = UnsafeBufferPointer(rebasing: bytes[start..<position])
        guard raw.count <= limit else { throw failure("a string of \(raw.count) bytes, above the limit of \(limit),") }
        let text: String?
        if escaped {
            var decoded: [UInt8] = []
            decoded.reserveCapacity(raw.count)
            position = start
            while bytes[position] != UInt8(ascii: "\"") {
                let byte = bytes[position]
                position += 1
                if byte == UInt8(ascii: "\\") { try escape(into: &decoded) } else { decoded.append(byte) }
            }
            text = String(validating: decoded, as: UTF8.self)
        } else {
            text = String(validating: raw, as: UTF8.self)
        }
        guard let text else { throw failure("a string that is not UTF-8") }
        position += 1
        return text
    }

    private mutating func escape(into text: inout [UInt8]) throws {
        let byte = bytes[position]  // the scan above saw it
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
            UTF8.encode(scalar) { text.append($0) }
        default: throw failure("an unknown escape")
        }
    }

    private mutating func hexadecimal() throws -> UInt32 {
        guard position + 4 <= bytes.count else { throw failure("an escape cut short") }
        var code: UInt32 = 0
        for _ in 0..<4 {
            let digit: UInt8
            switch bytes[position] {
            case let byte where (0x30...0x39).contains(byte): digit = byte - 0x30
            case let byte where (0x41...0x46).contains(byte): digit = byte - 0x41 + 10
            case let byte where (0x61...0x66).contains(byte): digit = byte - 0x61 + 10
            default: throw failure("a bad \\u escape")
            }
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

    /// A number; `.integer` where it has neither fraction nor exponent and fits 64 bits.
    mutating func number() throws -> StrictJSON {
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
