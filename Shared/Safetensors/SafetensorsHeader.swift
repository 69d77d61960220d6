/// One tensor of a file as its header describes it.
public struct SafetensorsEntry: Sendable, Equatable {
    public let dtype: ElementType
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
    static let rankLimit = 16

    var metadata: [String: String] = [:]
    /// In the order of their data.
    var names: [String] = []
    var entries: [String: SafetensorsEntry] = [:]
    /// Where the data starts in the file.
    let dataStart: Int

    /// The header's length out of the first eight bytes, checked against the file's size.
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

    /// Validates the header's text against the number of data bytes behind it.
    init(text: [UInt8], dataSize: Int) throws {
        dataStart = 8 + text.count
        guard text.first == UInt8(ascii: "{") else { throw SafetensorsError("the header does not start with '{'") }
        guard case .object(let members) = try StrictJSON.parse(text) else { throw SafetensorsError("the header is not an object") }
        guard members.count <= Self.tensorLimit else {
            throw SafetensorsError("the header has \(members.count) entries, above the limit of \(Self.tensorLimit)")
        }
        for member in members {
            if member.key == "__metadata__" {
                metadata = try Self.metadata(member.value)
            } else {
                guard member.key.utf8.count <= Self.nameLimit else {
                    throw SafetensorsError("a tensor's name has \(member.key.utf8.count) bytes, above the limit of \(Self.nameLimit)")
                }
                entries[member.key] = try Self.entry(member.key, member.value, dataSize: dataSize)
                names.append(member.key)
            }
        }
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

    private static func metadata(_ value: StrictJSON) throws -> [String: String] {
        guard case .object(let members) = value else { throw SafetensorsError("__metadata__ is \(value.kind), not an object") }
        var result: [String: String] = [:]
        for member in members {
            guard case .string(let text) = member.value else {
                throw SafetensorsError("__metadata__ \(member.key.quotedForMessage) is \(member.value.kind), not a string")
            }
            result[member.key] = text
        }
        return result
    }

    private static func entry(_ name: String, _ value: StrictJSON, dataSize: Int) throws -> SafetensorsEntry {
        func failure(_ what: String) -> SafetensorsError { SafetensorsError("tensor \(name.quotedForMessage): \(what)") }
        guard case .object(let members) = value else { throw failure("its header entry is \(value.kind), not an object") }
        for member in members where !["dtype", "shape", "data_offsets"].contains(member.key) {
            throw failure("unknown field \(member.key.quotedForMessage)")
        }
        guard case .string(let typeName)? = value["dtype"] else { throw failure("dtype is missing or no string") }
        guard let type = ElementType(rawValue: typeName) else {
            throw failure(
                "dtype \(typeName.quotedForMessage) is not supported (\(ElementType.allCases.map(\.rawValue).joined(separator: ", ")))")
        }
        let shape = try integers(value["shape"]) ?? { throw failure("shape is missing or no list of whole numbers") }()
        guard shape.count <= rankLimit else { throw failure("shape has \(shape.count) axes, above the limit of \(rankLimit)") }
        var bytes = type.size
        // Zero extents first: a product that overflows beside a zero is still a shape nobody means.
        for extent in shape {
            guard extent >= 0 else { throw failure("shape \(shape) has a negative extent") }
            let (product, overflow) = bytes.multipliedReportingOverflow(by: max(extent, 1))
            guard !overflow else { throw failure("shape \(shape) is too large") }
            bytes = product
        }
        if shape.contains(0) { bytes = 0 }
        guard let offsets = integers(value["data_offsets"]), offsets.count == 2 else {
            throw failure("data_offsets is missing or no pair of whole numbers")
        }
        guard 0 <= offsets[0], offsets[0] <= offsets[1], offsets[1] <= dataSize else {
            throw failure("data_offsets \(offsets) do not lie within the file's \(dataSize) data bytes")
        }
        guard offsets[1] - offsets[0] == bytes else {
            throw failure("data_offsets \(offsets) hold \(offsets[1] - offsets[0]) bytes, but \(typeName) of shape \(shape) needs \(bytes)")
        }
        return SafetensorsEntry(dtype: type, shape: shape, begin: offsets[0], end: offsets[1])
    }

    private static func integers(_ value: StrictJSON?) -> [Int]? {
        guard case .array(let items)? = value else { return nil }
        var result: [Int] = []
        for item in items {
            guard case .integer(let integer) = item else { return nil }
            result.append(integer)
        }
        return result
    }
}
