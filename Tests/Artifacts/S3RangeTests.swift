import Foundation
import Logging
import NetworkTesting
import Testing

@testable import Artifacts

/// moto behind an nginx that is slow, stalls or fails where a test wants it to. Signatures stay valid: nginx leaves the host's name as it came.
@Suite("S3 in parallel, interrupted", .timeLimit(.minutes(2)))
struct S3RangeTests {
    private let folder: TemporaryFolder
    private let server: S3TestServer

    init() async throws {
        folder = try TemporaryFolder()
        server = try await S3TestServer.shared
    }

    private func proxy(_ directives: String) throws -> NginxServer {
        let pass = "proxy_pass \(server.url); proxy_set_header Host $http_host; proxy_http_version 1.1; client_max_body_size 0;"
        return try NginxServer(locations: "location / { \(directives) \(pass) }")
    }

    private func configuration(_ proxy: NginxServer, session: Bool = false) -> S3Configuration {
        server.configuration(session ? server.session : server.user, ["AWS_ENDPOINT_URL_S3": proxy.url])
    }

    private func fetcher(_ s3: S3Configuration) throws -> ArtifactFetcher {
        var limits = TransferLimits()
        (limits.parallelThreshold, limits.segmentBytes, limits.parallelTransfers) = (500_000, 100_000, 4)
        // nginx is away for a moment.
        limits.attempts = 7
        return ArtifactFetcher(
            policy: try ArtifactPolicy(allow: ["s3://studio-latents/"]), cache: folder.path + "/cache", maximumBytes: 1 << 26,
            limits: limits, s3: s3, firstDelay: 0.05, logger: Logger(label: "test"), onFetch: nil)
    }

    @Test("the ranges of an object come side by side, each signed, with keys and with a session", arguments: [false, true])
    func ranges(session: Bool) async throws {
        // The first stream is slow: the others have all the time to come, however busy the threads are.
        let proxy = try proxy("set $limit_rate 40k; if ($http_range) { set $limit_rate 0; }")
        let s3 = configuration(proxy, session: session)
        let body = someBytes(2_000_123)
        let name = session ? "with a session" : "with keys"
        let artifact = try await ArtifactStore(location: "s3://studio-latents/ranges", s3: s3).put(body, name: name)
        #expect(try await SHA256.hexDigest(ofFile: fetcher(s3).fetch(artifact)) == artifact.sha256)
        try await until { proxy.log.count { $0.status == 206 } >= 3 }
        #expect(proxy.log.filter { $0.range != nil }.allSatisfy { $0.status == 206 })
        #expect(folder.names("cache/parts") == [])
    }

    @Test(
        "an object that is replaced while its ranges come is never mixed: the new one comes whole, and the old one is said to be gone",
        arguments: [true, false])
    func replacedMeanwhile(wantsNew: Bool) async throws {
        // Nothing comes to an end before the object has been replaced and nginx, killed, is back without its limit.
        let proxy = try proxy("limit_rate 2k;")
        let s3 = configuration(proxy)
        let direct = try ArtifactStore(location: "s3://studio-latents/replaced", s3: server.configuration(server.user))
        let (old, new) = (someBytes(2_000_000), someBytes(2_000_000).map { ~$0 })
        let (oldDigest, newDigest) = (SHA256.hexDigest(of: old), SHA256.hexDigest(of: new))
        let name = wantsNew ? "new" : "old"
        let url = try await direct.put(old, name: name).url
        let fetcher = try fetcher(s3)
        let fetching = Task { try await fetcher.fetch(url, sha256: wantsNew ? newDigest : oldDigest) }
        try await until { folder.names("cache/parts").contains { $0.hasSuffix(".segments") } }
        _ = try await direct.put(new, name: name)
        proxy.kill()
        try proxy.restart(without: "limit_rate 2k;")
        if wantsNew {
            #expect(try await SHA256.hexDigest(ofFile: fetching.value) == newDigest)
        } else {
            await #expect(throws: ArtifactError.digestMismatch(url: url, expected: oldDigest, actual: newDigest)) {
                try await fetching.value
            }
        }
        try await until { proxy.log.contains { $0.status == 412 } }
        #expect(folder.names("cache/parts") == [] && folder.names("cache/blobs") == (wantsNew ? [newDigest] : []))
    }

    @Test("an upload that is cancelled, or whose part fails, ends with its parts deleted", arguments: [true, false])
    func aborted(isCancelled: Bool) async throws {
        let stall = try ScriptedServer { _, _ in [.pause(60)] }
        let third = isCancelled ? "proxy_pass \(stall.url);" : "return 500;"
        let proxy = try proxy("if ($arg_partNumber = 3) { \(third) }")
        var s3 = configuration(proxy)
        (s3.multipartThreshold, s3.partBytes) = (6 << 20, 5 << 20)
        let name = isCancelled ? "cancelled" : "failed"
        let store = try ArtifactStore(location: "s3://studio-latents/aborted", s3: s3)
        let putting = Task { try await store.put(someBytes(16 << 20), name: name) }
        if isCancelled {
            // One part is under way, and others are there.
            try await until { !stall.requests.isEmpty }
            #expect(try await uploads().contains("<Key>aborted/\(name)</Key>"))
            putting.cancel()
            await #expect(throws: CancellationError.self) { try await putting.value }
        } else {
            let error = try await #require(throws: ArtifactError.self) { try await putting.value }
            #expect(error == .rejected(url: "s3://studio-latents/aborted/failed", status: 500) && !error.isPermanent)
            try await until { proxy.log.count { $0.path.contains("partNumber=3") } == TransferLimits().attempts }
        }
        #expect(!(try await uploads().contains("<Key>aborted/\(name)</Key>")))
        // It asked whether parts were left.
        try await until { proxy.log.last.map { $0.path.contains("uploadId=") && $0.status == 404 } ?? false }
    }

    /// The uploads that are neither complete nor aborted.
    private func uploads() async throws -> String {
        let s3 = server.configuration(server.user)
        return try await TransferThreads.shared.run { handle in
            let listed = SmallBody(url: "")
            _ = try S3Client(configuration: s3).send(
                "GET", ArtifactURL("s3://studio-latents/"), query: "uploads=", into: listed, limits: TransferLimits(),
                cancelled: Cancellation(), on: handle)
            return String(decoding: listed.bytes, as: UTF8.self)
        }
    }
}
