#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif
public import Tensors

/// A safetensors file whose header was checked in full when it was opened; tensors are read one at a time, when asked for.
///
/// Files are read with positioned reads, not mapped: one that shrinks meanwhile is an error here, where a mapping would be a SIGBUS.
public struct SafetensorsFile: Sendable {
    private let header: SafetensorsHeader
    private let source: Source

    /// Opens the file and validates its header. Only the header is read. Symbolic links are followed; what is no regular file is refused.
    /// - Throws: `SafetensorsError` with the file's name and what is wrong, where.
    public init(contentsOf path: String) throws {
        let name = String(path.split(separator: "/").last ?? "")
        do {
            let file = try OpenFile(path: path)
            let length = try SafetensorsHeader.length(prefix: file.read(at: 0, count: min(8, file.size)), fileSize: file.size)
            header = try file.read(at: 8, count: length).withUnsafeBufferPointer {
                try SafetensorsHeader(text: $0, dataSize: file.size - 8 - length)
            }
            source = .file(file)
        } catch let error as SafetensorsError {
            throw error.inside(name)
        }
    }

    /// The same on bytes in memory, for a request's body.
    public init(data: [UInt8]) throws {
        let length = try SafetensorsHeader.length(prefix: Array(data.prefix(8)), fileSize: data.count)
        header = try data.withUnsafeBufferPointer {
            try SafetensorsHeader(text: UnsafeBufferPointer(rebasing: $0[8..<8 + length]), dataSize: data.count - 8 - length)
        }
        source = .bytes(data)
    }

    /// The file's `__metadata__`, empty when it has none.
    public var metadata: [String: String] { header.metadata }
    /// The tensors' names in the order of their data.
    public var names: [String] { header.names }
    /// What the header says of each tensor.
    public var entries: [String: SafetensorsEntry] { header.entries }

    /// Reads a floating-point tensor (F32, F16, BF16, F64) as Float32. Beside the result this takes a mebibyte at most.
    /// - Throws: `SafetensorsError` when there is no such tensor, or it holds integers, or the file shrank meanwhile.
    public func tensor(_ name: String) throws -> Tensor {
        let entry = try entry(name)
        guard entry.dtype.isFloatingPoint else {
            throw SafetensorsError("tensor \(name.quotedForMessage) is \(entry.dtype.rawValue), not a floating-point type")
        }
        try requireMemory(name, entry.count, 4)
        return try Tensor(shape: entry.shape) { target in
            guard let base = target.baseAddress, entry.count > 0 else { return }
            if entry.dtype == .float32, case .file(let file) = source {
                return try file.read(at: header.dataStart + entry.begin, into: UnsafeMutableRawBufferPointer(target))
            }
            try forEachPiece(of: entry) { bytes, first in
                let place = base + first
                switch entry.dtype {
                case .float32: UnsafeMutableRawBufferPointer(target).copyMemory(from: bytes)
                case .bfloat16:
                    for index in 0..<bytes.count / 2 {
                        let bits = bytes.loadUnaligned(fromByteOffset: 2 * index, as: UInt16.self)
                        place[index] = Float(bitPattern: UInt32(bits) << 16)
                    }
                case .float16:
                    for index in 0..<bytes.count / 2 {
                        place[index] = Float(Float16(bitPattern: bytes.loadUnaligned(fromByteOffset: 2 * index, as: UInt16.self)))
                    }
                default:
                    for index in 0..<bytes.count / 8 {
                        place[index] = Float(bytes.loadUnaligned(fromByteOffset: 8 * index, as: Double.self))
                    }
                }
            }
        }
    }

    /// Reads a tensor of integers or booleans, row-major.
    /// - Throws: `SafetensorsError` when there is no such tensor, it holds floats, a U64 value is above the range of Int64, or a BOOL is
    ///   neither 0 nor 1.
    public func integers(_ name: String) throws -> [Int64] {
        let entry = try entry(name)
        guard !entry.dtype.isFloatingPoint else {
            throw SafetensorsError("tensor \(name.quotedForMessage) is \(entry.dtype.rawValue), not an integer type")
        }
        try requireMemory(name, entry.count, 8)
        var result: [Int64] = []
        result.reserveCapacity(entry.count)
        try forEachPiece(of: entry) { bytes, _ in
            func read<T: FixedWidthInteger>(_ type: T.Type, upTo limit: Int64 = .max) throws {
                for index in 0..<bytes.count / MemoryLayout<T>.size {
                    let value = bytes.loadUnaligned(fromByteOffset: index * MemoryLayout<T>.size, as: T.self)
                    guard let integer = Int64(exactly: value), integer <= limit else {
                        throw SafetensorsError("tensor \(name.quotedForMessage): \(value) is out of range")
                    }
                    result.append(integer)
                }
            }
            switch entry.dtype {
            case .bool: try read(UInt8.self, upTo: 1)
            case .uint8: try read(UInt8.self)
            case .int8: try read(Int8.self)
            case .uint16: try read(UInt16.self)
            case .int16: try read(Int16.self)
            case .uint32: try read(UInt32.self)
            case .int32: try read(Int32.self)
            case .uint64: try read(UInt64.self)
            default: try read(Int64.self)
            }
        }
        return result
    }

    private func entry(_ name: String) throws -> SafetensorsEntry {
        guard let entry = entries[name] else {
            let known = names.prefix(12).map(\.quotedForMessage).joined(separator: ", ")
            throw SafetensorsError("no tensor \(name.quotedForMessage) (there are: \(known)\(names.count > 12 ? ", ..." : ""))")
        }
        return entry
    }

    /// A sparse file may honestly hold more than memory does: an error is better than what the allocator would do.
    private func requireMemory(_ name: String, _ count: Int, _ size: Int) throws {
        let memory = Int(sysconf(Int32(_SC_PHYS_PAGES))) * Int(sysconf(Int32(_SC_PAGESIZE)))
        guard count <= memory / size else {
            throw SafetensorsError("tensor \(name.quotedForMessage) has \(count) elements, more than this machine's memory holds")
        }
    }

    /// Calls `body` with the tensor's bytes and the number of elements before them: all at once from memory, a mebibyte at a time from a file.
    private func forEachPiece(of entry: SafetensorsEntry, _ body: (UnsafeRawBufferPointer, Int) throws -> Void) throws {
        switch source {
        case .bytes(let data):
            try data.withUnsafeBytes {
                try body(UnsafeRawBufferPointer(rebasing: $0[header.dataStart + entry.begin..<header.dataStart + entry.end]), 0)
            }
        case .file(let file):
            let total = entry.end - entry.begin
            let piece = min(total, 1 << 20)
            let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: piece, alignment: 16)
            defer { scratch.deallocate() }
            var done = 0
            while done < total {
                let part = UnsafeMutableRawBufferPointer(rebasing: scratch[..<min(piece, total - done)])
                try file.read(at: header.dataStart + entry.begin + done, into: part)
                try body(UnsafeRawBufferPointer(part), done / entry.dtype.size)
                done += part.count
            }
        }
    }

    private enum Source: Sendable {
        case bytes([UInt8])
        case file(OpenFile)
    }
}
