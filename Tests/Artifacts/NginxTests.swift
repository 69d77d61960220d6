import Foundation
import Logging
import NetworkTesting
import Testing

@testable import Artifacts

@Suite("Fetching from nginx")
struct NginxTests {
    private let folder: TemporaryFolder
    private let body = someBytes(900_000)
    private var digest: String { SHA256.hexDigest(of: body) }

    init() throws { folder = try TemporaryFolder() }

    private func fetcher(_ allow: String..., limits: TransferLimits = TransferLimits()) throws -> ArtifactFetcher {
        ArtifactFetcher(
            policy: try ArtifactPolicy(allow: allow), cache: folder.path + "/cache", maximumBytes: 1 << 24, limits: limits,
            firstDelay: 0.05, logger: Logger(label: "test"), onFetch: nil)
    }

    @Test("a file comes whole, once, uncompressed where compression is offered")
    func plain() async throws {
        let server = try NginxServer(http: "gzip on; gzip_types *; gzip_min_length 1;")
        try server.write("a b.safetensors", body)
        let url = server.url + "/a%20b.safetensors"
        #expect(try await SHA256.hexDigest(ofFile: fetcher(server.url).fetch(url, sha256: digest)) == digest)
        _ = try await fetcher(server.url).fetch(url, sha256: digest)
        #expect(try await server.log(atLeast: 1).filter { $0.path == "/a%20b.safetensors" }.map(\.sent) == [body.count])
    }

    @Test("a server that is killed in the middle and comes back is asked for the rest only", .timeLimit(.minutes(1)))
    func resumeAfterCrash() async throws {
        let server = try NginxServer(locations: "location /slow/ { limit_rate_after 300k; limit_rate 20k; }")
        try server.write("slow/a", body)
        let fetcher = try fetcher(server.url)
        let url = server.url + "/slow/a"
        let fetching = Task { [digest] in try await fetcher.fetch(url, sha256: digest) }
        // The slow part has begun.
        try await until { partSize() > 300_000 }
        server.kill()
        // It is fast from now on, under the same entity tag: nginx makes it of time and size.
        try server.restart(without: "limit_rate 20k;")
        #expect(try await SHA256.hexDigest(ofFile: fetching.value) == digest)
        let last = try #require(try await server.log(atLeast: 1).last)
        #expect(last.status == 206 && last.range.map { $0.hasPrefix("bytes=") } == true && last.ifRange?.hasPrefix("\"") == true)
        #expect((1..<(body.count - 300_000)).contains(last.sent))
    }

    @Test("a file that was replaced while it was fetched is sent anew, whole")
    func replacedMeanwhile() async throws {
        let broken = try ScriptedServer { [body] _, _ in
            .answer("200 OK", Array(body.prefix(1000)).map { ~$0 }, headers: ["ETag: \"old\""], length: body.count)
        }
        // nginx passes the first request on to a server that breaks, and answers the others itself.
        let server = try NginxServer(
            locations: """
                location = /a { if ($http_range = "") { proxy_pass \(broken.url); } }
                """)
        try server.write("a", body)
        #expect(try await SHA256.hexDigest(ofFile: fetcher(server.url).fetch(server.url + "/a", sha256: digest)) == digest)
        #expect(try await server.log(atLeast: 2).map(\.status) == [200, 200])
        #expect(server.log.last?.ifRange == "\"old\"" && server.log.last?.sent == body.count)
    }

    @Test("an answer shorter than its announced length is no success, however often it comes")
    func wrongLength() async throws {
        let short = try ScriptedServer { [body] _, _ in .answer("200 OK", Array(body.prefix(1000)), length: body.count) }
        let server = try NginxServer(locations: "location / { proxy_pass \(short.url); proxy_set_header Range ''; }")
        let error = try await #require(throws: ArtifactError.self) { try await fetcher(server.url).fetch(server.url + "/a") }
        guard case .unreachable = error else {
            Issue.record("\(error)")
            return
        }
        #expect(short.requests.count == TransferLimits().attempts)
        #expect(folder.names("cache/blobs") == [] && folder.names("cache/parts") == [])
    }

