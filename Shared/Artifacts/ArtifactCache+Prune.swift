public import Foundation

extension ArtifactCache {
    /// What the cache holds, or what a pruning did.
    public struct Usage: Sendable, Equatable {
        /// Complete artifacts.
        public var files = 0
        /// Their bytes.
        public var bytes = 0
        /// Folders made of artifacts, such as models.
        public var folders = 0
        /// Their bytes.
        public var folderBytes = 0
        /// Bytes of transfers, and of folders, that are not complete.
        public var partBytes = 0
        /// Artifacts that were deleted.
        public var removedFiles = 0
        /// Folders that were deleted.
        public var removedFolders = 0
        /// The bytes of both.
        public var removedBytes = 0

        /// All that counts toward the limit.
        public var total: Int { bytes + folderBytes + partBytes }
    }

    /// One thing that the cache holds.
    public struct Entry: Sendable, Equatable {
        /// What it is.
        public enum Kind: String, Sendable, CaseIterable {
            /// A file.
            case artifact
            /// A folder of files.
            case folder
        }

        /// What it is.
        public let kind: Kind
        /// Its digest; a folder's is that of its manifest.
        public let sha256: String
        /// Its size.
        public let bytes: Int
        /// When it was last asked for.
        public let used: Date
        /// Somebody fetches it, or holds it.
        public let isLocked: Bool
    }

    /// What the cache holds, that which was not used for longest first.
    public func entries() -> [Entry] {
        measure().items.sorted().map { item in
            return Entry(
                kind: item.kind, sha256: item.name, bytes: item.bytes, used: Date(timeIntervalSince1970: Double(item.used)),
                isLocked: isLocked(item))
        }
    }

    /// Whether somebody has its lock. Looking makes no lock's file.
    private func isLocked(_ item: Item) -> Bool {
        guard access(lockPath(item.name, item.kind), F_OK) == 0 else { return false }
        do {
            return try lock(item.name, item.kind, exclusive: true) == nil
        } catch {
            return false
        }
    }

    /// How much the cache holds.
    public func usage() -> Usage { measure().usage }

    /// Deletes what was not used for longest until the cache is a tenth below its limit, if it is above it, and what killed processes left
    /// behind. Safe while others fetch and read.
    /// - Parameter limit: another limit than the cache's own, this once.
    @discardableResult
    public func prune(to limit: Int? = nil) throws(ArtifactError) -> Usage {
        try prepare()
        let limit = limit ?? self.limit
        // One at a time is enough.
        guard let pruning = try CacheLock.take("\(folder)/prune.lock", exclusive: true) else { return measure().usage }
        defer { withExtendedLifetime(pruning) {} }
        removeOldParts()
        removeAbandonedFolders()
        removeOldLocks()
        var (usage, items) = measure()
        guard usage.total > limit else { return usage }
        items.sort()
        for item in items where usage.total > limit / 10 * 9 {
            guard try remove(item) else { continue }
            switch item.kind {
            case .artifact:
                usage.files -= 1
                usage.bytes -= item.bytes
                usage.removedFiles += 1
            case .folder:
                usage.folders -= 1
                usage.folderBytes -= item.bytes
                usage.removedFolders += 1
            }
            usage.removedBytes += item.bytes
        }
        return usage
    }

    /// An entry as a pruning sees it.
    private struct Item: Comparable {
        let kind: Entry.Kind
        let name: String
        let bytes: Int
        let used: Int

        static func < (one: Item, other: Item) -> Bool { (one.used, one.name) < (other.used, other.name) }
    }

    /// Deletes it, unless it is in use or was used since it was listed.
    private func remove(_ item: Item) throws(ArtifactError) -> Bool {
        let latest = Int(time(nil)) - graceSeconds
        guard item.used <= latest, let lock = try lock(item.name, item.kind, exclusive: true),
            let status = Self.status(path(item.name, item.kind)), status.used <= latest
        else { return false }
        switch item.kind {
        case .artifact: guard unlink(path(item.name)) == 0 else { return false }
        case .folder: guard removeFolder(item.name) else { return false }
        }
        lock.removeFile()
        return true
    }

