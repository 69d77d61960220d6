import Foundation
import Logging
import NetworkTesting
import Synchronization
import Testing

@testable import Artifacts

@Suite("Large artifacts in several transfers at once")
struct ParallelTests {
    private let folder: TemporaryFolder
    private let body = someBytes(3_000_123)
    private var digest: String { SHA256.hexDigest(of: body) }
    private var limits: TransferLimits {
        var limits = TransferLimits()
        (limits.parallelThreshold, limits.segmentBytes, limits.parallelTransfers) = (1 << 20, 200_000, 4)
        return limits
    }

    init() throws { folder = try TemporaryFolder() }

    private func fetcher(_ allow: String, _ limits: TransferLimits? = nil) throws -> ArtifactFetcher {
        ArtifactFetcher(
            policy: try ArtifactPolicy(allow: [allow]), cache: folder.path + "/cache", maximumBytes: 1 << 24, limits: limits ?? self.limits,
            firstDelay: 0.05, logger: Logger(label: "test"), onFetch: nil)
    }

    private func content(_ path: String) -> [UInt8] { Array(FileManager.default.contents(atPath: path) ?? Data()) }

    @Test("the ranges come side by side from nginx, never more than four at once, and make the whole")
    func ranges() async throws {
        // nginx itself refuses a fifth connection.
        let server = try NginxServer(
            locations: "location / { limit_conn all 4; limit_rate 1m; }", http: "limit_conn_zone $server_name zone=all:1m;")
        try server.write("a", body)
        #expect(try await SHA256.hexDigest(ofFile: fetcher(server.url).fetch(server.url + "/a", sha256: digest)) == digest)
        try await until { server.log.contains { $0.range == nil } && server.log.count { $0.status == 206 } >= 3 }
        let log = server.log
        #expect(!log.contains { $0.status == 503 })
        #expect(log.filter { $0.range != nil }.allSatisfy { $0.ifRange?.hasPrefix("\"") == true })
        #expect(folder.names("cache/parts") == [])
    }

    @Test("segments that a killed server did not send are asked for again, and no others", .timeLimit(.minutes(1)))
    func resume() async throws {
        let server = try NginxServer(locations: "location / { limit_rate 400k; }")
        try server.write("a", body)
        let fetcher = try fetcher(server.url)
        let url = server.url + "/a"
        let fetching = Task { [digest] in try await fetcher.fetch(url, sha256: digest) }
        try await until { completeSegments() >= 3 }
        server.kill()
        let before = completeSegments()
        try server.restart()
        #expect(try await SHA256.hexDigest(ofFile: fetching.value) == digest)
        // Those that were complete are not among what the second server sent: 16 segments in all.
        #expect(before >= 3)
        #expect(server.log.suffix { $0.status == 206 }.reduce(0) { $0 + $1.sent } <= body.count)
    }

    @Test("a process that was killed leaves segments that the next one takes up")
    func resumeInAnotherProcess() async throws {
        let server = try ScriptedServer { [body] request, _ in .exact(request, body) }
        // What a killed process leaves: segments 0, 1 and 15 complete, the others holes.
        let cache = ArtifactCache(folder: folder.path + "/cache")
        try cache.prepare()
        let name = "\(digest.prefix(16))-\(SHA256.hexDigest(of: Array((server.url + "/a").utf8)).prefix(16)).part"
        var left = [UInt8](repeating: 0, count: body.count)
        left.replaceSubrange(0..<400_000, with: body[0..<400_000])
        left.replaceSubrange(3_000_000..<body.count, with: body[3_000_000...])
        try folder.write("cache/parts/" + name, left)
        try folder.write("cache/parts/\(name).segments", Array("foretaste-segments 1 \(body.count) 200000 \"tag\"\n0\n1\n15\n2".utf8))
        #expect(try await SHA256.hexDigest(ofFile: fetcher(server.url).fetch(server.url + "/a", sha256: digest)) == digest)
        // The line without an end does not count.
        let expected = (2..<15).map { "bytes=\($0 * 200_000)-\(($0 + 1) * 200_000 - 1)" }
        #expect(server.requests.map { $0.headers["range"] ?? "all" }.sorted() == expected.sorted())
        #expect(server.requests.allSatisfy { $0.headers["if-range"] == "\"tag\"" })
        #expect(folder.names("cache/parts") == [])
    }