    @Test("fewer bytes a second than the minimum are given up, with the reason", .timeLimit(.minutes(1)))
    func slow() async throws {
        let server = try NginxServer(locations: "location / { limit_rate 300; }")
        try server.write("a", body)
        var limits = TransferLimits()
        limits.slowSeconds = 1
        limits.attempts = 1
        let error = try await #require(throws: ArtifactError.self) {
            try await fetcher(server.url, limits: limits).fetch(server.url + "/a")
        }
        guard case .unreachable(_, let reason) = error else {
            Issue.record("\(error)")
            return
        }
        #expect(reason.contains("bytes a second") && !error.isPermanent)
    }

    @Test("other bytes than promised are refused, and nothing of them stays")
    func wrongDigest() async throws {
        let server = try NginxServer()
        try server.write("a", body.reversed())
        await #expect(
            throws: ArtifactError.digestMismatch(
                url: server.url + "/a", expected: digest, actual: SHA256.hexDigest(of: Array(body.reversed())))
        ) { try await fetcher(server.url).fetch(server.url + "/a", sha256: digest) }
        #expect(folder.names("cache/blobs") == [] && folder.names("cache/parts") == [])
    }

    @Test("redirects are refused, to forbidden addresses and to allowed ones", arguments: [301, 302, 303, 307, 308])
    func redirect(status: Int) async throws {
        let server = try NginxServer(
            locations: """
                location = /inside { return \(status) http://169.254.169.254/latest/meta-data/iam?secret=1; }
                location = /beside { return \(status) /a; }
                """)
        try server.write("a", body)
        for (path, location) in [("/inside", "http://169.254.169.254/latest/meta-data/iam"), ("/beside", server.url + "/a")] {
            await #expect(throws: ArtifactError.redirected(url: server.url + path, location: location)) {
                try await fetcher(server.url).fetch(server.url + path)
            }
        }
        #expect(!server.log.contains { $0.path == "/a" })
    }

    @Test("an upstream that fails twice is tried again with growing pauses")
    func stumbling() async throws {
        let upstream = try ScriptedServer { [body] _, number in number < 3 ? .answer("503 No") : .answer("200 OK", body) }
        let server = try NginxServer(locations: "location / { proxy_pass \(upstream.url); }")
        let start = ContinuousClock.now
        #expect(try await SHA256.hexDigest(ofFile: fetcher(server.url).fetch(server.url + "/a", sha256: digest)) == digest)
        #expect(try await server.log(atLeast: 3).map(\.status) == [503, 503, 200])
        // The pauses are half of 0.05 and of 0.1 seconds at least.
        #expect(ContinuousClock.now - start >= .milliseconds(75))
    }

    @Test("an upstream that cannot be reached (502) stays an error that may pass")
    func badGateway() async throws {
        let closed = try ClosedPort()
        let server = try NginxServer(locations: "location / { proxy_pass http://127.0.0.1:\(closed.port); }")
        let error = try await #require(throws: ArtifactError.self) { try await fetcher(server.url).fetch(server.url + "/a") }
        #expect(error == .rejected(url: server.url + "/a", status: 502) && !error.isPermanent)
    }

    @Test("a content encoding is neither decoded nor believed")
    func contentEncoding() async throws {
        let server = try NginxServer(locations: "location / { add_header Content-Encoding gzip always; }")
        try server.write("a", [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        let error = try await #require(throws: ArtifactError.self) { try await fetcher(server.url).fetch(server.url + "/a") }
        #expect("\(error)".contains("gzip") && error.isPermanent)
    }

    private func partSize() -> Int {
        let parts = folder.names("cache/parts").filter { $0.hasSuffix(".part") }
        let attributes = parts.first.flatMap { try? FileManager.default.attributesOfItem(atPath: "\(folder.path)/cache/parts/\($0)") }
        return (attributes?[.size] as? Int) ?? 0
    }
}

/// Waits, a minute at most, until something is so.
func until(_ condition: () throws -> Bool) async throws {
    let end = ContinuousClock.now + .seconds(60)
    while try !condition() {
        guard ContinuousClock.now < end else { throw CancellationError() }
        try await Task.sleep(for: .milliseconds(5))
    }
}
