import Safetensors
import Tensors

/// What every input must satisfy, whoever made it: the mutator of `make test` and libFuzzer both ask here.
public enum FileCheck {
    /// What became of an input.
    public enum Verdict: Sendable, Equatable {
        case refused
        /// Opened, and consistent in every respect that is checked here.
        case accepted
        /// Opened, but it says something else than its bytes do.
        case inconsistent(String)
    }

    /// Bytes that opening a file of `size` bytes may take at most, in all: what a header holds costs memory, what it claims does not.
    public static func allowance(size: Int) -> Int { 8 * size + (1 << 20) }

    /// Opens `bytes` as a safetensors file. What is accepted is compared with an independent reading of the same header as a JSON tree, and
    /// every tensor is read.
    public static func verdict(of bytes: [UInt8]) -> Verdict {
        guard let file = try? SafetensorsFile(data: bytes) else { return .refused }
        let length = bytes.prefix(8).enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
        guard let tree = try? StrictJSON.parse(Array(bytes[8..<8 + length])), case .object(let members) = tree else {
            return .inconsistent("the header is no JSON object without duplicates")
        }
        let tensors = members.filter { $0.key != "__metadata__" }
        guard tensors.count == file.names.count, file.entries.count == file.names.count else {
            return .inconsistent("\(tensors.count) members, \(file.names.count) names")
        }
        var position = 0
        for name in file.names {
            guard let entry = file.entries[name], let member = tree[name] else { return .inconsistent("no entry for \(name)") }
            guard member["dtype"] == .string(entry.dtype.rawValue), member["shape"] == .array(entry.shape.map(StrictJSON.integer)) else {
                return .inconsistent("\(name) is not what its member says")
            }
            let size = entry.shape.reduce(entry.dtype.size, *)
            guard entry.shape.allSatisfy({ $0 >= 0 }), size >= 0,
                member["data_offsets"] == .array([.integer(position), .integer(position + size)])
            else { return .inconsistent("\(name) does not lie at \(position) with \(size) bytes") }
            let data = Array(bytes[8 + length + position..<8 + length + position + size])
            if let problem = content(of: name, entry, file, data) { return .inconsistent(problem) }
            position += size
        }
        guard 8 + length + position == bytes.count else { return .inconsistent("\(position) bytes of tensors in \(bytes.count)") }
        return metadata(of: file, tree["__metadata__"])
    }

    private static func metadata(of file: SafetensorsFile, _ value: StrictJSON?) -> Verdict {
        guard case .object(let members) = value ?? .object([]), members.count == file.metadata.count,
            members.allSatisfy({ member in file.metadata[member.key].map { member.value == .string($0) } ?? false })
        else { return .inconsistent("metadata differs") }
        return .accepted
    }

    /// Reads the tensor and compares its first and last element with the bytes; a value that is refused must deserve it.
    private static func content(of name: String, _ entry: SafetensorsEntry, _ file: SafetensorsFile, _ data: [UInt8]) -> String? {
        let size = entry.dtype.size
        func bits(_ element: Int) -> UInt64 {
            data[element * size..<(element + 1) * size].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }
        func float(_ element: Int) -> Float {
            switch entry.dtype {
            case .float32: Float(bitPattern: UInt32(bits(element)))
            case .float16: Float(Float16(bitPattern: UInt16(bits(element))))
            case .bfloat16: Float(bitPattern: UInt32(bits(element)) << 16)
            default: Float(Double(bitPattern: bits(element)))
            }
        }
        func integer(_ element: Int) -> Int64 {
            switch entry.dtype {
            case .int8: Int64(Int8(truncatingIfNeeded: bits(element)))
            case .int16: Int64(Int16(truncatingIfNeeded: bits(element)))
            case .int32: Int64(Int32(truncatingIfNeeded: bits(element)))
            default: Int64(truncatingIfNeeded: bits(element))
            }
        }
        let ends = entry.count == 0 ? [] : [0, entry.count - 1]
        if entry.dtype.isFloatingPoint {
            guard let tensor = try? file.tensor(name), tensor.shape == entry.shape, (try? file.integers(name)) == nil else {
                return "\(name) is not read as floats alone"
            }
            let values = tensor.array
            return ends.allSatisfy { values[$0].isNaN ? float($0).isNaN : values[$0] == float($0) } ? nil : "\(name) has other values"
        }
        guard (try? file.tensor(name)) == nil else { return "\(name) is read as floats" }
        guard let values = try? file.integers(name) else {
            let refusable = (0..<entry.count).contains { element in
                entry.dtype == .bool ? bits(element) > 1 : entry.dtype == .uint64 && bits(element) > UInt64(Int64.max)
            }
            return refusable ? nil : "\(name) is not read"
        }
        return values.count == entry.count && ends.allSatisfy { values[$0] == integer($0) } ? nil : "\(name) has other values"
    }
}
