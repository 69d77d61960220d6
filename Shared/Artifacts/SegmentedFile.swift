import Foundation
import Synchronization

/// A file that several transfers fill at once, a segment each. Which segments are complete stands in a second file beside it, so that a process
/// that is killed loses at most the segments that were under way.
final class SegmentedFile: Sendable {
    /// How many bytes it will have.
    let total: Int
    /// The entity tag that all segments have to be from; `nil` when the server names none.
    let entityTag: String?
    /// Some segments were left by an earlier attempt.
    let isResumed: Bool
    private let segmentBytes: Int
    private let descriptor: Int32
    private let path: String
    private let journal: Int32

    private enum Progress { case open, claimed, complete }
    private struct State {
        var segments: [Progress]
        var isStale = false
    }
    private let state: Mutex<State>

    /// Begins one in an empty file.
    init(descriptor: Int32, path: String, total: Int, segmentBytes: Int, entityTag: String?) throws(ArtifactError) {
        // The journal first: a file of full length without one would look complete.
        let journal = open(Self.journalPath(path), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard journal >= 0 else { throw .storage(path: Self.journalPath(path), reason: systemReason()) }
        let head = Array("foretaste-segments 1 \(total) \(segmentBytes) \(entityTag ?? "-")\n".utf8)
        var done = Foundation.write(journal, head, head.count) == head.count && ftruncate(descriptor, off_t(total)) == 0
        var reason = systemReason()
        // A disk that is too small says so now. Not every file system can promise space.
        if done, posix_fallocate(descriptor, 0, off_t(total)) == ENOSPC { (done, reason) = (false, systemReason(ENOSPC)) }
        guard done else {
            close(journal)
            throw .storage(path: path, reason: reason)
        }
        (self.descriptor, self.path, self.journal) = (descriptor, path, journal)
        (self.total, self.segmentBytes, self.entityTag, isResumed) = (total, segmentBytes, entityTag, false)
        state = Mutex(State(segments: Array(repeating: .open, count: (total + segmentBytes - 1) / segmentBytes)))
    }

    /// Takes up what an earlier attempt left; `nil` when that is nothing, or makes no sense.
    init?(resuming descriptor: Int32, path: String, limit: Int) {
        guard let data = FileManager.default.contents(atPath: Self.journalPath(path)) else { return nil }
        // What follows the last newline was not written completely.
        let lines = String(decoding: data, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false).dropLast()
        let head = (lines.first ?? "").split(separator: " ")
        var status = stat()
        guard head.count == 5, head[0] == "foretaste-segments", head[1] == "1", let total = Int(head[2]), let segmentBytes = Int(head[3]),
            segmentBytes > 0, (1...limit).contains(total), fstat(descriptor, &status) == 0, Int(status.st_size) == total
        else { return nil }
        var segments = [Progress](repeating: .open, count: (total + segmentBytes - 1) / segmentBytes)
        for line in lines.dropFirst() {
            guard let index = Int(line), segments.indices.contains(index) else { return nil }
            segments[index] = .complete
        }
        let journal = open(Self.journalPath(path), O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW)
        guard journal >= 0 else { return nil }
        (self.descriptor, self.path, self.journal) = (descriptor, path, journal)
        (self.total, self.segmentBytes) = (total, segmentBytes)
        entityTag = PartFile.usable(entityTag: String(head[4]))
        isResumed = segments.contains(.complete)
        state = Mutex(State(segments: segments))
    }

    deinit { close(journal) }

    static let journalSuffix = ".segments"
    static func journalPath(_ path: String) -> String { path + journalSuffix }

    /// What a segment covers.
    func range(of segment: Int) -> Range<Int> { segment * segmentBytes..<min(total, (segment + 1) * segmentBytes) }

    /// The last segment that nobody has: a stream from the beginning may go on for as long as possible.
    func claimLast() -> Int? {
        state.withLock { state in
            guard let index = state.segments.lastIndex(of: .open) else { return nil }
            state.segments[index] = .claimed
            return index
        }
    }

    /// A certain segment, if nobody has it.
    func claim(_ segment: Int) -> Bool {
        state.withLock { state in
            guard state.segments.indices.contains(segment), state.segments[segment] == .open else { return false }
            state.segments[segment] = .claimed
            return true
        }
    }

    /// Gives a claimed segment back.
    func release(_ segment: Int) { state.withLock { $0.segments[segment] = .open } }

    /// All of a segment has been written.
    func complete(_ segment: Int) throws(ArtifactError) {
        state.withLock { $0.segments[segment] = .complete }
        let line = Array("\(segment)\n".utf8)
        guard Foundation.write(journal, line, line.count) == line.count else { throw .storage(path: path, reason: systemReason()) }
    }

    /// How many bytes are complete.
    var completeBytes: Int {
        state.withLock { state in state.segments.indices.reduce(0) { $0 + (state.segments[$1] == .complete ? range(of: $1).count : 0) } }
    }

    /// The server sends something else than the segments so far, or no ranges after all.
    var isStale: Bool { state.withLock { $0.isStale } }
    func becomeStale() { state.withLock { $0.isStale = true } }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(ArtifactError) {
        var (rest, offset) = (bytes, offset)
        while !rest.isEmpty {
            let written = pwrite(descriptor, rest.baseAddress, rest.count, off_t(offset))
            if written < 0 && errno == EINTR { continue }
            guard written > 0 else { throw .storage(path: path, reason: systemReason()) }
            rest = UnsafeRawBufferPointer(rebasing: rest[written...])
            offset += written
        }
    }
}

/// Takes one segment's range from the server, and nothing else.
final class SegmentReceiver: HTTPTransfer.Receiver {
    private let file: SegmentedFile
    private let range: Range<Int>
    private let url: String
    /// Where the next byte goes.
    private(set) var offset: Int

    init(file: SegmentedFile, segment: Int, url: String) {
        self.file = file
        self.url = url
        range = file.range(of: segment)
        offset = range.lowerBound
    }

    var header: String { "Range: bytes=\(offset)-\(range.upperBound - 1)" }
    var isComplete: Bool { offset == range.upperBound }

    func begin(_ head: HTTPTransfer.Head) throws(ArtifactError) {
        guard head.status == 206, head.contentRange == "bytes \(offset)-\(range.upperBound - 1)/\(file.total)" else {
            file.becomeStale()
            throw .unreachable(url: url, reason: "its server sent another range than it was asked for, or its content changed meanwhile")
        }
    }

    func receive(_ bytes: UnsafeRawBufferPointer) throws(ArtifactError) -> Bool {
        guard bytes.count <= range.upperBound - offset else {
            throw .unreachable(url: url, reason: "its server sent more than the range that it announced")
        }
        try file.write(bytes, at: offset)
        offset += bytes.count
        return true
    }
}
