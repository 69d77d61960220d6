#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

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
