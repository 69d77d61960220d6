import Foundation
import Logging
import NetworkTesting
import Synchronization
import Testing

@testable import Artifacts

@Suite("Fetching over HTTP")
struct FetchTests {
    private let folder: TemporaryFolder
    private let body = someBytes(300_000)
    private var digest: String { SHA256.hexDigest(of: body) }

    init() throws { folder = try TemporaryFolder() }

    private func fetcher(
        _ allow: String..., maximumBytes: Int = 1 << 20, slowSeconds: Int = 20, onFetch: (@Sendable (FetchedArtifact) -> Void)? = nil
    ) throws -> ArtifactFetcher {
        var limits = TransferLimits()
        limits.slowSeconds = slowSeconds
        return ArtifactFetcher(
            policy: try ArtifactPolicy(allow: allow), cache: folder.path + "/cache", maximumBytes: maximumBytes, limits: limits,
            firstDelay: 0.01, logger: Logger(label: "test"), onFetch: onFetch)
    }

    private func content(_ path: String) -> [UInt8] { Array(FileManager.default.contents(atPath: path) ?? Data()) }

    @Test("a file arrives whole, under its digest, and the second time from the cache")
    func plain() async throws {
        let server = try ScriptedServer { [body] request, _ in .answer("200 OK", body) }
        let log = Mutex<[FetchedArtifact]>([])
        let fetcher = try fetcher(server.url + "/") { fetched in log.withLock { $0.append(fetched) } }
        let path = try await fetcher.fetch(server.url + "/a?signature=secret", sha256: digest)
        #expect(content(path) == body)
        #expect(path == folder.path + "/cache/blobs/" + digest)
        let again = try await fetcher.fetch(server.url + "/a", sha256: digest)
        #expect(again == path)
        #expect(server.requests.count == 1)
        #expect(server.requests.first?.headers["accept-encoding"] == "identity")
        #expect(log.withLock { $0.map(\.fromCache) } == [false, true])
        #expect(log.withLock { $0.first?.url } == server.url + "/a")
        #expect(content(folder.path + "/cache/CACHEDIR.TAG").starts(with: "Signature: 8a477f597d28d172789f06886806bc55".utf8))
        #expect(folder.names("cache/parts") == [])
    }

    @Test("a damaged cache file is fetched again")
    func damagedCache() async throws {
        let server = try ScriptedServer { [body] _, _ in .answer("200 OK", body) }
        let fetcher = try fetcher(server.url)
        let path = try await fetcher.fetch(server.url + "/a", sha256: digest)
        unlink(path)
        try Data("other".utf8).write(to: URL(filePath: path))
        #expect(content(try await fetcher.fetch(server.url + "/a", sha256: digest)) == body)
        #expect(server.requests.count == 2)
    }

    @Test("a broken transfer goes on where it broke")
    func resume() async throws {
        let server = try ScriptedServer { [body] request, number in .ranged(request, body, breakAfter: number < 3 ? 100_000 : .max) }
        let path = try await fetcher(server.url).fetch(server.url + "/a", sha256: digest)
        #expect(content(path) == body)
        let ranges = server.requests.map { $0.headers["range"] }
        #expect(ranges.count == 3)
        #expect(ranges[0] == nil)
        #expect(ranges.dropFirst().allSatisfy { $0 != nil })
    }

    @Test("a server without ranges sends everything again")
    func noRanges() async throws {
        let server = try ScriptedServer { [body] _, number in
            .answer("200 OK", Array(body.prefix(number == 1 ? 1000 : .max)), length: body.count)
        }
        let path = try await fetcher(server.url).fetch(server.url + "/a", sha256: digest)
        #expect(content(path) == body)
    }

    @Test("a server that sends another range than it was asked for does not damage the file")
    func wrongRange() async throws {
        let server = try ScriptedServer { [body] _, number in
            switch number {
            case 1: .answer("200 OK", Array(body.prefix(1000)), length: body.count)
            case 2:
                .answer(
                    "206 Partial Content", Array(body.dropFirst(5)), headers: ["Content-Range: bytes 5-\(body.count - 1)/\(body.count)"])
            default: .answer("200 OK", body)
            }
        }
        #expect(content(try await fetcher(server.url).fetch(server.url + "/a", sha256: digest)) == body)
    }

