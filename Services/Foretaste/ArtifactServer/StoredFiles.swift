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

/// A body on its way in: a temporary file beside its destination, renamed when it is whole. One request uses it, a step at a time.
final class IncomingFile: @unchecked Sendable {  // a request's steps follow one another; nothing else holds it
    private(set) var count = 0
    private var hash = SHA256()
    private var known: String?
    private let folder: Int32
    private let descriptor: Int32
    private let name: String
    private let temporary: String
    private var committed = false

    var status: FileStatus { FileStatus(descriptor) }

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
        name = components.last ?? ""
        temporary = ".\(name.prefix(80)).\(getpid()).\(UInt64.random(in: 0...UInt64.max))"
        let descriptor = openat(folder, temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o644)
        guard descriptor >= 0 else {
            let code = errno
            close(folder)
            throw ArtifactError.storage(path: name, reason: String(cString: strerror(code)))
        }
        self.folder = folder
        self.descriptor = descriptor
    }

    deinit {
        if !committed { unlinkat(folder, temporary, 0) }
        close(descriptor)
        close(folder)
    }

    func append(_ buffer: ByteBuffer) throws {
        try buffer.withUnsafeReadableBytes { bytes in
            hash.update(bytes)
            var rest = bytes
            while !rest.isEmpty {
                let written = write(descriptor, rest.baseAddress, rest.count)
                if written < 0 && errno == EINTR { continue }
                guard written > 0 else { throw ArtifactError.storage(path: name, reason: String(cString: strerror(errno))) }
                rest = UnsafeRawBufferPointer(rebasing: rest[written...])
            }
            count += bytes.count
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
    func commit() throws -> Bool {
        let existed = faccessat(folder, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0
        guard fsync(descriptor) == 0, renameat(folder, temporary, folder, name) == 0 else {
            throw ArtifactError.storage(path: name, reason: String(cString: strerror(errno)))
        }
        committed = true
        return existed
    }
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
