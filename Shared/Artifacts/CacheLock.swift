import Foundation

/// A lock on one digest, between the tasks of a process and between processes: shared by those who look into the cache, exclusive for whoever
/// fetches or deletes. The kernel frees it with its holder, however that ends.
final class CacheLock: Sendable {
    private let descriptor: Int32
    private let path: String

    private init(descriptor: Int32, path: String) {
        self.descriptor = descriptor
        self.path = path
    }

    deinit {
        // By name: a child that is just being started holds a copy of the descriptor until it runs its own program.
        flock(descriptor, LOCK_UN)
        close(descriptor)
    }

    /// Takes it when it is free; `nil` when somebody has it.
    static func take(_ path: String, exclusive: Bool) throws(ArtifactError) -> CacheLock? {
        while true {
            let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o666)
            guard descriptor >= 0 else { throw .storage(path: path, reason: systemReason()) }
            // A file system without locks has none to wait for.
            if flock(descriptor, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0, errno == EWOULDBLOCK {
                close(descriptor)
                return nil
            }
            var (open, named) = (stat(), stat())
            if fstat(descriptor, &open) == 0, stat(path, &named) == 0, open.st_ino == named.st_ino, open.st_dev == named.st_dev {
                return CacheLock(descriptor: descriptor, path: path)
            }
            // Its holder before deleted it: the lock of that name is another one now.
            close(descriptor)
        }
    }

    /// Deletes the lock's file; only for who has it exclusively.
    func removeFile() { unlink(path) }
}
