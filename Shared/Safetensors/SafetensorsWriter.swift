#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif
public import Tensors

/// Writes safetensors files. The same tensors and metadata give the same bytes, always: metadata is sorted by key, tensors keep
/// the order they are given in, and the header is padded with spaces to a multiple of eight bytes.
public enum SafetensorsWriter {
    /// The whole file in memory.
    public static func data(tensors: [(String, Tensor)], metadata: [String: String] = [:], dtype: FloatStorage = .float32) -> [UInt8] {
        var bytes = header(tensors.map { ($0.0, $0.1.shape) }, metadata: metadata, dtype: dtype)
        bytes.reserveCapacity(bytes.count + tensors.reduce(0) { $0 + $1.1.count * dtype.elementType.size })
        for (_, tensor) in tensors { append(tensor, dtype, to: &bytes) }
        return bytes
    }

    /// Writes the file beside its final place and renames it there when it is complete: a reader sees the old file or the whole new one.
    /// - Throws: `SafetensorsError`; nothing is left behind then.
    public static func write(
        tensors: [(String, Tensor)], metadata: [String: String] = [:], dtype: FloatStorage = .float32, to path: String
    ) throws {
        let temporary = "\(path).\(getpid()).\(UInt32.random(in: 0 ... .max)).partial"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw SafetensorsError("cannot write \(path): \(String(cString: strerror(errno)))") }
        do {
            defer { close(descriptor) }
            try put(header(tensors.map { ($0.0, $0.1.shape) }, metadata: metadata, dtype: dtype), to: descriptor, path)
            for (_, tensor) in tensors {
                var bytes: [UInt8] = []
                append(tensor, dtype, to: &bytes)
                try put(bytes, to: descriptor, path)
            }
            guard fsync(descriptor) == 0 else { throw failure(path) }
        } catch {
            unlink(temporary)
            throw error
        }
        guard rename(temporary, path) == 0 else {
            let error = failure(path)
            unlink(temporary)
            throw error
        }
    }

    private static func failure(_ path: String) -> SafetensorsError {
        SafetensorsError("cannot write \(path): \(String(cString: strerror(errno)))")
    }

    private static func put(_ bytes: [UInt8], to descriptor: Int32, _ path: String) throws {
        try bytes.withUnsafeBytes { buffer in
            var done = 0
            while done < buffer.count {
                let written = systemWrite(descriptor, buffer.baseAddress! + done, min(buffer.count - done, 1 << 30))
                if written < 0 && errno == EINTR { continue }
                guard written > 0 else { throw failure(path) }
                done += written
            }
        }
    }

    private static func header(_ shapes: [(String, [Int])], metadata: [String: String], dtype: FloatStorage) -> [UInt8] {
        precondition(Set(shapes.map(\.0)).count == shapes.count, "two tensors of one name")
        var members: [String] = []
        if !metadata.isEmpty {
            let pairs = metadata.sorted { $0.key < $1.key }.map { "\(StrictJSON.quoted($0.key)):\(StrictJSON.quoted($0.value))" }
            members.append("\"__metadata__\":{\(pairs.joined(separator: ","))}")
        }
        var offset = 0
        for (name, shape) in shapes {
            let end = offset + shape.reduce(1, *) * dtype.elementType.size
            let extents = shape.map(String.init).joined(separator: ",")
            members.append(
                "\(StrictJSON.quoted(name)):{\"dtype\":\"\(dtype.elementType.rawValue)\",\"shape\":[\(extents)],\"data_offsets\":[\(offset),\(end)]}"
            )
            offset = end
        }
        var text = Array("{\(members.joined(separator: ","))}".utf8)
        while text.count % 8 != 0 { text.append(UInt8(ascii: " ")) }
        return (0..<8).map { UInt8(truncatingIfNeeded: text.count >> (8 * $0)) } + text
    }

    private static func append(_ tensor: Tensor, _ dtype: FloatStorage, to bytes: inout [UInt8]) {
        tensor.withUnsafeBufferPointer { values in
            switch dtype {
            case .float32: bytes.append(contentsOf: UnsafeRawBufferPointer(values))
            case .bfloat16: for value in values { withUnsafeBytes(of: bfloat16Bits(value)) { bytes.append(contentsOf: $0) } }
            case .float16: for value in values { withUnsafeBytes(of: Float16(value).bitPattern) { bytes.append(contentsOf: $0) } }
            }
        }
    }
}

/// The system call, under a name that the enum's own `write` does not hide.
private func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawPointer, _ count: Int) -> Int { write(descriptor, bytes, count) }
