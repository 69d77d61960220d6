import Foundation
import Synchronization

/// Fetched artifacts by digest: `blobs/<sha256>`, `folders/<sha256>` with models made of them, and `parts/` with what is not complete.
/// Anything in it may be deleted at any time.
///
/// Several processes may use one folder. It is kept below a size: when it has grown above, what was not used for longest is deleted, but
/// nothing that was used in the last ten minutes, because somebody may be about to open it, and no folder that somebody holds.
public struct ArtifactCache: Sendable {
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
    var folders: String { folder + "/folders" }
    var parts: String { folder + "/parts" }
    var locks: String { folder + "/locks" }

    /// The cache in a folder, kept below `limit` bytes.
    public init(folder: String, limit: Int = ArtifactCache.defaultLimit) {
        self.folder = folder
        self.limit = limit
    }

    /// Makes the folders, and the tag that keeps backup programs out (https://bford.info/cachedir/).
    func prepare() throws(ArtifactError) {
        for path in [blobs, folders, parts, locks] where access(path, F_OK) != 0 {
            do {
                try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            } catch {
                throw .storage(path: path, reason: "the cache's folder cannot be made: \(error.localizedDescription)")
            }
        }
        let tag = folder + "/CACHEDIR.TAG"
        guard access(tag, F_OK) != 0 else { return }
        let text = "Signature: 8a477f597d28d172789f06886806bc55\n# Artifacts fetched by foretaste; safe to delete.\n"
        let descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .storage(path: folder, reason: systemReason()) }
        let file = try NewFile(folder: descriptor, name: "CACHEDIR.TAG")
        try file.append(Array(text.utf8))
        try file.commit()
    }

    func path(_ sha256: String, _ kind: Entry.Kind = .artifact) -> String { (kind == .artifact ? blobs : folders) + "/" + sha256 }

    /// The lock on a digest, when it is free.
    func lock(_ sha256: String, _ kind: Entry.Kind = .artifact, exclusive: Bool) throws(ArtifactError) -> CacheLock? {
        try CacheLock.take(lockPath(sha256, kind), exclusive: exclusive)
    }

    func lockPath(_ sha256: String, _ kind: Entry.Kind) -> String { "\(locks)/\(kind == .artifact ? "" : "folder-")\(sha256)" }

    /// The cached file's size after its digest was verified; `nil` when there is none. A damaged file is deleted. Call it under the lock.
    func verified(_ sha256: String) -> Int? {
        guard markUsed(path(sha256)), let found = try? SHA256.digest(ofFile: path(sha256)) else { return nil }
        guard found.hex == sha256 else {
            unlink(path(sha256))
            return nil
        }
        return found.bytes
    }

    /// Its time of change is the time of its last use. False when there is no such thing.
    func markUsed(_ path: String) -> Bool { utimensat(AT_FDCWD, path, nil, 0) == 0 || errno != ENOENT }

    /// Moves a complete part to its place, at once, and makes room when the cache has become too large.
    func adopt(part: String, sha256: String, bytes: Int) throws(ArtifactError) -> String {
        let destination = path(sha256)
        chmod(part, 0o444)
        utimensat(AT_FDCWD, part, nil, 0)
        guard rename(part, destination) == 0 else { throw .storage(path: destination, reason: systemReason()) }
        PartFile.removeNotes(of: part)
        pruneIfGrown(by: bytes)
        return destination
    }

    /// Looking costs something, and others put files here as well: now and then.
    func pruneIfGrown(by bytes: Int) {
        if growth.isDue(bytes, every: max(1, limit / 50)) { _ = try? prune() }
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
