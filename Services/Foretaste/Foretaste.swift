import ArgumentParser
import Foundation

/// The operator's command line.
@main
struct Foretaste: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "foretaste",
        abstract: "Learns what people prefer in generated images and video, inside the generator's latent space.",
        discussion: """
            New here? `foretaste demo` shows the whole loop in about five minutes, on its own. `foretaste up` runs every service on this machine; \
            the other commands find it by its data folder (--data, FORETASTE_DATA) or by DATABASE_URL.
            """,
        version: "0.1.0",
        subcommands: [
            UpCommand.self, DemoCommand.self, MigrateCommand.self, PretrainCommand.self, JobsCommand.self, ModelsCommand.self,
            ScheduleCommand.self, QueueCommand.self, WorkersCommand.self, DimensionsCommand.self, LabelsCommand.self, SnapshotsCommand.self,
            KeysCommand.self, BackboneCommand.self, ArtifactsCommand.self,
        ])

    /// One line on stderr and exit status 1 for whatever goes wrong; the argument parser's own errors keep their usage text.
    static func main() async {
        signal(SIGPIPE, SIG_IGN)
        do {
            var command = try parseAsRoot()
            if var asynchronous = command as? any AsyncParsableCommand {
                try await asynchronous.run()
            } else {
                try command.run()
            }
        } catch let error as CommandFailure {
            FileHandle.standardError.write(Data("foretaste: \(error.description)\n".utf8))
            Foundation.exit(1)
        } catch {
            let code = exitCode(for: error)
            if code == .success || code == .validationFailure || error is ExitCode || error is ValidationError || error is CleanExit {
                exit(withError: error)
            }
            FileHandle.standardError.write(Data("foretaste: \(error)\n".utf8))
            Foundation.exit(1)
        }
    }
}

/// What a command could not do, in words for the person at the terminal.
struct CommandFailure: Error, CustomStringConvertible {
    let description: String
}
