import Foundation
public import Logging

/// Brings artifacts to this machine: checked against the allow-list, verified against their digest, cached by it.
///
/// ```swift
/// let fetcher = try ArtifactFetcher(allow: ["http://127.0.0.1:9000/"], fileRoots: ["/srv/latents"], cache: "/var/cache/foretaste")
/// let path = try await fetcher.fetch("http://127.0.0.1:9000/a.safetensors", sha256: digest)
/// ```
/// A broken transfer is taken up again where it broke. Several callers of the same artifact share one transfer, in this process and in others
/// with the same cache. The work is done on threads of its own, at most twelve transfers at a time in a process and six of one host.
public final class ArtifactFetcher: Sendable {
    private let policy: ArtifactPolicy
    let cache: ArtifactCache
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
    ///   - cacheLimit: how many bytes the cache may have; see `ArtifactCache`.
    ///   - maximumBytes: the largest artifact.
    ///   - deadlineSeconds: the longest that a fetch may take; a minute and four seconds a MiB when `nil`.
    ///   - s3: how `s3://` is spoken; without it, it is not.
    ///   - logger: hears of retries.
    ///   - onFetch: called once for each successful fetch, on any thread; for a record of what was used.
    public convenience init(
        allow: [String], fileRoots: [String] = [], cache: String, cacheLimit: Int = ArtifactCache.defaultLimit,
        maximumBytes: Int = 4 << 30, deadlineSeconds: Int? = nil, s3: S3Configuration? = nil,
        logger: Logger = Logger(label: "artifacts"),
        onFetch: (@Sendable (FetchedArtifact) -> Void)? = nil
    ) throws {
        var limits = TransferLimits()
        limits.totalSeconds = deadlineSeconds
        self.init(
            policy: try ArtifactPolicy(allow: allow, fileRoots: fileRoots), cache: ArtifactCache(folder: cache, limit: cacheLimit),
            maximumBytes: maximumBytes, limits: limits, s3: s3, firstDelay: 0.25, logger: logger, onFetch: onFetch)
    }

    convenience init(
        policy: ArtifactPolicy, cache: String, maximumBytes: Int, limits: TransferLimits, s3: S3Configuration? = nil, firstDelay: Double,
        logger: Logger, onFetch: (@Sendable (FetchedArtifact) -> Void)?
    ) {
        self.init(
            policy: policy, cache: ArtifactCache(folder: cache), maximumBytes: maximumBytes, limits: limits, s3: s3, firstDelay: firstDelay,
            logger: logger, onFetch: onFetch)
    }

    init(
        policy: ArtifactPolicy, cache: ArtifactCache, maximumBytes: Int, limits: TransferLimits, s3: S3Configuration? = nil,
        firstDelay: Double,
        logger: Logger,
        onFetch: (@Sendable (FetchedArtifact) -> Void)?
    ) {
        self.policy = policy
        self.cache = cache
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
        // Until the size is known the deadline is that of the largest.
        cancelled.end(after: limits.deadline(bytes: limit), since: start)
        var lock: CacheLock?
        if let sha256 {
            let (held, cached) = try await look(sha256, cancelled: cancelled, url: shown)
            if let cached {
                guard cached <= limit else { throw ArtifactError.tooLarge(url: shown, limit: limit) }
                return result(cache.path(sha256), sha256, cached, fromCache: true)
            }
            lock = held
        } else {
            try await TransferThreads.shared.run { [cache] _ in try cache.prepare() }
        }
        defer {
            // Nobody looks for it any more by this file's name once it is in the cache, or was not to be had.
            lock?.removeFile()
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
            let download = Download(
                url: parsed, s3: s3, sha256: sha256, limit: limit, cache: cache, limits: limits, start: start, cancelled: cancelled)
            let (path, digest, bytes) = try await download.run(firstDelay: firstDelay, logger: logger)
            return result(path, digest, bytes, fromCache: false)
        }
    }

    /// Looks into the cache: the size of what is there, or the lock that lets this task fetch it. Waits while somebody else fetches the same.
    private func look(_ sha256: String, cancelled: Cancellation, url: String) async throws -> (CacheLock?, Int?) {
        var pause = 0.01
        var exclusive = false
        while true {
            let found: (lock: CacheLock?, bytes: Int?) = try await TransferThreads.shared.run { [cache, exclusive] _ in
                try cache.prepare()
                guard let lock = try cache.lock(sha256, exclusive: exclusive) else { return (nil, nil) }
                return (lock, cache.verified(sha256))
            }
            if found.bytes != nil || (exclusive && found.lock != nil) { return found }
            // It is not there and nobody fetches it: fetch it. Or somebody does, and may fail.
            exclusive = true
            guard found.lock == nil else { continue }
            if let reason = cancelled.reason { throw ArtifactError.unreachable(url: url, reason: reason) }
            try await Task.sleep(for: .seconds(pause * Double.random(in: 0.5...1)))
            pause = min(0.25, pause * 1.5)
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
                    _ = try part.receive(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<count]))
                }
            }
            let digest = try part.finish()
            if let sha256, sha256 != digest { throw ArtifactError.digestMismatch(url: url, expected: sha256, actual: digest) }
            return (try cache.adopt(part: part.path, sha256: digest, bytes: part.count), digest, part.count)
        } catch {
            part.remove()
            throw error
        }
    }
}
