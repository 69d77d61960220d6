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
    /// When several transfers fill it at once.
    private(set) var segments: SegmentedFile?
    /// Called when segments have been made, with the first one claimed for the stream that is under way.
    var onSegments: ((SegmentedFile) -> Void)?
    /// Files of so many bytes are filled in segments of so many, by servers that know ranges.
    private let segmenting: (threshold: Int, bytes: Int)?
    /// Segments have been of no use: one stream from now on.
    var isStreamOnly = false
    private var stream: (segment: Int, offset: Int)?

    /// Opens or makes it. What it already holds stays when `resume`, because a digest will tell whether it belongs.
    init(folder: String, name: String, url: ArtifactURL, limit: Int, resume: Bool, segmenting: (threshold: Int, bytes: Int)? = nil)
        throws(ArtifactError)
    {
        self.segmenting = segmenting
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
            segments = resume ? SegmentedFile(resuming: descriptor, path: path, limit: limit) : nil
            if let segments {
                count = segments.completeBytes
                isResumed = segments.isResumed
            } else if resume && access(SegmentedFile.journalPath(path), F_OK) != 0 {
                try adopt()
            } else {
                try restart()
            }
        }
        // Where this throws, everything has its value, and so `deinit` closes the descriptor: once.
    }

    deinit {
        // By name: a child that is just being started holds a copy of the descriptor until it runs its own program.
        flock(descriptor, LOCK_UN)
        close(descriptor)
    }

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
        segments = nil
        stream = nil
        guard ftruncate(descriptor, 0) == 0, lseek(descriptor, 0, SEEK_SET) == 0 else { throw .storage(path: path, reason: systemReason()) }
        unlink(SegmentedFile.journalPath(path))
        hash = SHA256Box()
        count = 0
        isResumed = false
    }

    /// The stream is at an end before its segment is: another transfer will bring it.
    func endStream() {
        if let stream, let segments { segments.release(stream.segment) }
        stream = nil
    }

    /// The entity tag of the answer that the bytes are from, kept beside the part. A weak one does not vouch for bytes.
    var entityTag: String? {
        guard isResumed || count > 0, let data = FileManager.default.contents(atPath: path + ".etag") else { return nil }
        return Self.usable(entityTag: String(decoding: data, as: UTF8.self))
    }

    /// Not by `FileManager`, whose own temporary file would stay behind when this process is killed just then.
    private func note(_ entityTag: String) {
        let note = open(path + ".etag", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard note >= 0 else { return }
        let bytes = Array(entityTag.utf8)
        if write(note, bytes, bytes.count) != bytes.count { unlink(path + ".etag") }
        close(note)
    }

    /// A strong tag without characters that no header may have.
    static func usable(entityTag tag: String?) -> String? {
        guard let tag, tag.hasPrefix("\""), tag.utf8.count < 1024, tag.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7f }) else { return nil }
        return tag
    }

    func begin(_ head: HTTPTransfer.Head) throws(ArtifactError) {
        let (status, length, contentRange, entityTag) = (head.status, head.length, head.contentRange, head.entityTag)
        defer {
            if status == 200 {
                if let entityTag, entityTag.hasPrefix("\"") {
                    // Only a hint for later: a digest vouches for the whole in any case.
                    note(entityTag)
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
        if status == 200, head.acceptsRanges, !isStreamOnly, let length, let segmenting, length >= segmenting.threshold {
            let made = try SegmentedFile(
                descriptor: descriptor, path: path, total: length, segmentBytes: segmenting.bytes,
                entityTag: Self.usable(entityTag: entityTag))
            _ = made.claim(0)
            stream = (0, 0)
            segments = made
            onSegments?(made)
        }
    }

    func receive(_ bytes: UnsafeRawBufferPointer) throws(ArtifactError) -> Bool {
        if let segments { return try receive(bytes, into: segments) }
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
        return true
    }

    /// The stream from the beginning goes on into every segment that nobody else has, and ends before the first that somebody has.
    private func receive(_ bytes: UnsafeRawBufferPointer, into segments: SegmentedFile) throws(ArtifactError) -> Bool {
        var rest = bytes
        var endsAtTotal = false
        while !rest.isEmpty {
            guard let (segment, offset) = stream else { return false }
            let end = segments.range(of: segment).upperBound
            let part = UnsafeRawBufferPointer(rebasing: rest[..<min(rest.count, end - offset)])
            try segments.write(part, at: offset)
            rest = UnsafeRawBufferPointer(rebasing: rest[part.count...])
            stream = (segment, offset + part.count)
            guard offset + part.count == end else { continue }
            try segments.complete(segment)
            endsAtTotal = end == segments.total
            stream = segments.claim(segment + 1) ? (segment + 1, end) : nil
        }
        // After the last byte the server stops by itself.
        return stream != nil || endsAtTotal
    }

    /// The digest of everything received. Ends the file's growth.
    func finish() throws(ArtifactError) -> String {
        if let segments {
            count = segments.total
            lseek(descriptor, 0, SEEK_SET)
            hash = SHA256Box()
            do {
                _ = try hash.value.update(descriptor: descriptor, path: path)
            } catch {
                throw .storage(path: path, reason: "\(error)")
            }
        }
        return SHA256.hex(hash.value.finish())
    }

    func remove() {
        unlink(path)
        Self.removeNotes(of: path)
    }

    /// Deletes what stands beside a part.
    static func removeNotes(of path: String) { for suffix in noteSuffixes { unlink(path + suffix) } }

    /// The part that a note stands beside; `nil` when it is no note.
    static func part(ofNote path: String) -> String? {
        noteSuffixes.first { path.hasSuffix($0) }.map { String(path.dropLast($0.count)) }
    }

    private static let noteSuffixes = [".etag", SegmentedFile.journalSuffix]
}

/// A class around the digest, which as a noncopyable value could not be replaced inside a class with throwing initialisers.
private final class SHA256Box {
    var value = SHA256()
}