    @Test("damaged segments of an earlier attempt cost one more transfer, not the artifact")
    func damagedSegments() async throws {
        let server = try ScriptedServer { [body] request, _ in .exact(request, body) }
        let cache = ArtifactCache(folder: folder.path + "/cache")
        try cache.prepare()
        let name = "\(digest.prefix(16))-\(SHA256.hexDigest(of: Array((server.url + "/a").utf8)).prefix(16)).part"
        try folder.write("cache/parts/" + name, [UInt8](repeating: 0, count: body.count))
        try folder.write("cache/parts/\(name).segments", Array("foretaste-segments 1 \(body.count) 200000 \"tag\"\n0\n".utf8))
        #expect(try await SHA256.hexDigest(ofFile: fetcher(server.url).fetch(server.url + "/a", sha256: digest)) == digest)
        #expect(server.requests.last?.headers["range"] == nil)
    }

    @Test("a server that promises ranges and sends none is read in one stream")
    func brokenPromise() async throws {
        let server = try ScriptedServer { [body] _, _ in .answer("200 OK", body, headers: ["Accept-Ranges: bytes", "ETag: \"tag\""]) }
        #expect(try await SHA256.hexDigest(ofFile: fetcher(server.url).fetch(server.url + "/a", sha256: digest)) == digest)
    }

    @Test("a server without ranges is asked once")
    func noRanges() async throws {
        let server = try ScriptedServer { [body] _, _ in .answer("200 OK", body) }
        #expect(try await SHA256.hexDigest(ofFile: fetcher(server.url).fetch(server.url + "/a", sha256: digest)) == digest)
        #expect(server.requests.count == 1)
    }

    @Test("content that changes between the ranges is never mixed")
    func changedMeanwhile() async throws {
        let old = body.map { ~$0 }
        let server = try ScriptedServer { [body] request, number in
            // The first stream is of the old content and goes slowly.
            if number == 1 {
                let head =
                    "HTTP/1.1 200 OK\r\nContent-Length: \(old.count)\r\nAccept-Ranges: bytes\r\nETag: \"old\"\r\nConnection: close\r\n\r\n"
                return [.send(Array(head.utf8)), .send(Array(old.prefix(100_000))), .pause(3), .send(Array(old.dropFirst(100_000)))]
            }
            guard let condition = request.headers["if-range"], condition != "\"tag\"" else { return .exact(request, body) }
            return .answer("200 OK", body, headers: ["Accept-Ranges: bytes", "ETag: \"tag\""])
        }
        #expect(try await SHA256.hexDigest(ofFile: fetcher(server.url).fetch(server.url + "/a", sha256: digest)) == digest)
    }

