import Foundation
import Logging
import NetworkTesting
import Testing

@testable import Artifacts

@Suite("Model folders in the cache")
struct FolderCacheTests {
    private let folder: TemporaryFolder
    private let store: ArtifactStore

    init() throws {
        folder = try TemporaryFolder()
        store = try ArtifactStore(location: "file://\(folder.path)/store")
    }

    private func cache(limit: Int = 1 << 30) throws -> ArtifactCache {
        var cache = ArtifactCache(folder: folder.path + "/cache", limit: limit)
        cache.graceSeconds = 0
        try cache.prepare()
        return cache
    }

    private func fetcher(_ cache: ArtifactCache, url: String? = nil) throws -> ArtifactFetcher {
        ArtifactFetcher(
            policy: try ArtifactPolicy(allow: url.map { [$0] } ?? [], fileRoots: [folder.path + "/store"]), cache: cache,
            maximumBytes: 1 << 20, limits: TransferLimits(), firstDelay: 0.01, logger: Logger(label: "test"), onFetch: nil)
    }

    /// A model of three files, the first of `bytes` bytes.
    private func publish(_ name: String, bytes: Int) async throws -> Artifact {
        let directory = "models/\(name)"
        try folder.write("\(directory)/config.json", Array(name.utf8))
        try folder.write("\(directory)/weights/a", someBytes(bytes))
        try folder.write("\(directory)/weights/b", Array("b\(name)".utf8))
        return try await ModelFolder.publish(folder.path + "/" + directory, to: store).artifact
    }

    /// Makes it look as if it had not been used for so long.
    private func age(_ path: String, _ seconds: Int) throws {
        try FileManager.default.setAttributes([.modificationDate: Date(timeIntervalSinceNow: -Double(seconds))], ofItemAtPath: path)
    }

    @Test("a folder counts toward the limit, goes when it was not used for longest, and never while somebody holds it")
    func leastRecentlyUsed() async throws {
        let cache = try cache()
        let fetcher = try fetcher(cache)
        let (old, held, young) = (
            try await publish("old", bytes: 10_000), try await publish("held", bytes: 20_000), try await publish("young", bytes: 30_000)
        )
        var folders: [String: CachedFolder] = [:]
        for (artifact, seconds) in [(old, 4000), (held, 5000), (young, 10)] {
            let one = try await ModelFolder.fetch(artifact.url, sha256: artifact.sha256, with: fetcher)
            try age(one.path, seconds)
            folders[artifact.sha256] = one
        }
        folders[old.sha256]!.release()
        folders[young.sha256]!.release()
        // The artifacts that they were made of are another matter.
        for name in folder.names("cache/blobs") { unlink(cache.path(name)) }
        let before = cache.usage()
        #expect(before.files == 0 && before.folders == 3 && before.folderBytes == 60_000 + 12 + 15)
        // Another test's child process has copies of all locks until it runs its program: a freed one is free a moment later.
        try await until { cache.entries().map(\.isLocked) == [true, false, false] }
        let listed = cache.entries()
        #expect(listed.map(\.sha256) == [held, old, young].map(\.sha256) && listed.allSatisfy { $0.kind == .folder })

        var usage = ArtifactCache.Usage()
        try await until {
            usage = try cache.prune(to: 56_000)
            return usage.removedBytes > 0
        }
        #expect(usage.removedFolders == 1 && usage.removedFiles == 0 && usage.removedBytes == 10_000 + 3 + 4)
        #expect(folder.names("cache/folders") == [held, young].map(\.sha256).sorted())
        // However full it is.
        try age(cache.path(young.sha256, .folder), 10)
        try await until { try cache.prune(to: 0).removedFolders == 1 }
        #expect(folder.names("cache/folders") == [held.sha256])
        #expect(folder.names("cache/locks") == ["folder-" + held.sha256])
        folders[held.sha256]!.release()
        try await until {
            usage = try cache.prune(to: 0)
            return usage.removedFolders > 0
        }
        #expect(usage == .init(removedFolders: 1, removedBytes: 20_000 + 4 + 5))
        #expect(folder.names("cache/folders") == [] && folder.names("cache/locks") == [])
    }

