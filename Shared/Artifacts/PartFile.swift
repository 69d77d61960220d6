import Foundation

/// A download that is not complete yet: a file in the cache's `parts` folder, hashed as it grows, that a later attempt resumes.
final class PartFile: HTTPTransfer.Receiver {
    let path: String
    private let url: ArtifactURL
    private let limit: Int
    private let descriptor: Int32
    /// How many bytes it has.
    private(set) var count = 0
    /// Some of the bytes were left by an earlier attempt.
    private(set) var isResumed = false
    private var hash: SHA256Box

    /// Opens or makes it. What it already holds stays when `resume`, because a digest will tell whether it belongs.
    init(folder: String, name: String, url: ArtifactURL, limit: Int, resume: Bool) throws(ArtifactError) {
        self.url = url
        self.limit = limit
        var path = "\(folder)/\(name).part"
        var descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        if descriptor >= 0 && (flock(descriptor, LOCK_EX | LOCK_NB) != 0 || Self.hasMoved(descriptor, path)) {
            // Another process downloads the same: each to a file of its own.
            close(descriptor)
            path = "\(folder)/\(name).\(getpid()).\(UInt64.random(in: 0...UInt64.max)).part"
            descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        }
        guard descriptor >= 0 else { throw .storage(path: path, reason: systemReason()) }
        self.path = path
        self.descriptor = descriptor
        hash = SHA256Box()
        do {
            if resume { try adopt() } else { try restart() }
        } catch {
            close(descriptor)
            throw error
        }
    }

    deinit { close(descriptor) }

    /// Whoever held the lock before may have renamed the file into the cache: then it is no part any more and must not be written to.
    private static func hasMoved(_ descriptor: Int32, _ path: String) -> Bool {
        var (open, named) = (stat(), stat())
        return fstat(descriptor, &open) != 0 || stat(path, &named) != 0 || open.st_ino != named.st_ino || open.st_dev != named.st_dev
    }

    /// Takes over the bytes that are there.
    private func adopt() throws(ArtifactError) {
        lseek(descriptor, 0, SEEK_SET)
        do {
            count = try hash.value.update(descriptor: descriptor, path: path)
        } catch {
            throw .storage(path: path, reason: "\(error)")
        }
        isResumed = count > 0
        if count > limit { try restart() }
    }

    /// Forgets everything.
    func restart() throws(ArtifactError) {
        guard ftruncate(descriptor, 0) == 0, lseek(descriptor, 0, SEEK_SET) == 0 else { throw .storage(path: path, reason: systemReason()) }
        hash = SHA256Box()
        count = 0
        isResumed = false
    }

    /// The entity tag of the answer that the bytes are from, kept beside the part. A weak one does not vouch for bytes.
    var entityTag: String? {
        guard isResumed || count > 0, let data = FileManager.default.contents(atPath: path + ".etag") else { return nil }
        let tag = String(decoding: data, as: UTF8.self)
        return tag.hasPrefix("\"") && tag.utf8.count < 1024 && tag.utf8.allSatisfy { $0 > 0x20 && $0 != 0x7f } ? tag : nil
    }

    func begin(status: Int, length: Int?, contentRange: String?, entityTag: String?) throws(ArtifactError) {
        defer {
            if status == 200 {
                if let entityTag, entityTag.hasPrefix("\"") {
                    // Only a hint for later: a digest vouches for the whole in any case.
                    _ = FileManager.default.createFile(atPath: path + ".etag", contents: Data(entityTag.utf8))
                } else {
                    unlink(path + ".etag")
                }
            }
        }
        if count > 0 {
            // Only an answer that goes on exactly where this file ends may be appended.
            let goesOn = status == 206 && contentRange.map { $0.hasPrefix("bytes \(count)-") } ?? false
            if goesOn { isResumed = true } else { try restart() }
            if !goesOn && status == 206 {
                throw .unreachable(url: url.shown, reason: "its server sent another range than it was asked for")
            }
        } else if status == 206 {
            throw .unreachable(url: url.shown, reason: "its server sent a range that it was not asked for")
        }
        if let length, length > limit - count { throw .tooLarge(url: url.shown, limit: limit) }
    }

    func receive(_ bytes: UnsafeRawBufferPointer) throws(ArtifactError) {
        guard bytes.count <= limit - count else { throw .tooLarge(url: url.shown, limit: limit) }
        var rest = bytes
        while !rest.isEmpty {
            let written = write(descriptor, rest.baseAddress, rest.count)
            if written < 0 && errno == EINTR { continue }
            guard written > 0 else { throw .storage(path: path, reason: systemReason()) }
            rest = UnsafeRawBufferPointer(rebasing: rest[written...])
        }
        hash.value.update(bytes)
        count += bytes.count
    }

    /// The digest of everything received. Ends the file's growth.
    func finish() -> String { SHA256.hex(hash.value.finish()) }

    func remove() {
        unlink(path)
        unlink(path + ".etag")
    }
}

/// A class around the digest, which as a noncopyable value could not be replaced inside a class with throwing initialisers.
private final class SHA256Box {
    var value = SHA256()
}
