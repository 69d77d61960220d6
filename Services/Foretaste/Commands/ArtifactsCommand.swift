import ArgumentParser

/// `foretaste artifacts …`
struct ArtifactsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "artifacts", abstract: "A small artifact server, for demos and tests.", subcommands: [Serve.self])
}
