import Foundation
import Logging
import Testing

@testable import Artifacts

@Suite("S3, spoken with a server that checks signatures")
struct S3Tests {
    private let folder: TemporaryFolder
    private let server: S3TestServer

    init() async throws {
        folder = try TemporaryFolder()
        server = try await S3TestServer.shared
    }

    private func fetcher(_ s3: S3Configuration, maximumBytes: Int = 1 << 26) throws -> ArtifactFetcher {
        ArtifactFetcher(
            policy: try ArtifactPolicy(allow: ["s3://studio-latents/"]), cache: folder.path + "/cache-\(UInt64.random(in: 0...UInt64.max))",
            maximumBytes: maximumBytes, limits: TransferLimits(), s3: s3, firstDelay: 0.01, logger: Logger(label: "test"), onFetch: nil)
    }

    private func content(_ path: String) -> [UInt8] { Array(FileManager.default.contents(atPath: path) ?? Data()) }

    @Test("what is stored is fetched again, whatever its name, with keys and with a session", arguments: [false, true])
    func roundTrip(session: Bool) async throws {
        let s3 = server.configuration(session ? server.session : server.user)
        let store = try ArtifactStore(location: "s3://studio-latents/runs", s3: s3)
        let body = someBytes(100_000)
        for name in [nil, "7/lo ra+ä=(1)~&?.safetensors"] {
            let artifact = try await store.put(body, name: name)
            #expect(artifact.url.hasPrefix("s3://studio-latents/runs/"))
            let path = try await fetcher(s3).fetch(artifact)
            #expect(content(path) == body)
        }
        let empty = try await store.put([], name: "empty")
        #expect(content(try await fetcher(s3).fetch(empty)) == [])
    }

    @Test("a large object goes up in parts and comes down whole")
    func multipart() async throws {
        var s3 = server.configuration(server.user)
        (s3.multipartThreshold, s3.partBytes) = (6 << 20, 5 << 20)
        let store = try ArtifactStore(location: "s3://studio-latents/large", s3: s3)
        let body = someBytes((11 << 20) + 17)
        let artifact = try await store.put(file: folder.write("source", body), mediaType: "application/x-safetensors")
        #expect(content(try await fetcher(s3).fetch(artifact)) == body)
        // Three parts, as the tag of S3 tells.
        let head = try await TransferThreads.shared.run { [s3] handle in
            try S3Client(configuration: s3).send(
                "HEAD", ArtifactURL(artifact.url), limits: TransferLimits(), cancelled: Cancellation(), on: handle)
        }
        #expect(head.entityTag?.hasSuffix("-3\"") == true)
        #expect(head.storedDigest == artifact.sha256 && head.length == body.count)
    }

    @Test("an upload that fails leaves no parts")
    func abort() async throws {
        var s3 = server.configuration(server.user)
        // The server refuses all parts but the last that have less than 5 MiB, when they are joined.
        (s3.multipartThreshold, s3.partBytes) = (1 << 20, 1 << 20)
        let store = try ArtifactStore(location: "s3://studio-latents/failed", s3: s3)
        let error = try await #require(throws: ArtifactError.self) { try await store.put(someBytes(3 << 20), name: "x") }
        guard case .service(_, 400, "EntityTooSmall", _) = error else {
            Issue.record("\(error)")
            return
        }
        let listed = SmallBody(url: "")
        try await TransferThreads.shared.run { [s3, listed = UnsafeSendable(listed)] handle in
            _ = try S3Client(configuration: s3).send(
                "GET", ArtifactURL("s3://studio-latents/"), query: "uploads=", into: listed.value, limits: TransferLimits(),
                cancelled: Cancellation(), on: handle)
        }
        let text = String(decoding: listed.bytes, as: UTF8.self)
        #expect(text.contains("ListMultipartUploadsResult") && !text.contains("<Key>failed/x</Key>"))
        await #expect(throws: ArtifactError.notFound(url: "s3://studio-latents/failed/x", status: 404)) {
            try await fetcher(s3).fetch("s3://studio-latents/failed/x")
        }
    }

    @Test("errors are the service's own, and name the URL")
    func errors() async throws {
        let url = "s3://studio-latents/missing"
        func error(_ s3: S3Configuration, _ url: String = url) async throws -> ArtifactError {
            try await #require(throws: ArtifactError.self) { try await fetcher(s3).fetch(url) }
        }
        #expect(try await error(server.configuration(server.user)) == .notFound(url: url, status: 404))
        func code(_ error: ArtifactError) -> String? {
            guard case .service(let shown, _, let code, _) = error, shown == url, error.isPermanent, "\(error)".contains(url) else {
                return nil
            }
            return code
        }
        #expect(code(try await error(server.configuration(server.stranger))) == "AccessDenied")
        #expect(code(try await error(server.configuration(server.user, ["AWS_SECRET_ACCESS_KEY": "wrong"]))) == "SignatureDoesNotMatch")
        #expect(code(try await error(server.configuration(server.user, ["AWS_ACCESS_KEY_ID": "AKIANOBODY"]))) == "InvalidAccessKeyId")
        let store = try ArtifactStore(location: "s3://no-such-bucket-here/", s3: server.configuration(server.user))
        let missing = try await #require(throws: ArtifactError.self) { try await store.put([1]) }
        #expect("\(missing)".contains("NoSuchBucket") && "\(missing)".contains("s3://no-such-bucket-here/blobs/"))
    }

    @Test("only allowed buckets and prefixes are fetched")
    func allowList() async throws {
        let policy = try ArtifactPolicy(allow: ["s3://studio-latents/a/"])
        try policy.check("s3://studio-latents/a/b")
        for url in [
            "s3://studio-latents/b", "s3://studio-latents/a/../b", "s3://studio-latents/ab", "s3://other/a/b", "s3://studio-latents/a/",
            "s3://studio-latents/a//b", "s3://studio-latents:1/a/b", "s3://studio-latents/a/b?versionId=1", "s3://", "s3:///a",
        ] {
            #expect(throws: ArtifactError.self, "\(url)") { try policy.check(url) }
        }
        #expect(throws: ArtifactError.self) { try ArtifactPolicy(allow: ["s3://bucket:99/"]) }
    }
}

/// A reference that is used by one thread at a time.
private struct UnsafeSendable<Value>: @unchecked Sendable {  // the test waits for the thread that uses it
    let value: Value
    init(_ value: Value) { self.value = value }
}
