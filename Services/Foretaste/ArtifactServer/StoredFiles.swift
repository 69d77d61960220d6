import Artifacts
import Foundation
import NIOCore
import Synchronization

/// An open file on its way out; closed when nobody holds it any more.
final class ServedFile: Sendable {
    let bytes: Int
    let status: FileStatus
    private let descriptor: Int32

    init(root: String, components: [String]) throws {
        (descriptor, bytes) = try FileRoot.open(root: root, components: components, url: components.joined(separator: "/"))
        status = FileStatus(descriptor)
    }

    deinit { close(descriptor) }

    func read(_ offset: Int, _ count: Int) throws -> ByteBuffer {
        var buffer = ByteBufferAllocator().buffer(capacity: count)
        let done = try buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: count) { memory in
            let done = pread(descriptor, memory.baseAddress, count, off_t(offset))
            // A file that became shorter cannot be served to its end: the connection breaks, and the client sees it.
            guard done > 0 else { throw POSIXError(done < 0 ? .EIO : .EPIPE) }
            return done
        }
        return done > 0 ? buffer : ByteBuffer()
    }
}

/// What tells one version of a file from the next.
struct FileStatus: Sendable, Equatable {
    let inode: UInt64
    let size: Int
    let seconds: Int
    let nanoseconds: Int

    init(_ descriptor: Int32) {
        var status = stat()
        fstat(descriptor, &status)
        inode = UInt64(status.st_ino)
        size = Int(status.st_size)
        seconds = status.st_mtim.tv_sec
        nanoseconds = status.st_mtim.tv_nsec
    }
}

/// A body on its way in: a file that gets its name when it is whole. One request uses it, a step at a time.
final class IncomingFile: @unchecked Sendable {  // a request's steps follow one another; nothing else holds it
    private var hash = SHA256()
    private var known: String?
    private let file: NewFile

    var count: Int { file.count }
    var status: FileStatus { FileStatus(file.descriptor) }

    init(root: String, components: [String]) throws {
        var folder = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { throw ArtifactError.storage(path: root, reason: String(cString: strerror(errno))) }
        for component in components.dropLast() {
            mkdirat(folder, component, 0o755)
            let next = openat(folder, component, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
            let code = errno
            close(folder)
            guard next >= 0 else { throw ArtifactError.storage(path: component, reason: String(cString: strerror(code))) }
            folder = next
        }
        file = try NewFile(folder: folder, name: components.last ?? "")
    }

    func append(_ buffer: ByteBuffer) throws {
        try buffer.withUnsafeReadableBytes { bytes in
            hash.update(bytes)
            try file.append(bytes)
        }
    }

    /// The digest of what came; nothing may come after it.
    func digest() -> String {
        if let known { return known }
        let digest = SHA256.hex(hash.finish())
        known = digest
        return digest
    }

    /// Puts the file in its place; answers whether one was there.
    func commit() throws -> Bool { try file.commit() }
}

/// The digests of files that came through this server, as long as the files stay as they were.
final class DigestMemory: Sendable {
    private let known = Mutex<[[String]: (digest: String, status: FileStatus)]>([:])

    func remember(_ components: [String], _ digest: String, status: FileStatus) {
        known.withLock {
            // Names alone; a server that runs for long forgets rather than grows.
            if $0.count >= 100_000 { $0.removeAll() }
            $0[components] = (digest, status)
        }
    }

    /// The entity tag: the sha256 when known, else a weak one of size and time.
    func tag(for components: [String], _ file: ServedFile) -> String {
        if components.dropLast() == ["blobs"], let name = components.last, SHA256.isHexDigest(name) { return "\"\(name)\"" }
        if let known = known.withLock({ $0[components] }), known.status == file.status { return "\"\(known.digest)\"" }
        return "W/\"\(file.status.inode)-\(file.status.size)-\(file.status.seconds)-\(file.status.nanoseconds)\""
    }
}