    @Test("artifacts and folders are told by their last use alone, and whoever lets go of a folder gives it up")
    func mixed() async throws {
        let cache = try cache()
        let model = try await publish("a", bytes: 5000)
        var held: CachedFolder? = try await ModelFolder.fetch(model.url, sha256: model.sha256, with: fetcher(cache))
        for name in folder.names("cache/blobs") { try age(cache.path(name), 100) }
        try age(cache.path(model.sha256, .folder), 200)
        #expect(held != nil && cache.entries().first?.kind == .folder && cache.entries().first?.isLocked == true)
        held = nil
        try await until { cache.entries().first?.isLocked == false }
        // A look is a use.
        _ = try await ModelFolder.fetch(model.url, sha256: model.sha256, with: fetcher(cache))
        #expect(cache.entries().last?.kind == .folder)
        var usage = ArtifactCache.Usage()
        try await until {
            usage = try cache.prune(to: 6000)
            return usage.removedBytes > 0
        }
        #expect(usage.removedFiles > 0 && usage.removedFolders == 0 && usage.folders == 1)
    }

    @Test("twenty who ask at once get one folder, made once, with every file asked for once")
    func once() async throws {
        let model = try await publish("shared", bytes: 100_000)
        let server = try ScriptedServer { [path = folder.path] request, _ in
            let name = String(request.path.split(separator: "/").last!)
            return [.pause(0.02)] + .answer("200 OK", Array(FileManager.default.contents(atPath: "\(path)/store/blobs/\(name)") ?? Data()))
        }
        let url = "\(server.url)/blobs/\(model.sha256)"
        let cache = try cache()
        let paths = try await withThrowingTaskGroup(of: String.self) { group in
            for _ in 0..<20 {
                let fetcher = try fetcher(cache, url: server.url)
                group.addTask { try await ModelFolder.fetch(url, sha256: model.sha256, with: fetcher).path }
            }
            return try await group.reduce(into: Set<String>()) { $0.insert($1) }
        }
        #expect(paths == [cache.path(model.sha256, .folder)])
        #expect(server.requests.count == 4)
        #expect(FileManager.default.contents(atPath: paths.first! + "/weights/a") == Data(someBytes(100_000)))
    }

    @Test("a folder whose files cannot be had is not there at all, and the next who asks makes it")
    func failed() async throws {
        let model = try await publish("missing", bytes: 1000)
        let blob = "store/blobs/" + SHA256.hexDigest(of: Array("bmissing".utf8))
        let bytes = try #require(FileManager.default.contents(atPath: folder.path + "/" + blob))
        unlink(folder.path + "/" + blob)
        let cache = try cache()
        await #expect(throws: ArtifactError.self) { try await ModelFolder.fetch(model.url, sha256: model.sha256, with: fetcher(cache)) }
        #expect(folder.names("cache/folders") == [])
        try folder.write(blob, Array(bytes))
        let made = try await ModelFolder.fetch(model.url, sha256: model.sha256, with: fetcher(cache))
        #expect(folder.names("cache/folders") == [model.sha256])
        made.release()
    }

    @Test("what killed processes left goes when its time has come: parts, notes without a part, half-made folders, locks of nothing")
    func leftovers() throws {
        let cache = try cache()
        let digest = String(repeating: "a", count: 64)
        let (old, fresh) = (8 * 86_400, 60)
        for (name, seconds) in [
            ("parts/gone.part.etag", old), ("parts/gone.part.segments", old), ("parts/new.part.etag", fresh), ("parts/.dat.nosync1.x", old),
            ("locks/\(digest)", old),
            ("locks/folder-\(digest)", old), ("locks/new", fresh), ("folders/.\(digest)-17/weights", fresh),
        ] {
            try age(try folder.write("cache/" + name, [1]), seconds)
        }
        #expect(cache.usage().partBytes == 5)
        // Somebody is making another one.
        let other = String(repeating: "b", count: 64)
        try folder.write("cache/folders/.\(other)-18/weights", [1])
        let maker = try #require(try cache.lock(other, .folder, exclusive: true))
        try cache.prune()
        #expect(folder.names("cache/parts") == ["new.part.etag"])
        #expect(folder.names("cache/locks") == ["folder-" + other, "new"])
        #expect(folder.names("cache/folders") == [".\(other)-18"])
        withExtendedLifetime(maker) {}
    }
}
