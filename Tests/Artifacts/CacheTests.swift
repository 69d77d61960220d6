import Foundation
import Logging
import NetworkTesting
import Testing

@testable import Artifacts

@Suite("The cache of fetched artifacts")
struct CacheTests {
    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    private func cache(limit: Int, grace: Int = 0) throws -> ArtifactCache {
        var cache = ArtifactCache(folder: folder.path + "/cache", limit: limit)
        cache.graceSeconds = grace
        try cache.prepare()
        return cache
    }

    /// A blob that was used so many seconds ago.
    private func blob(_ seed: UInt8, used seconds: Int, bytes: Int = 1000) throws -> String {
        let content = [UInt8](repeating: seed, count: bytes)
        let digest = SHA256.hexDigest(of: content)
        let path = try folder.write("cache/blobs/" + digest, content)
        try FileManager.default.setAttributes([.modificationDate: Date(timeIntervalSinceNow: -Double(seconds))], ofItemAtPath: path)
        return digest
    }

    @Test("what was not used for longest goes first, until the cache is a tenth below its limit")
    func leastRecentlyUsed() throws {
        let cache = try cache(limit: 3000)
        let old = try blob(1, used: 4000)
        let looked = try blob(2, used: 3000)
        let middle = try blob(3, used: 2000)
        let young = try blob(4, used: 1000)
        // A look is a use.
        #expect(cache.verified(looked) == 1000)
        let usage = try cache.prune()
        #expect(usage == .init(files: 2, bytes: 2000, partBytes: 0, removedFiles: 2, removedBytes: 2000))
        #expect(folder.names("cache/blobs") == [looked, young].sorted())
        #expect(![old, middle].contains { folder.names("cache/blobs").contains($0) })
        #expect(try cache.prune().removedFiles == 0)
    }

    @Test("what was used just now, or is locked, is not deleted however full the cache is")
    func inUse() throws {
        let cache = try cache(limit: 10, grace: 600)
        let recent = try blob(1, used: 10)
        let locked = try blob(2, used: 4000)
        let reader = try #require(try cache.lock(locked, exclusive: false))
        #expect(try cache.prune().removedFiles == 0)
        #expect(folder.names("cache/blobs") == [recent, locked].sorted())
        withExtendedLifetime(reader) {}
    }

    @Test("somebody who reads a deleted artifact reads it to its end")
    func openFile() throws {
        let cache = try cache(limit: 10)
        let digest = try blob(7, used: 4000)
        let handle = try #require(FileHandle(forReadingAtPath: cache.path(digest)))
        #expect(try cache.prune().removedFiles == 1)
        #expect(try handle.readToEnd()?.count == 1000)
    }

    @Test("fetching keeps the cache below its limit")
    func limit() async throws {
        let server = try ScriptedServer { request, _ in .answer("200 OK", [UInt8](repeating: UInt8(request.path.count), count: 1000)) }
        let fetcher = ArtifactFetcher(
            policy: try ArtifactPolicy(allow: [server.url]), cache: try cache(limit: 5000), maximumBytes: 1 << 20, limits: TransferLimits(),
            firstDelay: 0.01, logger: Logger(label: "test"), onFetch: nil)
        for index in 1...20 {
            let path = "/" + String(repeating: "a", count: index)
            let digest = SHA256.hexDigest(of: [UInt8](repeating: UInt8(path.count), count: 1000))
            #expect(FileManager.default.fileExists(atPath: try await fetcher.fetch(server.url + path, sha256: digest)))
        }
        #expect(folder.names("cache/blobs").count <= 6)
        #expect(folder.names("cache/locks").count <= 6)
    }

    @Test("parts that nobody takes up are deleted after a week, those under way never")
    func oldParts() throws {
        let cache = try cache(limit: 10)
        for name in ["left.part", "left.part.segments", "busy.part"] {
            let path = try folder.write("cache/parts/" + name, [1, 2, 3])
            try FileManager.default.setAttributes([.modificationDate: Date(timeIntervalSinceNow: -8 * 86_400)], ofItemAtPath: path)
        }
        let busy = open(folder.path + "/cache/parts/busy.part", O_RDWR)
        flock(busy, LOCK_EX)
        _ = try cache.prune()
        #expect(folder.names("cache/parts") == ["busy.part"])
        close(busy)
    }

    @Test("one digest at several addresses is fetched once, however many ask")
    func oneDownload() async throws {
        let body = someBytes(100_000)
        let digest = SHA256.hexDigest(of: body)
        let server = try ScriptedServer { _, _ in [.pause(0.2)] + .answer("200 OK", body) }
        // A fetcher each, as processes have.
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<20 {
                let fetcher = try ArtifactFetcher(allow: [server.url], cache: folder.path + "/cache")
                group.addTask { _ = try await fetcher.fetch("\(server.url)/\(index)", sha256: digest) }
            }
            try await group.waitForAll()
        }
        #expect(server.requests.count == 1)
    }

    @Test("processes share one download, and one that is killed in the middle holds nobody up", .timeLimit(.minutes(1)))
    func betweenProcesses() async throws {
        let body = someBytes(100_000)
        let digest = SHA256.hexDigest(of: body)
        let cache = try cache(limit: 1 << 20)
        // Another process, which has the lock and hangs.
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/flock")
        process.arguments = ["--no-fork", "--exclusive", "\(folder.path)/cache/locks/\(digest)", "sleep", "600"]
        try process.run()
        try await until { try cache.lock(digest, exclusive: false) == nil }
        let server = try ScriptedServer { _, _ in .answer("200 OK", body) }
        let fetcher = try ArtifactFetcher(allow: [server.url], cache: folder.path + "/cache")
        let url = server.url + "/a"
        let fetching = Task { try await fetcher.fetch(url, sha256: digest) }
        try await Task.sleep(for: .milliseconds(300))
        #expect(server.requests.isEmpty)
        kill(process.processIdentifier, SIGKILL)
        #expect(try await fetching.value == cache.path(digest))
        #expect(server.requests.count == 1)
    }

    @Test("a lock whose file was deleted by its holder is not mistaken for the new one")
    func replacedLock() throws {
        let path = folder.path + "/lock"
        var first = try CacheLock.take(path, exclusive: true)
        #expect(try CacheLock.take(path, exclusive: false) == nil)
        first?.removeFile()
        let second = try #require(try CacheLock.take(path, exclusive: true))
        first = nil
        #expect(try CacheLock.take(path, exclusive: true) == nil)
        withExtendedLifetime(second) {}
    }
}
