import Foundation
import Logging
import Synchronization

/// One artifact's way from a server into the cache: attempts, resuming, several ranges at once, and the digest over the whole.
struct Download: Sendable {
    let url: ArtifactURL
    let s3: S3Client?
    let sha256: String?
    let limit: Int
    let cache: ArtifactCache
    let limits: TransferLimits
    /// When the fetch was asked for.
    let start: ContinuousClock.Instant
    let cancelled: Cancellation
    private let beginning = Beginning()

    /// When a thread took it up.
    private final class Beginning: Sendable {
        private let instant = Mutex<ContinuousClock.Instant?>(nil)

        /// The first call's time.
        var first: ContinuousClock.Instant {
            instant.withLock { instant in
                if instant == nil { instant = .now }
                return instant!
            }
        }
    }

    init(
        url: ArtifactURL, s3: S3Client?, sha256: String?, limit: Int, cache: ArtifactCache, limits: TransferLimits,
        start: ContinuousClock.Instant, cancelled: Cancellation
    ) {
        (self.url, self.s3, self.sha256, self.limit) = (url, s3, sha256, limit)
        (self.cache, self.limits, self.start, self.cancelled) = (cache, limits, start, cancelled)
    }

    /// A failure, and how long the server asked us to wait.
    private struct Failure: Error {
        let error: ArtifactError
        var retryAfter: Double?
    }

    /// Whose transfers these are, when they are counted.
    private var host: String { url.scheme == "s3" ? s3?.host ?? "s3" : "\(url.host):\(url.port)" }

    /// Answers the path in the cache, the digest and the size.
    func run(firstDelay: Double, logger: Logger) async throws -> (String, String, Int) {
        // Resuming needs a digest: without one, nothing tells whether the two halves belong together.
        // The query is left out: another presigned URL of the same object goes on with what the one before has brought.
        let name = sha256.map { "\($0.prefix(16))-\(SHA256.hexDigest(of: Array(url.shown.utf8)).prefix(16))" }
        let partName = name ?? "plain-\(UInt64.random(in: 0...UInt64.max))"
        var delay = firstDelay
        var attempt = 1
        while true {
            do {
                return try await TransferThreads.shared.run(host: host) { [self, isFirst = attempt == 1] handle in
                    try self.attempt(partName, isFirst: isFirst, on: handle)
                }
            } catch let failure as Failure {
                guard !failure.error.isPermanent, attempt < limits.attempts, !cancelled.isCancelled else { throw failure.error }
                let pause = min(max(failure.retryAfter ?? 0, delay * Double.random(in: 0.5...1.5)), 15)
                logger.debug(
                    "Fetching again after a failure",
                    metadata: [
                        "url": .string(url.shown), "attempt": .stringConvertible(attempt), "error": "\(failure.error)",
                        "pause_seconds": .stringConvertible(pause),
                    ])
                try await Task.sleep(for: .seconds(pause))
                attempt += 1
                delay *= 2
            }
        }
    }

    private func attempt(_ partName: String, isFirst: Bool, on handle: TransferThreads.Handle) throws -> (String, String, Int) {
        // Until the size is known the deadline is that of the largest.
        if isFirst { allow(limit) }
        do {
            let part = try PartFile(
                folder: cache.parts, name: partName, url: url, limit: limit, resume: sha256 != nil,
                segmenting: sha256 != nil && limits.parallelTransfers > 1 ? (limits.parallelThreshold, limits.segmentBytes) : nil)
            do {
                return try verified(part, on: handle)
            } catch {
                // What was received helps the next attempt only when a digest can vouch for the whole, and only if there is a next one.
                let error = error as? Failure
                let isUseful = part.count > 0 || part.segments != nil
                if sha256 == nil || !isUseful || (error?.error.isPermanent ?? true) { part.remove() }
                throw error ?? Failure(error: .storage(path: part.path, reason: "the transfer failed"))
            }
        } catch let error as ArtifactError {
            throw Failure(error: error)
        }
    }

    /// Fills the part and moves it into the cache, once its digest is right.
    private func verified(_ part: PartFile, on handle: TransferThreads.Handle) throws -> (String, String, Int) {
        while true {
            do {
                try fill(part, on: handle)
                // Bytes of two contents may be mixed, when some were there before or nothing tells the contents apart.
                let isMixed = part.isResumed || part.segments.map { $0.isResumed || $0.entityTag == nil } ?? false
                let digest = try part.finish()
                if sha256 == nil || sha256 == digest {
                    return (try cache.adopt(part: part.path, sha256: digest, bytes: part.count), digest, part.count)
                }
                guard isMixed else {
                    throw Failure(error: .digestMismatch(url: url.shown, expected: sha256 ?? "", actual: digest))
                }
            } catch {
                // No ranges after all, or of another content: once more, in one stream. Whoever of the helpers met it says so.
                guard part.segments?.isStale ?? false, !cancelled.isCancelled else {
                    throw (error as? ArtifactError).map { Failure(error: $0) } ?? error
                }
            }
            do {
                try part.restart()
            } catch {
                throw Failure(error: error)
            }
            part.isStreamOnly = true
        }
    }

