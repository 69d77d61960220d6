import Foundation
import Logging

@testable import Artifacts

/// Fetches in a process of its own, for tests that kill it.
///
/// - `ArtifactTestFetcher file CACHE URL SHA256` fetches an artifact, in segments of 200,000 bytes when it has a million or more.
/// - `ArtifactTestFetcher folder CACHE URL SHA256` fetches the folder whose manifest is at the URL, holds it for a moment, and reads it.
///
/// - `ArtifactTestFetcher store FOLDER FILE` stores a file in a folder, again and again under another name.
///
/// It prints the path. Whatever its URL begins with, to its last slash, is allowed.
@main
enum ArtifactTestFetcher {
    static func main() async throws {
        let arguments = Array(CommandLine.arguments.dropFirst())
        if arguments.first == "store", arguments.count == 3 {
            let store = try ArtifactStore(location: "file://" + arguments[1])
            for index in 0... { _ = try await store.put(file: arguments[2], name: "runs/\(index % 3)") }
        }
        guard arguments.count == 4, let slash = arguments[2].lastIndex(of: "/") else {
            FileHandle.standardError.write(Data("usage: ArtifactTestFetcher file|folder CACHE URL SHA256, or store FOLDER FILE\n".utf8))
            exit(2)
        }
        let (cache, url, sha256) = (arguments[1], arguments[2], arguments[3])
        var limits = TransferLimits()
        (limits.parallelThreshold, limits.segmentBytes) = (1_000_000, 200_000)
        let fetcher = ArtifactFetcher(
            policy: try ArtifactPolicy(allow: [String(url[...slash])]), cache: ArtifactCache(folder: cache), maximumBytes: 1 << 26,
            limits: limits, firstDelay: 0.05, logger: Logger(label: "fetcher"), onFetch: nil)
        switch arguments[0] {
        case "folder":
            let folder = try await ModelFolder.fetch(url, sha256: sha256, with: fetcher)
            defer { folder.release() }
            let names = try FileManager.default.subpathsOfDirectory(atPath: folder.path)
            print(folder.path, names.count)
        default: print(try await fetcher.fetch(url, sha256: sha256))
        }
    }
}
