import ArgumentParser
import ArtifactServer
import Artifacts
import Foundation

/// `foretaste artifacts …`
struct ArtifactsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "artifacts", abstract: "The cache of fetched artifacts, and a small artifact server.",
        subcommands: [Cache.self, Serve.self])

    struct Cache: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Say how large the cache of fetched artifacts is, list it, and prune it.",
            discussion: """
                What was not used for longest goes first, and nothing that was used in the last ten minutes or is in use. Services may run \
                meanwhile. They prune by themselves as well, above FORETASTE_ARTIFACTS_CACHE_LIMIT.
                """)
        @OptionGroup var options: DataOptions
        @Flag(help: "A line for each artifact and folder, that which was not used for longest first: kind, sha256, bytes, last use, state.")
        var list = false
        @Flag(help: "Delete down to a tenth below the limit, when the cache is above it.") var prune = false
        @Option(help: "Another limit than FORETASTE_ARTIFACTS_CACHE_LIMIT, in bytes.") var limit: Int?

        func validate() throws {
            guard (limit ?? 0) >= 0 else { throw ValidationError("--limit is a number of bytes, 0 or more") }
            guard limit == nil || prune else { throw ValidationError("--limit goes with --prune") }
        }

        func run() async throws {
            let cache = try options.artifactCache()
            let usage = prune ? try cache.prune(to: limit) : cache.usage()
            if list {
                for entry in cache.entries() {
                    let used = entry.used.formatted(.iso8601)
                    print("\(entry.kind.rawValue)\t\(entry.sha256)\t\(entry.bytes)\t\(used)\t\(entry.isLocked ? "in use" : "idle")")
                }
            }
            print(
                """
                \(cache.folder): \(usage.files) artifacts, \(usage.bytes) bytes; \(usage.folders) model folders, \(usage.folderBytes) bytes; \
                \(usage.partBytes) bytes of unfinished transfers
                """)
            print("limit \(limit ?? cache.limit) bytes")
            if prune { print("deleted \(usage.removedFiles) artifacts and \(usage.removedFolders) folders, \(usage.removedBytes) bytes") }
        }
    }

    struct Serve: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Serve a folder over HTTP: GET with ranges, HEAD, PUT.",
            discussion: "No authentication: bind it to an address that only your own machines reach.")
        @Option(help: "The folder; made if missing.") var root: String
        @Option(help: "HOST:PORT, port 0 for any free one.") var listen = "127.0.0.1:0"

        func run() async throws {
            try await ArtifactServer.serve(root: URL(filePath: root).path(percentEncoded: false), listen: listen)
        }
    }
}
