import CCurl
import Foundation

/// The body of a PUT: an open file or bytes.
///
/// Slices share what never changes; each has a position of its own and belongs to one thread.
final class UploadSource: @unchecked Sendable {  // only `offset` changes, on the thread that has the slice
    let count: Int
    private let bytes: [UInt8]
    private let descriptor: Int32
    private let start: Int
    private var offset = 0

    init(bytes: [UInt8]) {
        self.bytes = bytes
        start = 0
        count = bytes.count
        descriptor = -1
    }

    /// The descriptor stays the caller's.
    init(descriptor: Int32, count: Int) {
        bytes = []
        start = 0
        self.count = count
        self.descriptor = descriptor
    }

    private init(_ whole: UploadSource, from start: Int, count: Int) {
        bytes = whole.bytes
        descriptor = whole.descriptor
        self.start = whole.start + start
        self.count = count
    }

    /// A part of it, with a position of its own.
    func slice(from start: Int, count: Int) -> UploadSource { UploadSource(self, from: start, count: count) }

    /// The hexadecimal SHA-256 of all of it; `nil` when it cannot be read. Ends at its beginning.
    func digest() -> String? {
        offset = 0
        defer { offset = 0 }
        var hash = SHA256()
        let complete = withUnsafeTemporaryAllocation(byteCount: 1 << 18, alignment: 64) { buffer in
            while offset < count {
                let wanted = count - offset
                let done = read(into: buffer)
                guard done > 0, done <= wanted else { return false }
                hash.update(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<done]))
            }
            return true
        }
        return complete ? SHA256.hex(hash.finish()) : nil
    }

    func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        let wanted = min(buffer.count, count - offset)
        guard wanted > 0 else { return 0 }
        var done = wanted
        if descriptor >= 0 {
            done = pread(descriptor, buffer.baseAddress, wanted, off_t(start + offset))
            guard done > 0 else { return Int(CURL_READFUNC_ABORT) }
        } else {
            bytes.withUnsafeBytes {
                buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[(start + offset)..<(start + offset + wanted)]))
            }
        }
        offset += done
        return done
    }

    func seek(to position: Int) -> Bool {
        guard (0...count).contains(position) else { return false }
        offset = position
        return true
    }
}