    /// Receives what the part lacks.
    private func fill(_ part: PartFile, on handle: TransferThreads.Handle) throws {
        if let segments = part.segments {
            // What an earlier attempt began.
            allow(segments.total)
            try crew(segments).finish(on: handle)
            return
        }
        var helpers: TransferCrew?
        part.onSegments = { segments in helpers = crew(segments) }
        defer { part.onSegments = nil }
        do {
            try stream(into: part, on: handle)
        } catch {
            part.endStream()
            let reason = (error as? Failure)?.error ?? (error as? ArtifactError)
            guard let helpers else { throw error }
            guard let reason, !reason.isPermanent, !cancelled.isCancelled else {
                helpers.abandon()
                throw error
            }
        }
        // The stream has met a segment that a helper has, or broke: the rest is done in segments.
        try helpers?.finish(on: handle)
    }

    /// The size is known, and so the deadline. One that follows from the size counts from when a thread took the artifact up: what waited behind
    /// many others is not slow. One that the operator set counts from when it was asked for.
    private func allow(_ bytes: Int) {
        cancelled.end(after: limits.deadline(bytes: bytes), since: limits.totalSeconds == nil ? beginning.first : start)
    }

    private func crew(_ segments: SegmentedFile) -> TransferCrew {
        let crew = TransferCrew(
            cancelled: cancelled, next: { segments.claimLast() },
            body: { [self] (segment, handle, cancelled) throws(ArtifactError) in
                try bring(segment, of: segments, on: handle, cancelled: cancelled)
            })
        crew.start(helpers: limits.parallelTransfers - 1, host: host)
        return crew
    }

    /// One segment, with attempts of its own that go on where the one before broke.
    private func bring(
        _ segment: Int, of file: SegmentedFile, on handle: TransferThreads.Handle, cancelled: Cancellation
    ) throws(ArtifactError) {
        let receiver = SegmentReceiver(file: file, segment: segment, url: url.shown)
        for attempt in 1... {
            do throws(ArtifactError) {
                let outcome = try get(
                    [receiver.header], tag: file.entityTag, accepting: [412, 416], into: receiver, on: handle, cancelled: cancelled)
                if [412, 416].contains(outcome.status) {
                    file.becomeStale()
                    throw .unreachable(url: url.shown, reason: "its content changed while it was fetched")
                }
                if [404, 410].contains(outcome.status) { throw .notFound(url: url.shown, status: outcome.status) }
                guard outcome.status == 206 else { throw .rejected(url: url.shown, status: outcome.status) }
                guard receiver.isComplete else { throw .unreachable(url: url.shown, reason: "its server sent less than it announced") }
                try file.complete(segment)
                return
            } catch {
                guard !error.isPermanent, attempt < limits.attempts, !cancelled.isCancelled, !file.isStale else {
                    file.release(segment)
                    throw error
                }
            }
            // This is one of our own threads, which may wait.
            cancelled.wait(0.1 * Double(1 << attempt) * Double.random(in: 0.5...1.5))
        }
    }

    /// All of it, or what a part's beginning lacks, in one answer.
    private func stream(into part: PartFile, on handle: TransferThreads.Handle) throws {
        var resumed = part.isResumed
        while true {
            let outcome = try get(
                resumed ? ["Range: bytes=\(part.count)-"] : [], tag: resumed ? part.entityTag : nil, accepting: resumed ? [412, 416] : [],
                into: Sized(part: part, allow: allow), on: handle, cancelled: cancelled)
            switch outcome.status {
            // 416: the part has all bytes already, or bytes of another file. The digest decides.
            case 200, 206: return
            case 416 where resumed: return
            case 412 where resumed:
                try part.restart()
                resumed = false
            case 404, 410: throw Failure(error: .notFound(url: url.shown, status: outcome.status))
            default: throw Failure(error: .rejected(url: url.shown, status: outcome.status), retryAfter: outcome.retryAfter)
            }
        }
    }

    private func get(
        _ headers: [String], tag: String?, accepting: Set<Int>, into receiver: any HTTPTransfer.Receiver, on handle: TransferThreads.Handle,
        cancelled: Cancellation
    ) throws(ArtifactError) -> HTTPTransfer.Outcome {
        // What was changed since is sent from its beginning; S3 knows only the condition that fails.
        let condition = tag.map { [(url.scheme == "s3" ? "If-Match: " : "If-Range: ") + $0] } ?? []
        if url.scheme == "s3", let s3 {
            return try s3.send(
                "GET", url, headers: headers + condition, into: receiver, accepting: accepting, limits: limits, cancelled: cancelled,
                on: handle)
        }
        return try HTTPTransfer(url: url, limits: limits, cancelled: cancelled, headers: headers + condition).get(
            on: handle, into: receiver)
    }

    /// A part that tells its size as soon as the server does.
    private final class Sized: HTTPTransfer.Receiver {
        let part: PartFile
        let allow: (Int) -> Void

        init(part: PartFile, allow: @escaping (Int) -> Void) {
            self.part = part
            self.allow = allow
        }

        func begin(_ head: HTTPTransfer.Head) throws(ArtifactError) {
            if let length = head.length { allow(part.count + length) }
            try part.begin(head)
        }

        func receive(_ bytes: UnsafeRawBufferPointer) throws(ArtifactError) -> Bool { try part.receive(bytes) }
    }
}
