import Foundation
public import Logging

/// Brings artifacts to this machine: checked against the allow-list, verified against their digest, cached by it.
///
/// ```swift
/// let fetcher = try ArtifactFetcher(allow: ["http://127.0.0.1:9000/"], fileRoots: ["/srv/latents"], cache: "/var/cache/foretaste")
/// let path = try await fetcher.fetch("http://127.0.0.1:9000/a.safetensors", sha256: digest)
/// ```
/// A broken transfer is taken up again where it broke. Several callers of the same artifact share one transfer. The work is done on threads of
/// its own, at most eight transfers at a time in a process.
public final class ArtifactFetcher: Sendable {
    private let policy: ArtifactPolicy
    private let cache: ArtifactCache
    private let maximumBytes: Int
    private let limits: TransferLimits
    private let firstDelay: Double
    private let logger: Logger
    private let onFetch: (@Sendable (FetchedArtifact) -> Void)?
    private let shared = SharedFetches()
    private let s3: S3Client?

    /// A fetcher.
    /// - Parameters:
    ///   - allow: URL prefixes that artifacts may come from.
    ///   - fileRoots: folders that `file:` URLs may name.
    ///   - cache: the cache's folder; made when first needed.
    ///   - maximumBytes: the largest artifact.
    ///   - s3: how `s3://` is spoken; without it, it is not.
    ///   - logger: hears of retries.
    ///   - onFetch: called once for each successful fetch, on any thread; for a record of what was used.
    public convenience init(
        allow: [String], fileRoots: [String] = [], cache: String, maximumBytes: Int = 4 << 30, s3: S3Configuration? = nil,
        logger: Logger = Logger(label: "artifacts"),
        onFetch: (@Sendable (FetchedArtifact) -> Void)? = nil
    ) throws {
        self.init(
            policy: try ArtifactPolicy(allow: allow, fileRoots: fileRoots), cache: cache, maximumBytes: maximumBytes,
            limits: TransferLimits(), s3: s3,
            firstDelay: 0.25, logger: logger, onFetch: onFetch)
    }

    init(
        policy: ArtifactPolicy, cache: String, maximumBytes: Int, limits: TransferLimits, s3: S3Configuration? = nil, firstDelay: Double,
        logger: Logger,
        onFetch: (@Sendable (FetchedArtifact) -> Void)?
    ) {
        self.policy = policy
        self.cache = ArtifactCache(folder: cache)
        self.maximumBytes = maximumBytes
        self.limits = limits
        self.s3 = s3.map(S3Client.init)
        self.firstDelay = firstDelay
        self.logger = logger
        self.onFetch = onFetch
    }

    /// Throws unless the URL may be fetched, as far as that can be told without a connection; for a service that only accepts URLs.
    public func check(_ url: String) throws { try policy.check(url) }

    /// The local path of the artifact at `url`, verified against `sha256` (64 lower-case hexadecimal digits) when there is one. Without a
    /// digest nothing can be found in the cache, and the artifact is always transferred.
    public func fetch(_ url: String, sha256: String? = nil, maximumBytes: Int? = nil) async throws -> String {
        try await retrieve(url, sha256: sha256, maximumBytes: maximumBytes).path
    }

    /// The local path of an artifact, verified.
    public func fetch(_ artifact: Artifact) async throws -> String {
        try await fetch(artifact.url, sha256: artifact.sha256)
    }

    /// As `fetch`, with the digest, size and time.
    public func retrieve(_ url: String, sha256: String? = nil, maximumBytes: Int? = nil) async throws -> FetchedArtifact {
        let target = try policy.target(url)
        if let sha256, !SHA256.isHexDigest(sha256) {
            throw ArtifactError.invalid(url: ArtifactURL.shown(url), reason: "its sha256 is not 64 lower-case hexadecimal digits")
        }
        let limit = min(maximumBytes ?? self.maximumBytes, self.maximumBytes)
        let fetched = try await shared.run(key: "\(limit) \(sha256 ?? "") \(url)") { [self] cancelled in
            try await bring(target, url: url, sha256: sha256, limit: limit, cancelled: cancelled)
        }
        onFetch?(fetched)
        return fetched
    }

    private func bring(
        _ target: ArtifactPolicy.Target, url: String, sha256: String?, limit: Int, cancelled: Cancellation
    ) async throws -> FetchedArtifact {
        let start = ContinuousClock.now
        let shown = ArtifactURL.shown(url)
        func result(_ path: String, _ digest: String, _ bytes: Int, fromCache: Bool) -> FetchedArtifact {
            let seconds = start.duration(to: .now) / .milliseconds(1) / 1000
            return FetchedArtifact(path: path, sha256: digest, bytes: bytes, url: shown, fromCache: fromCache, seconds: seconds)
        }
        let cached: Int? = try await TransferThreads.shared.run { [cache] _ in
            try cache.prepare()
            return sha256.flatMap(cache.verified)
        }
        if let sha256, let cached {
            guard cached <= limit else { throw ArtifactError.tooLarge(url: shown, limit: limit) }
            return result(cache.path(sha256), sha256, cached, fromCache: true)
        }
        switch target {
        case .file(let root, let components):
            let (path, digest, bytes) = try await TransferThreads.shared.run { [cache] _ in
                try Self.copy(root: root, components: components, url: shown, sha256: sha256, limit: limit, cache: cache)
            }
            return result(path, digest, bytes, fromCache: false)
        case .http(let parsed), .s3(let parsed):
            if case .s3 = target, s3 == nil {
                throw ArtifactError.invalid(url: shown, reason: "S3 is not configured here")
            }
            let (path, digest, bytes) = try await download(parsed, sha256: sha256, limit: limit, cancelled: cancelled)
            return result(path, digest, bytes, fromCache: false)
        }
    }

