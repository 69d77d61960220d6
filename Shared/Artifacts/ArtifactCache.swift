import Foundation
import Synchronization

/// Fetched artifacts by digest: `blobs/<sha256>`, and `parts/` with what is not complete. Any file in it may be deleted at any time.
///
/// Several processes may use one folder. It is kept below a size: when it has grown above, those that were not used for longest are deleted,
/// but none that was used in the last ten minutes, because somebody may be about to open it.
public struct ArtifactCache: Sendable {
    /// What the cache holds, or what a pruning did.
    public struct Usage: Sendable, Equatable {
        /// Complete artifacts.
        public var files = 0
        /// Their bytes.
        public var bytes = 0
        /// Bytes of transfers that are not complete.
        public var partBytes = 0
        /// Artifacts that were deleted.
        public var removedFiles = 0
        /// Their bytes.
        public var removedBytes = 0
    }

    /// How large the cache may be when nothing else is said.
    public static let defaultLimit = 64 << 30

    /// Where it is.
    public let folder: String
    /// How many bytes it may have.
    public let limit: Int
    /// What was used so recently is not deleted, in seconds.
    var graceSeconds = 600
    /// What a part's owner left behind is deleted after this long.
    var partSeconds = 7 * 86_400
    private let growth = Growth()

    var blobs: String { folder + "/blobs" }
    var parts: String { folder + "/parts" }
    private var locks: String { folder + "/locks" }

    /// The cache in a folder, kept below `limit` bytes.
    public init(folder: String, limit: Int = ArtifactCache.defaultLimit) {
        self.folder = folder
        self.limit = limit
    }

    /// Makes the folders, and the tag that keeps backup programs out (https://bford.info/cachedir/).
    func prepare() throws(ArtifactError) {
        for path in [blobs, parts, locks] where access(path, F_OK) != 0 {
            do {
                try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            } catch {
                throw .storage(path: path, reason: "the cache's folder cannot be made: \(error.localizedDescription)")
            }
        }
        let tag = folder + "/CACHEDIR.TAG"
        guard access(tag, F_OK) != 0 else { return }
        let text = "Signature: 8a477f597d28d172789f06886806bc55\n# Artifacts fetched by foretaste; safe to delete.\n"
        guard FileManager.default.createFile(atPath: tag, contents: Data(text.utf8)) else {
            throw .storage(path: tag, reason: systemReason())
        }
    }

    func path(_ sha256: String) -> String { blobs + "/" + sha256 }

    /// The lock on a digest, when it is free.
    func lock(_ sha256: String, exclusive: Bool) throws(ArtifactError) -> CacheLock? {
        try CacheLock.take("\(locks)/\(sha256)", exclusive: exclusive)
    }

    /// The cached file's size after its digest was verified; `nil` when there is none. A damaged file is deleted. Call it under the lock.
    func verified(_ sha256: String) -> Int? {
        // Its time of change is the time of its last use.
        guard utimensat(AT_FDCWD, path(sha256), nil, 0) == 0 || errno != ENOENT,
            let found = try? SHA256.digest(ofFile: path(sha256))
        else { return nil }
        guard found.hex == sha256 else {
            unlink(path(sha256))
            return nil
        }
        return found.bytes
    }

    /// Moves a complete part to its place, at once, and makes room when the cache has become too large.
    func adopt(part: String, sha256: String, bytes: Int) throws(ArtifactError) -> String {
        let destination = path(sha256)
        chmod(part, 0o444)
        utimensat(AT_FDCWD, part, nil, 0)
        guard rename(part, destination) == 0 else { throw .storage(path: destination, reason: systemReason()) }
        PartFile.removeNotes(of: part)
        // Looking costs something, and others put files here as well: now and then.
        if growth.isDue(bytes, every: max(1, limit / 50)) { _ = try? prune() }
        return destination
    }

    /// What the cache holds.
    public func usage() -> Usage { measure().usage }

    /// Deletes what was not used for longest until the cache is a tenth below its limit, if it is above it, and transfers that nobody takes up
    /// any more. Safe while others fetch and read.
    /// - Parameter limit: another limit than the cache's own, this once.
    @discardableResult
    public func prune(to limit: Int? = nil) throws(ArtifactError) -> Usage {
        try prepare()
        let limit = limit ?? self.limit
        // One at a time is enough.
        guard let pruning = try CacheLock.take("\(folder)/prune.lock", exclusive: true) else { return measure().usage }
        defer { withExtendedLifetime(pruning) {} }
        removeOldParts()
        var (usage, blobs) = measure()
        guard usage.bytes + usage.partBytes > limit else { return usage }
        let now = Int(time(nil))
        blobs.sort { ($0.used, $0.name) < ($1.used, $1.name) }
        for blob in blobs where usage.bytes + usage.partBytes > limit / 10 * 9 {
            // In use, or used since it was listed: not this one.
            guard blob.used <= now - graceSeconds, let lock = try lock(blob.name, exclusive: true),
                let status = Self.status(path(blob.name)),
                status.used <= now - graceSeconds, unlink(path(blob.name)) == 0
            else { continue }
            lock.removeFile()
            usage.files -= 1
            usage.bytes -= blob.bytes
            usage.removedFiles += 1
            usage.removedBytes += blob.bytes
        }
        return usage
    }

    private struct Blob {
        let name: String
        let bytes: Int
        let used: Int
    }

    private static func status(_ path: String) -> (bytes: Int, used: Int)? {
        var status = stat()
        guard lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return nil }
        return (Int(status.st_size), Int(status.st_mtim.tv_sec))
    }

    private static func names(_ folder: String) -> [String] { (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? [] }

    private func measure() -> (usage: Usage, blobs: [Blob]) {
        let blobs = Self.names(blobs).compactMap { name in Self.status(path(name)).map { Blob(name: name, bytes: $0.bytes, used: $0.used) }
        }
        var usage = Usage(files: blobs.count, bytes: blobs.reduce(0) { $0 + $1.bytes })
        usage.partBytes = Self.names(parts).reduce(0) { $0 + (Self.status("\(parts)/\($1)")?.bytes ?? 0) }
        return (usage, blobs)
    }

    private func removeOldParts() {
        for name in Self.names(parts) where name.hasSuffix(".part") {
            let path = "\(parts)/\(name)"
            guard let status = Self.status(path), status.used <= Int(time(nil)) - partSeconds else { continue }
            let descriptor = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
            guard descriptor >= 0 else { continue }
            if flock(descriptor, LOCK_EX | LOCK_NB) == 0 {
                unlink(path)
                PartFile.removeNotes(of: path)
            }
            close(descriptor)
        }
    }

    /// How much came in since the cache was last measured by this process.
    private final class Growth: Sendable {
        private let bytes = Mutex<Int?>(nil)

        /// True the first time, and whenever `every` bytes have come.
        func isDue(_ count: Int, every: Int) -> Bool {
            bytes.withLock { bytes in
                guard let before = bytes, before + count < every else {
                    bytes = 0
                    return true
                }
                bytes = before + count
                return false
            }
        }
    }
}
