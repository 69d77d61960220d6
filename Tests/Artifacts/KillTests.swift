import Foundation
import NetworkTesting
import Postgres
import Synchronization
import SeededRandom
import Testing

@testable import Artifacts

/// Processes of their own, killed at random points that a seed decides, again and again over one cache.
@Suite("Processes that are killed while they fetch", .serialized, .timeLimit(.minutes(3)))
struct KillTests {
    private let folder: TemporaryFolder
    private let cache: ArtifactCache

    init() throws {
        folder = try TemporaryFolder()
        cache = ArtifactCache(folder: folder.path + "/cache")
    }

    @Test("killed 24 times, three processes at once, never damage the cache, never fetch twice and go on where they broke")
    func segments() async throws {
        let body = someBytes(4_000_123)
        let digest = SHA256.hexDigest(of: body)
        let server = try ScriptedServer { request, _ in Self.slowly(.exact(request, body)) }
        let url = server.url + "/a"
        let part = "\(digest.prefix(16))-\(SHA256.hexDigest(of: Array(url.utf8)).prefix(16)).part"
        var random = SplitMix64(seed: 20_260_131)
        var finished = 0
        for round in 0..<24 {
            let before = journal(part)
            // What a request was part of stands in its query, which the store ignores: the server may come to it late.
            let tag = "?round=\(round)"
            let target = (before?.count ?? 0) + Int.random(in: 0...8, using: &random)
            let fetchers = try await startFetchers(3, "file", cache.folder, url + tag, digest)
            try await until { (journal(part)?.count ?? 0) >= target || !fetchers.contains(where: \.isRunning) }
            try await Task.sleep(for: .microseconds(Int.random(in: 0...8000, using: &random)))
            await killAll(fetchers)

            let ranges = server.requests.filter { $0.path.hasSuffix(tag) }.map { $0.headers["range"] }
            let segments = ranges.compactMap { $0 }.compactMap { Int($0.dropFirst(6).prefix { $0 != "-" }) }.map { $0 / 200_000 }
            // One process at a time, and each segment once.
            #expect(ranges.count { $0 == nil } <= 1 && Set(segments).count == segments.count, "round \(round): \(ranges)")
            if let before, !before.isEmpty { #expect(before.isDisjoint(with: segments) && !ranges.contains(nil), "round \(round)") }
            if try check(cache.blobs, digest) {
                finished += 1
                unlink(cache.path(digest))
            }
        }
        // Many ask at once: the rest is fetched once.
        let missing = 21 - (journal(part)?.count ?? 0)
        let last = try await startFetchers(8, "file", cache.folder, url + "?round=last", digest)
        for fetcher in last { #expect(await fetcher.exitStatus() == 0) }
        let asked = server.requests.filter { $0.path.hasSuffix("last") }
        #expect(asked.count <= missing && (asked.count == missing || asked.contains { $0.headers["range"] == nil }))
        #expect(try check(cache.blobs, digest))
        #expect(finished < 24)
        try leavesNothing()
    }

    @Test("a stream that is killed goes on with the very next byte", arguments: [1, 2])
    func stream(seed: UInt64) async throws {
        let body = someBytes(900_000)
        let digest = SHA256.hexDigest(of: body)
        // In each round the server stops at another byte.
        var random = SplitMix64(seed: seed)
        let stops = (1...6).map { _ in Int.random(in: 1...120_000, using: &random) }.reduce(into: [0]) { $0.append($0.last! + $1) }
            .dropFirst()
        let server = try ScriptedServer { [stops] request, _ in
            let start = request.headers["range"].flatMap { Int($0.dropFirst(6).dropLast()) } ?? 0
            guard let stop = stops.first(where: { $0 > start }) else { return Self.slowly(.ranged(request, body)) }
            return Self.slowly(.ranged(request, body, breakAfter: stop - start)) + [.pause(20)]
        }
        let url = server.url + "/a"
        let part = "\(cache.parts)/\(digest.prefix(16))-\(SHA256.hexDigest(of: Array(url.utf8)).prefix(16)).part"
        var start: Int?
        for stop in stops {
            let fetcher = try await startFetcher("file", cache.folder, url, digest)
            try await until { bytes(part) == stop || !fetcher.isRunning }
            await killAll([fetcher])
            #expect(bytes(part) == stop && server.requests.last?.headers["range"] == start.map { "bytes=\($0)-" })
            start = stop
        }
        #expect(try await (startFetcher("file", cache.folder, url, digest)).exitStatus() == 0)
        #expect(server.requests.map { $0.headers["range"] } == [nil] + stops.map { "bytes=\($0)-" })
        #expect(try check(cache.blobs, digest))
        try leavesNothing()
    }

    @Test("a folder is there whole or not at all, whenever its makers are killed")
    func folders() async throws {
        let store = try ArtifactStore(location: "file://\(folder.path)/store")
        for index in 0..<30 { try folder.write("model/\(index % 3)/\(index)", someBytes(30_000 + index)) }
        let published = try await ModelFolder.publish(folder.path + "/model", to: store)
        let files = Dictionary(
            uniqueKeysWithValues: published.manifest.files.map { (String($0.url.split(separator: "/").last!), $0) })
        let server = try ScriptedServer { [path = folder.path] request, _ in
            let name = String(request.path.split(separator: "/").last!)
            return .answer("200 OK", Array(FileManager.default.contents(atPath: "\(path)/store/blobs/\(name)") ?? Data()))
        }
        let digest = published.artifact.sha256
        let (url, directory) = ("\(server.url)/blobs/\(digest)", cache.path(digest, .folder))
        var random = SplitMix64(seed: 7)
        for round in 0..<10 {
            let made = Int.random(in: 0...30, using: &random)
            let fetchers = try await startFetchers(2, "folder", cache.folder, url, digest)
            try await until { building() >= made || !fetchers.contains(where: \.isRunning) }
            await killAll(fetchers)
            guard FileManager.default.fileExists(atPath: directory) else { continue }
            for (sha256, file) in files {
                #expect(try SHA256.hexDigest(ofFile: directory + "/" + file.name) == sha256, "round \(round)")
            }
            try FileManager.default.removeItem(atPath: directory)
        }
        #expect(try await startFetcher("folder", cache.folder, url, digest).exitStatus() == 0)
        // One process makes it, and a kill costs the one file that was under way.
        #expect(server.requests.count <= 31 + 10)
        try leavesNothing()
        #expect(folder.names("cache/folders") == [digest])
    }

    @Test("a store's files are there whole or not at all, and nothing else, whenever those that store them are killed")
    func store() async throws {
        let body = someBytes(3_000_000)
        let source = try folder.write("source", body)
        var random = SplitMix64(seed: 3)
        for round in 0..<12 {
            let storing = try await start(["store", folder.path + "/store", source])
            let stored = Int.random(in: 0...2, using: &random)
            try await until { folder.names("store/runs").count > stored || !storing.isRunning }
            try await Task.sleep(for: .microseconds(Int.random(in: 0...20_000, using: &random)))
            #expect(storing.isRunning)
            await killAll([storing])
            let names = folder.names("store/runs")
            #expect(!names.isEmpty && names.allSatisfy { ["0", "1", "2"].contains($0) }, "round \(round): \(names)")
            for name in names { #expect(bytes("\(folder.path)/store/runs/\(name)") == body.count, "round \(round)") }
            if round == 6 { try FileManager.default.removeItem(atPath: folder.path + "/store") }
        }
        #expect(try SHA256.hexDigest(ofFile: folder.path + "/store/runs/0") == SHA256.hexDigest(of: body))
    }

    /// A pruning after a week finds nothing left of those that were killed.
    private func leavesNothing() throws {
        var later = cache
        later.partSeconds = -1
        try later.prune()
        #expect(folder.names("cache/parts") == [])
        let held = Set(folder.names("cache/blobs") + folder.names("cache/folders").map { "folder-" + $0 })
        #expect(Set(folder.names("cache/locks")).isSubset(of: held))
        #expect(!folder.names("cache/folders").contains { $0.hasPrefix(".") })
    }

    /// Whether the digest is there. Whatever is there is what its name says.
    private func check(_ blobs: String, _ digest: String) throws -> Bool {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: blobs)) ?? []
        for name in names { #expect(try SHA256.hexDigest(ofFile: "\(blobs)/\(name)") == name) }
        return names.contains(digest)
    }

    /// The complete segments of a part; `nil` when there is none in segments, or the journal of one that is in the cache already.
    private func journal(_ part: String) -> Set<Int>? {
        // Its first step gives the part its full length.
        guard bytes("\(cache.parts)/\(part)") == 4_000_123,
            let text = try? String(contentsOfFile: "\(cache.parts)/\(part).segments", encoding: .utf8)
        else { return nil }
        return Set(text.split(separator: "\n", omittingEmptySubsequences: false).dropLast().dropFirst().compactMap { Int($0) })
    }

    private func bytes(_ path: String) -> Int {
        ((try? FileManager.default.attributesOfItem(atPath: path))?[.size] as? Int) ?? 0
    }

    /// How many files the folder that is being made has.
    private func building() -> Int {
        folder.names("cache/folders").filter { $0.hasPrefix(".") }.map { name in
            ((try? FileManager.default.subpathsOfDirectory(atPath: "\(cache.folders)/\(name)")) ?? []).count
        }.max() ?? 0
    }

    /// 16 KiB every two milliseconds.
    private static func slowly(_ steps: [ScriptedServer.Step]) -> [ScriptedServer.Step] {
        steps.flatMap { step -> [ScriptedServer.Step] in
            guard case .send(let bytes) = step else { return [step] }
            return stride(from: 0, to: bytes.count, by: 16_384).flatMap { start -> [ScriptedServer.Step] in
                [.send(Array(bytes[start..<min(start + 16_384, bytes.count)])), .pause(0.002)]
            }
        }
    }
}

private func start(_ arguments: [String]) async throws -> ChildProcess {
    let programs = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
    return try await ChildProcess.start(
        .init(path: programs.appendingPathComponent("ArtifactTestFetcher").path, arguments: arguments))
}

/// A process that fetches.
private func startFetcher(_ kind: String, _ cache: String, _ url: String, _ digest: String) async throws -> ChildProcess {
    try await start([kind, cache, url, digest])
}

/// Processes that fetch the same.
private func startFetchers(_ count: Int, _ kind: String, _ cache: String, _ url: String, _ digest: String) async throws -> [ChildProcess] {
    var fetchers: [ChildProcess] = []
    for _ in 0..<count { fetchers.append(try await startFetcher(kind, cache, url, digest)) }
    return fetchers
}

/// Ends them all at once: none goes on when another is dead already.
private func killAll(_ fetchers: [ChildProcess]) async {
    for signal in [SIGSTOP, SIGKILL] { for fetcher in fetchers { fetcher.signal(signal) } }
    for fetcher in fetchers { _ = await fetcher.exitStatus() }
}
