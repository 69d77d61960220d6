import ArgumentParser
import Foundation
import Logging
import ServiceKit

/// `foretaste up`.
struct UpCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "up", abstract: "Run every service on this machine until Ctrl-C or SIGTERM.",
        discussion: """
            With DATABASE_URL that database is used, without it a private PostgreSQL in the data folder. A service that dies is started again \
            at the same address. Other commands find this system by its data folder.
            """)
    @OptionGroup var data: DataOptions
    @Option(help: "A file that appears, whole and at once, when everything answers: addresses, database, key and process ids as JSON.")
    var readyFile: String?

    func run() async throws {
        let folder = try data.folder()
        let logger = Logs.bootstrap(try ServiceConfiguration.fromEnvironment(service: "up", folder.environment))
        var options = try SupervisorOptions(folder: folder)
        options.readyFile = readyFile.map { URL(filePath: $0).path(percentEncoded: false) }
        try await Supervisor.runUntilSignal(options, logger: logger) { system in
            print(
                """
                Foretaste is up.
                  ingest    \(system.ingest)
                  scorer    \(system.scorer)
                  data      \(folder.path)
                  API key   "api_key" in \(folder.runningFile), for this run; foretaste keys create makes others
                Stop with Ctrl-C.
                """)
            fflush(nil)
        }
    }
}