    @Test("another content than promised is refused in segments too, without a second look when the server's tags vouch for one content")
    func wrongDigest() async throws {
        let server = try ScriptedServer { [body] request, _ in .exact(request, body) }
        let wrong = String(repeating: "0", count: 64)
        await #expect(throws: ArtifactError.digestMismatch(url: server.url + "/a", expected: wrong, actual: digest)) {
            try await fetcher(server.url).fetch(server.url + "/a", sha256: wrong)
        }
        #expect(server.requests.filter { $0.headers["range"] == nil }.count == 1)
        #expect(folder.names("cache/parts") == [] && folder.names("cache/blobs") == [])
    }

    @Test("one host gets six transfers at most, and leaves room for another", .timeLimit(.minutes(1)))
    func hostLimit() async throws {
        let threads = TransferThreads(maximum: 8, maximumPerHost: 3)
        let counts = Counts()
        let gate = Gate()
        defer { gate.open() }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<12 {
                group.addTask {
                    try await threads.run(host: "slow") { _ in
                        counts.begin()
                        gate.wait()
                        counts.end()
                    }
                }
            }
            try await until { counts.now == 3 }
            // It does not wait behind the slow host's nine others.
            #expect(try await threads.run(host: "fast") { _ in counts.now } == 3)
            gate.open()
            try await group.waitForAll()
        }
        #expect(counts.most == 3)
    }

    @Test("a transfer that is steady but too slow for its size ends at its deadline", .timeLimit(.minutes(1)))
    func deadline() async throws {
        let server = try NginxServer(locations: "location / { limit_rate 20k; }")
        try server.write("a", body)
        var limits = limits
        limits.totalSeconds = 2
        let start = ContinuousClock.now
        let error = try await #require(throws: ArtifactError.self) {
            try await fetcher(server.url, limits).fetch(server.url + "/a", sha256: digest)
        }
        #expect("\(error)".contains("longer than the 2 seconds"))
        // All attempts together have the one deadline; a callback comes once a second.
        #expect(ContinuousClock.now - start < .seconds(10))
        #expect(TransferLimits().deadline(bytes: 1 << 30) == 60 + 4096)
    }

    @Test("what waited behind others has all the time that its size allows", .timeLimit(.minutes(1)))
    func waitingIsNotSlow() async throws {
        // A host has six transfers at once: the seventh waits for longer than the three seconds that it may take.
        let gate = Gate()
        let server = try ScriptedServer { request, _ in
            (request.path.hasPrefix("/slow") ? [.perform { gate.wait() }] : []) + .answer("200 OK", Array(request.path.utf8))
        }
        defer { gate.open() }
        var limits = limits
        limits.baseSeconds = 3
        let (slow, quick) = (try fetcher(server.url), try fetcher(server.url, limits))
        try await withThrowingTaskGroup(of: String.self) { group in
            for index in 0..<6 { group.addTask { try await slow.fetch("\(server.url)/slow\(index)") } }
            try await until { server.requests.count == 6 }
            group.addTask { try await quick.fetch(server.url + "/quick") }
            try await Task.sleep(for: .seconds(4))
            #expect(server.requests.count == 6)
            gate.open()
            try await group.waitForAll()
        }
        // What the operator set is for all of it, the waiting included.
        limits.totalSeconds = 0
        let none = try fetcher(server.url, limits)
        let error = try await #require(throws: ArtifactError.self) { try await none.fetch(server.url + "/quick") }
        #expect("\(error)".contains("longer than the 0 seconds"))
    }

    private func completeSegments() -> Int {
        guard let name = folder.names("cache/parts").first(where: { $0.hasSuffix(".segments") }) else { return 0 }
        return max(0, content("\(folder.path)/cache/parts/\(name)").count { $0 == UInt8(ascii: "\n") } - 1)
    }
}

/// Holds threads up until it is opened.
private final class Gate: Sendable {
    private let semaphore = DispatchSemaphore(value: 0)

    /// Each who passes lets the next one pass.
    func wait() {
        semaphore.wait()
        semaphore.signal()
    }

    func open() { semaphore.signal() }
}

/// How many do something now, and how many did at most.
private final class Counts: Sendable {
    private let state = Mutex((now: 0, most: 0))
    var now: Int { state.withLock { $0.now } }
    var most: Int { state.withLock { $0.most } }
    func begin() { state.withLock { $0 = ($0.now + 1, max($0.most, $0.now + 1)) } }
    func end() { state.withLock { $0.now -= 1 } }
}

extension [NginxServer.Line] {
    fileprivate func suffix(_ isWanted: (NginxServer.Line) -> Bool) -> ArraySlice<NginxServer.Line> {
        self[(lastIndex { !isWanted($0) }.map { $0 + 1 } ?? 0)...]
    }
}

extension [ScriptedServer.Step] {
    /// A server that knows ranges to their end, with an entity tag.
    static func exact(_ request: ScriptedServer.Request, _ body: [UInt8]) -> Self {
        let common = ["Accept-Ranges: bytes", "ETag: \"tag\""]
        guard let range = request.headers["range"] else { return answer("200 OK", body, headers: common) }
        let ends = range.dropFirst(6).split(separator: "-", omittingEmptySubsequences: false)
        let (start, end) = (Int(ends[0])!, Int(ends[1]) ?? body.count - 1)
        return answer(
            "206 Partial Content", Swift.Array(body[start...end]), headers: common + ["Content-Range: bytes \(start)-\(end)/\(body.count)"])
    }
}
