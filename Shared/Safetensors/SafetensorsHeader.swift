/// One tensor of a file as its header describes it.
public struct SafetensorsEntry: Sendable, Equatable {
    /// The type of its elements in the file.
    public let dtype: ElementType
    /// Its extents, the outermost first; empty for a single number.
    public let shape: [Int]
    /// Where its bytes lie, counted from the end of the header.
    let begin: Int
    let end: Int
    /// The number of elements.
    public var count: Int { shape.reduce(1, *) }
}

/// The validated header: what it says is consistent with itself and with the file's length before anything of the data is read.
struct SafetensorsHeader: Sendable {
    /// Limits on what a header may ask for; far above any real checkpoint.
    static let headerLimit = 100_000_000
    static let tensorLimit = 200_000
    static let nameLimit = 1024
    /// Bytes of any key or dtype between its quotes, where an escape may take six bytes for one.
    static let keyLimit = 6 * nameLimit
    static let metadataLimit = 10_000
    static let rankLimit = 16

    var metadata: [String: String] = [:]
    /// In the order of their data.
    var names: [String] = []
    var entries: [String: SafetensorsEntry] = [:]
    /// Where the data starts in the file.
    let dataStart: Int

    /// The header's length out of the first eight bytes, checked against the file's size before anything is read.
    static func length(prefix: [UInt8], fileSize: Int) throws -> Int {
        guard prefix.count == 8, fileSize >= 8 else {
            throw SafetensorsError("no safetensors file: \(fileSize) bytes, too short for a header length")
        }
        let length = prefix.enumerated().reduce(UInt64(0)) { $0 | UInt64($1.element) << (8 * UInt64($1.offset)) }
        guard length <= UInt64(headerLimit) else {
            throw SafetensorsError("header length \(length) is above the limit of \(headerLimit) bytes (is this a safetensors file?)")
        }
        guard Int(length) <= fileSize - 8 else {
            throw SafetensorsError("header length \(length) does not fit a file of \(fileSize) bytes: truncated, or no safetensors file")
        }
        return Int(length)
    }

    /// Validates the header's text against the number of data bytes behind it. Memory is taken for what the text holds, never for what it
    /// claims: at most eight times its length.
    init(text: UnsafeBufferPointer<UInt8>, dataSize: Int) throws {
        dataStart = 8 + text.count
        guard text.first == UInt8(ascii: "{") else { throw SafetensorsError("the header does not start with '{'") }
        var parser = StrictJSONParser(bytes: text)
        var hasMetadata = false
        try parser.members(keyLimit: Self.keyLimit) { parser, key in
            if key == "__metadata__" {
                guard !hasMetadata else { throw parser.duplicate(key) }
                hasMetadata = true
                metadata = try Self.metadata(&parser)
                return
            }
            guard key.utf8.count <= Self.nameLimit else {
                throw SafetensorsError("a tensor's name has \(key.utf8.count) bytes, above the limit of \(Self.nameLimit)")
            }
            guard names.count < Self.tensorLimit else {
                throw SafetensorsError("the header has more tensors than the limit of \(Self.tensorLimit)")
            }
            guard entries[key] == nil else { throw parser.duplicate(key) }
            entries[key] = try Self.entry(key, &parser, dataSize: dataSize)
            names.append(key)
        }
        try parser.end()
        try order(dataSize: dataSize)
    }

    /// Sorts the tensors by their place and requires that they cover the data exactly.
    private mutating func order(dataSize: Int) throws {
        // An empty tensor shares its offset with the next one and comes first.
        let order = names.enumerated().map { (index: $0.offset, name: $0.element, entry: entries[$0.element]!) }
        names = order.sorted { ($0.entry.begin, $0.entry.end, $0.index) < ($1.entry.begin, $1.entry.end, $1.index) }.map(\.name)
        var position = 0
        for name in names {
            let entry = entries[name]!
            guard entry.begin == position else {
                let what =
                    entry.begin < position ? "overlaps the tensor before it" : "leaves a gap of \(entry.begin - position) bytes before it"
                throw SafetensorsError("tensor \(name.quotedForMessage): data_offsets [\(entry.begin), \(entry.end)] \(what)")
            }
            position = entry.end
        }
        guard position == dataSize else {
            throw SafetensorsError(
                "the tensors end at byte \(position) of the data, but the file has \(dataSize): truncated, or bytes too many")
        }
    }