    /// Under another name first: a folder that is deleted halfway must not be found under its digest.
    private func removeFolder(_ name: String) -> Bool {
        let leaving = "\(folders)/.\(name)-\(UInt64.random(in: 0...UInt64.max))"
        guard rename(path(name, .folder), leaving) == 0 else { return false }
        try? FileManager.default.removeItem(atPath: leaving)
        return true
    }

    private static func status(_ path: String) -> (bytes: Int, used: Int, type: mode_t)? {
        var status = stat()
        guard lstat(path, &status) == 0 else { return nil }
        return (Int(status.st_size), Int(status.st_mtim.tv_sec), status.st_mode & S_IFMT)
    }

    private static func names(_ folder: String) -> [String] { (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? [] }

    /// The bytes of all files below a folder.
    private static func bytes(below folder: String) -> Int {
        let names = (try? FileManager.default.subpathsOfDirectory(atPath: folder)) ?? []
        return names.reduce(0) { sum, name in
            guard let status = status("\(folder)/\(name)"), status.type == S_IFREG else { return sum }
            return sum + status.bytes
        }
    }

    private func measure() -> (usage: Usage, items: [Item]) {
        var (usage, items) = (Usage(), [Item]())
        for name in Self.names(blobs) {
            guard let status = Self.status(path(name)), status.type == S_IFREG else { continue }
            items.append(Item(kind: .artifact, name: name, bytes: status.bytes, used: status.used))
            usage.files += 1
            usage.bytes += status.bytes
        }
        for name in Self.names(folders) {
            let bytes = Self.bytes(below: path(name, .folder))
            if name.hasPrefix(".") {
                usage.partBytes += bytes
            } else if let status = Self.status(path(name, .folder)), status.type == S_IFDIR {
                items.append(Item(kind: .folder, name: name, bytes: bytes, used: status.used))
                usage.folders += 1
                usage.folderBytes += bytes
            }
        }
        usage.partBytes += Self.names(parts).reduce(0) { $0 + (Self.status("\(parts)/\($1)")?.bytes ?? 0) }
        return (usage, items)
    }

    /// Transfers that nobody takes up any more, and notes without their part.
    private func removeOldParts() {
        let latest = Int(time(nil)) - partSeconds
        for name in Self.names(parts) {
            let path = "\(parts)/\(name)"
            guard let status = Self.status(path), status.used <= latest else { continue }
            guard name.hasSuffix(".part") else {
                // Notes whose part was renamed into the cache when its process died, and what does not belong here at all.
                if PartFile.part(ofNote: path).map({ access($0, F_OK) != 0 }) ?? true { unlink(path) }
                continue
            }
            let descriptor = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
            guard descriptor >= 0 else { continue }
            if flock(descriptor, LOCK_EX | LOCK_NB) == 0 {
                unlink(path)
                PartFile.removeNotes(of: path)
            }
            close(descriptor)
        }
    }

    /// Folders that were being made, or deleted, by a process that died: nobody has the lock any more.
    private func removeAbandonedFolders() {
        for name in Self.names(folders) where name.hasPrefix(".") {
            let digest = String(name.dropFirst().prefix(64))
            guard SHA256.isHexDigest(digest), let lock = try? lock(digest, .folder, exclusive: true) else { continue }
            try? FileManager.default.removeItem(atPath: "\(folders)/\(name)")
            if access(path(digest, .folder), F_OK) != 0 { lock.removeFile() }
            withExtendedLifetime(lock) {}
        }
    }

    /// Locks of what is not there, which killed processes left.
    private func removeOldLocks() {
        let latest = Int(time(nil)) - partSeconds
        for name in Self.names(locks) {
            let isFolder = name.hasPrefix("folder-")
            let thing = isFolder ? path(String(name.dropFirst(7)), .folder) : path(name)
            guard access(thing, F_OK) != 0, let status = Self.status("\(locks)/\(name)"), status.used <= latest,
                let lock = try? CacheLock.take("\(locks)/\(name)", exclusive: true)
            else { continue }
            lock.removeFile()
        }
    }
}