    @Test("a stale part of another content is thrown away")
    func stalePart() async throws {
        let other = someBytes(1000).map { ~$0 }
        let server = try ScriptedServer { [body] request, number in
            number == 1 ? .answer("200 OK", other, length: body.count) : .ranged(request, body)
        }
        #expect(content(try await fetcher(server.url).fetch(server.url + "/a", sha256: digest)) == body)
    }

    @Test("two 500s and a 200 make a success; 500s alone an error that may pass")
    func serverErrors() async throws {
        let server = try ScriptedServer { [body] _, number in number < 3 ? .answer("500 Oh") : .answer("200 OK", body) }
        #expect(content(try await fetcher(server.url).fetch(server.url + "/a", sha256: digest)) == body)
        let broken = try ScriptedServer { _, _ in .answer("503 No") }
        let error = try await #require(throws: ArtifactError.self) { try await fetcher(broken.url).fetch(broken.url + "/a") }
        #expect(error == .rejected(url: broken.url + "/a", status: 503))
        #expect(!error.isPermanent)
        #expect(broken.requests.count == TransferLimits().attempts)
    }

    @Test("another content than promised is refused, named, and leaves nothing", .timeLimit(.minutes(1)))
    func wrongDigest() async throws {
        let server = try ScriptedServer { _, _ in .answer("200 OK", Array("swapped".utf8)) }
        let error = try await #require(throws: ArtifactError.self) {
            try await fetcher(server.url).fetch(server.url + "/a?token=secret", sha256: digest)
        }
        let actual = SHA256.hexDigest(of: Array("swapped".utf8))
        #expect(error == .digestMismatch(url: server.url + "/a", expected: digest, actual: actual))
        #expect(error.isPermanent)
        #expect("\(error)".contains(actual) && "\(error)".contains("changed") && !"\(error)".contains("secret"))
        #expect(server.requests.count == 1)
        #expect(folder.names("cache/blobs") == [] && folder.names("cache/parts") == [])
    }

    @Test("404 is permanent and not tried again")
    func missing() async throws {
        let server = try ScriptedServer { _, _ in .answer("404 Not Found", Array("gone".utf8)) }
        let error = try await #require(throws: ArtifactError.self) {
            try await fetcher(server.url).fetch(server.url + "/a", sha256: digest)
        }
        #expect(error == .notFound(url: server.url + "/a", status: 404))
        #expect(server.requests.count == 1)
        #expect(folder.names("cache/parts") == [])
    }

    @Test("a redirect is not followed, wherever it leads")
    func redirect() async throws {
        let inner = try ScriptedServer { _, _ in .answer("200 OK", Array("inner".utf8)) }
        let server = try ScriptedServer { [url = inner.url] _, _ in .answer("302 Found", headers: ["Location: \(url)/secret?x=1"]) }
        let error = try await #require(throws: ArtifactError.self) { try await fetcher(server.url, inner.url).fetch(server.url + "/a") }
        #expect(error == .redirected(url: server.url + "/a", location: inner.url + "/secret"))
        #expect(inner.requests.isEmpty)
    }

    @Test("too large is refused by the announced length, and by what comes without one")
    func tooLarge() async throws {
        let announced = try ScriptedServer { _, _ in .answer("200 OK", [1, 2, 3], length: 1 << 40) }
        await #expect(throws: ArtifactError.tooLarge(url: announced.url + "/a", limit: 1000)) {
            try await fetcher(announced.url, maximumBytes: 1000).fetch(announced.url + "/a")
        }
        let endless = try ScriptedServer { [body] _, _ in [.send(Array("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".utf8)), .send(body)] }
        await #expect(throws: ArtifactError.tooLarge(url: endless.url + "/a", limit: 1000)) {
            try await fetcher(endless.url, maximumBytes: 1000).fetch(endless.url + "/a", sha256: digest)
        }
        #expect(folder.names("cache/parts") == [])
    }

    @Test("a compressed answer is refused, because its digest would be that of something else")
    func compressed() async throws {
        let server = try ScriptedServer { [body] _, _ in .answer("200 OK", body, headers: ["Content-Encoding: gzip"]) }
        let error = try await #require(throws: ArtifactError.self) { try await fetcher(server.url).fetch(server.url + "/a") }
        #expect("\(error)".contains("gzip"))
    }

    @Test("a server that sends nothing is given up", .timeLimit(.minutes(1)))
    func slow() async throws {
        let server = try ScriptedServer { [body] _, number in
            number == 1 ? [.send(Array("HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n".utf8)), .pause(30)] : .answer("200 OK", body)
        }
        #expect(content(try await fetcher(server.url, slowSeconds: 1).fetch(server.url + "/a", sha256: digest)) == body)
    }

    @Test("nobody listening is said so")
    func unreachable() async throws {
        let closed = try ClosedPort()
        let url = "http://127.0.0.1:\(closed.port)/a"
        let error = try await #require(throws: ArtifactError.self) { try await fetcher("http://127.0.0.1:\(closed.port)/").fetch(url) }
        guard case .unreachable(url, _) = error else {
            Issue.record("\(error)")
            return
        }
        #expect("\(error)".contains("Is the server running"))
    }

    @Test("an allowed name that leads to loopback is refused when it is connected to; localhost is not")
    func addressCheckedAtConnection() async throws {
        let server = try ScriptedServer { [body] _, _ in .answer("200 OK", body) }
        // Another spelling of 127.0.0.1, which is a name to the allow-list and an address to the resolver.
        let spelled = "http://127.1:\(server.port)"
        let error = try await #require(throws: ArtifactError.self) { try await fetcher(spelled).fetch(spelled + "/a") }
        guard case .forbidden(_, let reason) = error else {
            Issue.record("\(error)")
            return
        }
        #expect(reason.contains("loopback"))
        #expect(server.requests.isEmpty)
        let named = "http://localhost:\(server.port)"
        #expect(content(try await fetcher(named).fetch(named + "/a")) == body)
    }

    @Test("many callers of one artifact share a transfer, and many artifacts come side by side")
    func shared() async throws {
        let server = try ScriptedServer { [body] _, _ in [.pause(0.2)] + .answer("200 OK", body) }
        let fetcher = try fetcher(server.url)
        try await withThrowingTaskGroup(of: String.self) { group in
            for _ in 0..<20 { group.addTask { try await fetcher.fetch(server.url + "/a", sha256: digest) } }
            for try await path in group { #expect(path.hasSuffix(digest)) }
        }
        #expect(server.requests.count == 1)
        let many = try ScriptedServer { request, _ in .answer("200 OK", Array(request.path.utf8)) }
        let wide = try self.fetcher(many.url)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<100 {
                group.addTask {
                    let expected = Array("/\(index)".utf8)
                    let path = try await wide.fetch(many.url + "/\(index)", sha256: SHA256.hexDigest(of: expected))
                    #expect(content(path) == expected)
                }
            }
            try await group.waitForAll()
        }
    }

    @Test("cancelling the only caller ends the transfer", .timeLimit(.minutes(1)))
    func cancel() async throws {
        let server = try ScriptedServer { _, _ in [.send(Array("HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n".utf8)), .pause(60)] }
        let fetcher = try fetcher(server.url)
        let task = Task { try await fetcher.fetch(server.url + "/a", sha256: digest) }
        while server.requests.isEmpty { try await Task.sleep(for: .milliseconds(5)) }
        task.cancel()
        await #expect(throws: (any Error).self) { try await task.value }
    }

    @Test("a digest that is none is refused before anything is fetched")
    func badDigest() async throws {
        let server = try ScriptedServer { _, _ in .answer("200 OK") }
        for wrong in ["", "abc", digest.uppercased(), digest + "0", "../../etc/passwd"] {
            await #expect(throws: ArtifactError.self) { try await fetcher(server.url).fetch(server.url + "/a", sha256: wrong) }
        }
        #expect(server.requests.isEmpty)
    }
}