    private static func metadata(_ parser: inout StrictJSONParser) throws -> [String: String] {
        guard parser.kind == "an object" else { throw SafetensorsError("__metadata__ is \(parser.kind ?? "no JSON"), not an object") }
        var result: [String: String] = [:]
        try parser.members(keyLimit: keyLimit) { parser, key in
            guard parser.kind == "a string" else {
                throw SafetensorsError("__metadata__ \(key.quotedForMessage) is \(parser.kind ?? "no JSON"), not a string")
            }
            guard result.count < metadataLimit else { throw SafetensorsError("__metadata__ has more than \(metadataLimit) entries") }
            guard result.updateValue(try parser.string(), forKey: key) == nil else { throw parser.duplicate(key) }
        }
        return result
    }

    private static func entry(_ name: String, _ parser: inout StrictJSONParser, dataSize: Int) throws -> SafetensorsEntry {
        func failure(_ what: String) -> SafetensorsError { SafetensorsError("tensor \(name.quotedForMessage): \(what)") }
        guard parser.kind == "an object" else { throw failure("its header entry is \(parser.kind ?? "no JSON"), not an object") }
        var dtype: ElementType?
        var shape: [Int]?
        var place: [Int]?
        try parser.members(keyLimit: keyLimit) { parser, field in
            switch field {
            case "dtype":
                guard dtype == nil else { throw parser.duplicate(field) }
                guard parser.kind == "a string" else { throw failure("dtype is missing or no string") }
                let text = try parser.string(limit: keyLimit)
                guard let type = ElementType(rawValue: text) else {
                    throw failure("dtype \(text.quotedForMessage) is not supported (\(ElementType.names))")
                }
                dtype = type
            case "shape":
                guard shape == nil else { throw parser.duplicate(field) }
                guard let list = try integers(&parser, limit: rankLimit) else {
                    throw failure("shape is missing or no list of at most \(rankLimit) whole numbers")
                }
                shape = list
            case "data_offsets":
                guard place == nil else { throw parser.duplicate(field) }
                guard let list = try integers(&parser, limit: 2), list.count == 2 else {
                    throw failure("data_offsets is missing or no pair of whole numbers")
                }
                place = list
            default: throw failure("unknown field \(field.quotedForMessage)")
            }
        }
        guard let dtype else { throw failure("dtype is missing or no string") }
        guard let shape else { throw failure("shape is missing or no list of at most \(rankLimit) whole numbers") }
        guard let place else { throw failure("data_offsets is missing or no pair of whole numbers") }
        var bytes = dtype.size
        // A zero extent counts as one here: a product that overflows beside a zero is still a shape nobody means.
        for extent in shape {
            guard extent >= 0 else { throw failure("shape \(shape) has a negative extent") }
            let (product, overflow) = bytes.multipliedReportingOverflow(by: max(extent, 1))
            guard !overflow else { throw failure("shape \(shape) is too large") }
            bytes = product
        }
        if shape.contains(0) { bytes = 0 }
        guard 0 <= place[0], place[0] <= place[1], place[1] <= dataSize else {
            throw failure("data_offsets \(place) do not lie within the file's \(dataSize) data bytes")
        }
        guard place[1] - place[0] == bytes else {
            throw failure(
                "data_offsets \(place) hold \(place[1] - place[0]) bytes, but \(dtype.rawValue) of shape \(shape) needs \(bytes)")
        }
        return SafetensorsEntry(dtype: dtype, shape: shape, begin: place[0], end: place[1])
    }

    /// A list of at most `limit` whole numbers of 64 bits; nil where the value is something else.
    private static func integers(_ parser: inout StrictJSONParser, limit: Int) throws -> [Int]? {
        guard parser.kind == "an array" else { return nil }
        var result: [Int] = []
        do {
            try parser.elements { parser in
                guard result.count < limit, case .integer(let integer) = try parser.number() else {
                    throw parser.failure("no whole number")
                }
                result.append(integer)
            }
        } catch { return nil }
        return result
    }
}