    /// Copies a file into the cache: what was verified must not change under the reader.
    private static func copy(
        root: String, components: [String], url: String, sha256: String?, limit: Int, cache: ArtifactCache
    ) throws -> (String, String, Int) {
        let (descriptor, size) = try FileRoot.open(root: root, components: components, url: url)
        defer { close(descriptor) }
        guard size <= limit else { throw ArtifactError.tooLarge(url: url, limit: limit) }
        let parsed = try ArtifactURL(url)
        let part = try PartFile(
            folder: cache.parts, name: "file-\(UInt64.random(in: 0...UInt64.max))", url: parsed, limit: limit, resume: false)
        do {
            try withUnsafeTemporaryAllocation(byteCount: 1 << 18, alignment: 64) { buffer in
                while true {
                    let count = read(descriptor, buffer.baseAddress, buffer.count)
                    if count < 0 && errno == EINTR { continue }
                    guard count >= 0 else { throw ArtifactError.storage(path: url, reason: systemReason()) }
                    if count == 0 { return }
                    try part.receive(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<count]))
                }
            }
            let digest = part.finish()
            if let sha256, sha256 != digest { throw ArtifactError.digestMismatch(url: url, expected: sha256, actual: digest) }
            return (try cache.adopt(part: part.path, sha256: digest), digest, part.count)
        } catch {
            part.remove()
            throw error
        }
    }

    private func download(
        _ url: ArtifactURL, sha256: String?, limit: Int, cancelled: Cancellation
    ) async throws -> (String, String, Int) {
        // Resuming needs a digest: without one, nothing tells whether the two halves belong together.
        let name = sha256.map { "\($0.prefix(16))-\(SHA256.hexDigest(of: Array(url.requestText.utf8)).prefix(16))" }
        let partName = name ?? "plain-\(UInt64.random(in: 0...UInt64.max))"
        var delay = firstDelay
        var attempt = 1
        while true {
            do {
                return try await TransferThreads.shared.run { [self] handle in
                    try Self.attempt(
                        url, s3: s3, sha256: sha256, limit: limit, partName: partName, cache: cache, limits: limits, cancelled: cancelled,
                        handle: handle)
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

    private struct Failure: Error {
        let error: ArtifactError
        var retryAfter: Double?
    }

    private static func attempt(
        _ url: ArtifactURL, s3: S3Client?, sha256: String?, limit: Int, partName: String, cache: ArtifactCache, limits: TransferLimits,
        cancelled: Cancellation, handle: TransferThreads.Handle
    ) throws -> (String, String, Int) {
        do {
            let part = try PartFile(folder: cache.parts, name: partName, url: url, limit: limit, resume: sha256 != nil)
            do {
                return try receive(
                    url, s3: s3, sha256: sha256, part: part, cache: cache, limits: limits, cancelled: cancelled, handle: handle)
            } catch {
                // What was received helps the next attempt only when a digest can vouch for the whole, and only if there is a next one.
                let error = error as? Failure
                if sha256 == nil || part.count == 0 || (error?.error.isPermanent ?? true) { part.remove() }
                throw error ?? Failure(error: .storage(path: part.path, reason: "the transfer failed"))
            }
        } catch let error as ArtifactError {
            throw Failure(error: error)
        }
    }

    private static func receive(
        _ url: ArtifactURL, s3: S3Client?, sha256: String?, part: PartFile, cache: ArtifactCache, limits: TransferLimits,
        cancelled: Cancellation,
        handle: TransferThreads.Handle
    ) throws -> (String, String, Int) {
        do {
            var resumed = part.isResumed
            while true {
                var headers = resumed ? ["Range: bytes=\(part.count)-"] : []
                // What was changed since is sent from its beginning; S3 knows only the condition that fails.
                if resumed, let tag = part.entityTag {
                    headers.append("\(s3 != nil && url.scheme == "s3" ? "If-Match" : "If-Range"): \(tag)")
                }
                let outcome: HTTPTransfer.Outcome
                if url.scheme == "s3", let s3 {
                    outcome = try s3.send(
                        "GET", url, headers: headers, into: part, accepting: resumed ? [412, 416] : [], limits: limits,
                        cancelled: cancelled,
                        on: handle)
                } else {
                    outcome = try HTTPTransfer(url: url, limits: limits, cancelled: cancelled, headers: headers).get(on: handle, into: part)
                }
                switch outcome.status {
                case 200, 206: break
                case 416 where resumed:
                    // The part has all bytes already, or bytes of another file: the digest decides.
                    break
                case 412 where resumed:
                    try part.restart()
                    resumed = false
                    continue
                case 404, 410: throw Failure(error: .notFound(url: url.shown, status: outcome.status))
                default: throw Failure(error: .rejected(url: url.shown, status: outcome.status), retryAfter: outcome.retryAfter)
                }
                let wasResumed = part.isResumed
                let digest = part.finish()
                guard let sha256, sha256 != digest else {
                    return (try cache.adopt(part: part.path, sha256: digest), digest, part.count)
                }
                guard wasResumed else { throw ArtifactError.digestMismatch(url: url.shown, expected: sha256, actual: digest) }
                // The old bytes may be at fault: once more, from the beginning.
                try part.restart()
                resumed = false
            }
        } catch let error as ArtifactError {
            throw Failure(error: error)
        }
    }
}
