public import Foundation

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

    /// The folder behind a manifest as a local directory below `folders`, named by the manifest's digest; fetched once.
    /// - Parameters:
    ///   - url: where the manifest is.
    ///   - sha256: its digest.
    ///   - folders: where such directories are kept.
    public static func fetch(_ url: String, sha256: String, with fetcher: ArtifactFetcher, folders: String) async throws -> String {
        let directory = folders + "/" + sha256
        if FileManager.default.fileExists(atPath: directory) { return directory }
        let manifest = try FolderManifest(json: Data(contentsOf: URL(filePath: try await fetcher.fetch(url, sha256: sha256))))
        let building = folders + "/.\(sha256)-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: building) }
        for file in manifest.files {
            let source = try await fetcher.fetch(resolved(file.url, beside: url), sha256: file.sha256)
            let target = building + "/" + file.name
            try FileManager.default.createDirectory(
                atPath: (target as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
            // A copy, not a link: what lies in the cache may be deleted or, being a link's twin, be changed.
            try FileManager.default.copyItem(atPath: source, toPath: target)
        }
        do {
            try FileManager.default.moveItem(atPath: building, toPath: directory)
        } catch {
            // Another process may have been first; its directory has the same content.
            guard FileManager.default.fileExists(atPath: directory) else { throw error }
        }
        return directory
    }
}
