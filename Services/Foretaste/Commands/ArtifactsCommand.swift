import ArgumentParser
import ArtifactServer
import Foundation

/// `foretaste artifacts …`
struct ArtifactsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "artifacts", abstract: "A small artifact server, for demos and tests.", subcommands: [Serve.self])

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
