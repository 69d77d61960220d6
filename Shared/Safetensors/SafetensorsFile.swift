#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif
public import Tensors

/// A safetensors file whose header was checked in full when it was opened; tensors are read one at a time, when asked for.
public struct SafetensorsFile: Sendable {
    private let header: SafetensorsHeader
    private let source: Source

    /// Opens the file and validates its header. Only the header is read.
    /// - Throws: `SafetensorsError` with the file's name and what is wrong, where.
    public init(contentsOf path: String) throws {
        let name = String(path.split(separator: "/").last ?? "")
        do {
            let file = try OpenFile(path: path)
            let length = try SafetensorsHeader.length(prefix: file.read(at: 0, count: min(8, file.size)), fileSize: file.size)
            header = try SafetensorsHeader(text: file.read(at: 8, count: length), dataSize: file.size - 8 - length)
            source = .file(file)
        } catch let error as SafetensorsError {
            throw error.inside(name)
        }
    }

    /// The same on bytes in memory, for a request's body.
    public init(data: [UInt8]) throws {
        let length = try SafetensorsHeader.length(prefix: Array(data.prefix(8)), fileSize: data.count)
        header = try SafetensorsHeader(text: Array(data[8..<8 + length]), dataSize: data.count - 8 - length)
        source = .bytes(data)
    }

    /// The file's `__metadata__`, empty when it has none.
    public var metadata: [String: String] { header.metadata }
    /// The tensors' names in the order of their data.
    public var names: [String] { header.names }
    /// What the header says of each tensor.
    public var entries: [String: SafetensorsEntry] { header.entries }

    /// Reads a floating-point tensor (F32, F16, BF16, F64) as Float32.
    /// - Throws: `SafetensorsError` when there is no such tensor, or it holds integers, or the file shrank meanwhile.
    public func tensor(_ name: String) throws -> Tensor {
        let entry = try entry(name)
        guard entry.dtype.isFloatingPoint else {
            throw SafetensorsError("tensor \(name.quotedForMessage) is \(entry.dtype.rawValue), not a floating-point type")
        }
        return try Tensor(shape: entry.shape) { target in
            guard let base = target.baseAddress, entry.count > 0 else { return }
            if entry.dtype == .float32 {
                try copy(entry, into: UnsafeMutableRawBufferPointer(target))
                return
            }
            try withBytes(of: entry) { bytes in
                switch entry.dtype {
                case .bfloat16:
                    for index in 0..<entry.count {
                        let bits = bytes.loadUnaligned(fromByteOffset: 2 * index, as: UInt16.self)
                        base[index] = Float(bitPattern: UInt32(bits) << 16)
                    }
                case .float16:
                    for index in 0..<entry.count {
                        base[index] = Float(Float16(bitPattern: bytes.loadUnaligned(fromByteOffset: 2 * index, as: UInt16.self)))
                    }
                default:
                    for index in 0..<entry.count {
                        base[index] = Float(bytes.loadUnaligned(fromByteOffset: 8 * index, as: Double.self))
                    }
                }
            }
        }
    }

    /// Reads a tensor of integers or booleans, row-major.
    /// - Throws: `SafetensorsError` when there is no such tensor, it holds floats, or a U64 value is above the range of Int64.
    public func integers(_ name: String) throws -> [Int64] {
        let entry = try entry(name)
        return try withBytes(of: entry) { bytes in
            func read<T: FixedWidthInteger>(_ type: T.Type) throws -> [Int64] {
                try (0..<entry.count).map { index in
                    let value = bytes.loadUnaligned(fromByteOffset: index * MemoryLayout<T>.size, as: T.self)
                    guard let result = Int64(exactly: value) else {
                        throw SafetensorsError("tensor \(name.quotedForMessage): \(value) is out of range")
                    }
                    return result
                }
            }
            switch entry.dtype {
            case .bool, .uint8: return try read(UInt8.self)
            case .int8: return try read(Int8.self)
            case .uint16: return try read(UInt16.self)
            case .int16: return try read(Int16.self)
            case .uint32: return try read(UInt32.self)
            case .int32: return try read(Int32.self)
            case .uint64: return try read(UInt64.self)
            case .int64: return try read(Int64.self)
            default: throw SafetensorsError("tensor \(name.quotedForMessage) is \(entry.dtype.rawValue), not an integer type")
            }
        }
    }

    private func entry(_ name: String) throws -> SafetensorsEntry {
        guard let entry = entries[name] else {
            throw SafetensorsError(
                "no tensor \(name.quotedForMessage) (there are: \(names.prefix(12).joined(separator: ", "))\(names.count > 12 ? ", ..." : ""))"
            )
        }
        return entry
    }

    private func withBytes<R>(of entry: SafetensorsEntry, _ body: (UnsafeRawBufferPointer) throws -> R) throws -> R {
        switch source {
        case .bytes(let data):
            return try data.withUnsafeBytes {
                try body(UnsafeRawBufferPointer(rebasing: $0[header.dataStart + entry.begin..<header.dataStart + entry.end]))
            }
        case .file(let file):
            let bytes = try file.read(at: header.dataStart + entry.begin, count: entry.end - entry.begin)
            return try bytes.withUnsafeBytes(body)
        }
    }

    private func copy(_ entry: SafetensorsEntry, into target: UnsafeMutableRawBufferPointer) throws {
        switch source {
        case .bytes: try withBytes(of: entry) { target.copyMemory(from: $0) }
        case .file(let file): try file.read(at: header.dataStart + entry.begin, into: target)
        }
    }

    private enum Source: Sendable {
        case bytes([UInt8])
        case file(OpenFile)
    }
}

/// A descriptor that closes itself; reads are positioned, so that threads may share it.
final class OpenFile: Sendable {
    private let descriptor: Int32
    let size: Int

    init(path: String) throws {
        // Non-blocking: the open of a pipe that nobody writes to must fail the check below, not wait. Regular files do not care.
        descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw SafetensorsError("cannot be opened: \(String(cString: strerror(errno)))") }
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            close(descriptor)
            throw SafetensorsError("is not a regular file")
        }
        size = Int(status.st_size)
    }

    deinit { close(descriptor) }

    func read(at offset: Int, count: Int) throws -> [UInt8] {
        try [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            try read(at: offset, into: UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: count))
            initialized = count
        }
    }

    func read(at offset: Int, into target: UnsafeMutableRawBufferPointer) throws {
        var done = 0
        while done < target.count {
            let got = pread(descriptor, target.baseAddress! + done, min(target.count - done, 1 << 30), off_t(offset + done))
            if got < 0 && errno == EINTR { continue }
            guard got > 0 else { throw SafetensorsError("ends \(target.count - done) bytes too early: it shrank while it was read") }
            done += got
        }
    }
}
