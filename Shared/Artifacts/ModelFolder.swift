public import Foundation
import Synchronization

/// A folder of files as one artifact: a JSON manifest that names each file with its URL, digest and size. A model is such a folder.
public struct FolderManifest: Codable, Sendable, Equatable {
    /// One file of the folder.
    public struct File: Codable, Sendable, Equatable {
        /// A plain file name, or a path below the folder without `..`.
        public var name: String
        /// Absolute, or relative to the manifest's own URL.
        public var url: String
        public var sha256: String
        public var bytes: Int

        public init(name: String, url: String, sha256: String, bytes: Int) {
            self.name = name
            self.url = url
            self.sha256 = sha256
            self.bytes = bytes
        }
    }

    public var files: [File]

    public init(files: [File]) { self.files = files }

    /// Reads a manifest and refuses file names that would leave the folder.
    public init(json: Data) throws {
        self = try JSONDecoder().decode(FolderManifest.self, from: json)
        for file in files {
            let parts = file.name.split(separator: "/", omittingEmptySubsequences: false)
            guard !parts.isEmpty, parts.allSatisfy({ !$0.isEmpty && $0 != "." && $0 != ".." && !$0.contains("\0") }) else {
                throw ArtifactError.invalid(
                    url: file.url, reason: "the folder's manifest names the file \(file.name), which is no path below it")
            }
        }
    }
}

/// Publishes folders to a store and brings them back, whole or not at all.
public enum ModelFolder {
    /// The media type of a manifest.
    public static let mediaType = "application/vnd.foretaste.folder+json"

    /// Stores every regular file of a folder, then its manifest, all by digest: publishing the same folder twice changes nothing.
    ///
    /// The stored manifest names its files relative to itself, so that its digest follows from the folder's content alone: the same model has
    /// the same digest in every store.
    /// - Returns: the manifest's artifact, and its content with absolute URLs.
    public static func publish(_ directory: String, to store: ArtifactStore) async throws -> (artifact: Artifact, manifest: FolderManifest)
    {
        var files: [FolderManifest.File] = []
        for name in try FileManager.default.subpathsOfDirectory(atPath: directory).sorted() {
            var isFolder: ObjCBool = false
            let path = directory + "/" + name
            guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder), !isFolder.boolValue else { continue }
            let stored = try await store.put(file: path)
            files.append(.init(name: name, url: stored.url, sha256: stored.sha256, bytes: stored.bytes))
        }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        // All of it is stored by digest and so side by side: the last part of a URL is the way from the manifest.
        let relative = FolderManifest(
            files: files.map {
                .init(name: $0.name, url: String($0.url.split(separator: "/").last ?? ""), sha256: $0.sha256, bytes: $0.bytes)
            })
        return (try await store.put(Array(try encoder.encode(relative)), mediaType: mediaType), FolderManifest(files: files))
    }

    /// A file's URL; one without a scheme lies beside the manifest.
    private static func resolved(_ url: String, beside manifest: String) -> String {
        guard !url.contains("://"), let slash = manifest.lastIndex(of: "/") else { return url }
        return manifest[...slash] + url
    }

    /// The folder behind a manifest as a directory of the fetcher's cache, made once however many ask. It stays until what is answered is
    /// released.
    /// - Parameters:
    ///   - url: where the manifest is.
    ///   - sha256: its digest.
    public static func fetch(_ url: String, sha256: String, with fetcher: ArtifactFetcher) async throws -> CachedFolder {
        guard SHA256.isHexDigest(sha256) else {
            throw ArtifactError.invalid(url: ArtifactURL.shown(url), reason: "its sha256 is not 64 lower-case hexadecimal digits")
        }
        let cache = fetcher.cache
        let directory = cache.path(sha256, .folder)
        var pause = 0.01
        while true {
            let held = try await TransferThreads.shared.run { _ -> CachedFolder? in
                try cache.prepare()
                guard let lock = try cache.lock(sha256, .folder, exclusive: false), access(directory, F_OK) == 0 else { return nil }
                _ = cache.markUsed(directory)
                return CachedFolder(path: directory, lock: lock)
            }
            if let held { return held }
            if let lock = try await TransferThreads.shared.run({ _ in try cache.lock(sha256, .folder, exclusive: true) }) {
                // It may have come meanwhile.
                if access(directory, F_OK) != 0 { try await make(directory, url, sha256: sha256, with: fetcher) }
                withExtendedLifetime(lock) {}
            } else {
                // Somebody makes it, and may fail.
                try await Task.sleep(for: .seconds(pause * Double.random(in: 0.5...1)))
                pause = min(0.25, pause * 1.5)
            }
        }
    }

    /// Call it under the folder's lock.
    private static func make(_ directory: String, _ url: String, sha256: String, with fetcher: ArtifactFetcher) async throws {
        let cache = fetcher.cache
        let manifest = try FolderManifest(json: Data(contentsOf: URL(filePath: try await fetcher.fetch(url, sha256: sha256))))
        let building = "\(cache.folders)/.\(sha256)-\(UInt64.random(in: 0...UInt64.max))"
        defer { try? FileManager.default.removeItem(atPath: building) }
        try FileManager.default.createDirectory(atPath: building, withIntermediateDirectories: true)
        for file in manifest.files {
            let source = try await fetcher.fetch(resolved(file.url, beside: url), sha256: file.sha256)
            let target = building + "/" + file.name
            try await TransferThreads.shared.run { _ in
                try FileManager.default.createDirectory(
                    atPath: (target as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
                // A copy, not a link: what lies in the cache may be deleted or, being a link's twin, be changed.
                try FileManager.default.copyItem(atPath: source, toPath: target)
                // Nobody looks at these bytes again: they have to be on the disk before their folder has its name.
                try sync(target)
            }
        }
        try await TransferThreads.shared.run { _ in
            _ = cache.markUsed(building)
            guard rename(building, directory) == 0 else { throw ArtifactError.storage(path: directory, reason: systemReason()) }
        }
        cache.pruneIfGrown(by: manifest.files.reduce(0) { $0 + $1.bytes })
    }

    private static func sync(_ path: String) throws {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw ArtifactError.storage(path: path, reason: systemReason()) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw ArtifactError.storage(path: path, reason: systemReason()) }
    }
}

/// A folder in the cache. No pruning deletes it until it is released, or nobody holds this object any more.
///
/// ```swift
/// let folder = try await ModelFolder.fetch(url, sha256: digest, with: fetcher)
/// defer { folder.release() }
/// let model = try WanTransformer3DModel.load(directory: folder.path)
/// ```
public final class CachedFolder: Sendable {
    /// Where it is; read what is in it, don't change it.
    public let path: String
    private let lock: Mutex<CacheLock?>

    init(path: String, lock: CacheLock) {
        self.path = path
        self.lock = Mutex(lock)
    }

    /// It is not needed any more.
    public func release() { lock.withLock { $0 = nil } }
}
