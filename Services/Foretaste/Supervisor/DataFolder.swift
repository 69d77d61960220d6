import Foundation
import Migrations
import Postgres
import ServiceKit

/// The folder that a system is known by: its private PostgreSQL, its artifacts, and the note that says what is running.
struct DataFolder: Sendable {
    /// The folder's absolute path.
    let path: String
    /// The caller's environment, with `FORETASTE_DATA` set to this folder.
    let environment: Environment

    /// `--data DIR` if given, else `FORETASTE_DATA`, else the user's data folder (`$XDG_DATA_HOME/foretaste`, `~/.local/share/foretaste`).
    init(option: String?, environment: Environment = .process) throws {
        let chosen = option.map { environment.merging(["FORETASTE_DATA": $0]) } ?? environment
        path = URL(filePath: try ServiceConfiguration.dataDirectory(chosen)).standardizedFileURL.path
        self.environment = environment.merging(["FORETASTE_DATA": path])
    }

    /// What `foretaste up` leaves here while it runs.
    var runningFile: String { path + "/running.json" }

    /// Held by `foretaste up` while it runs.
    var lockFile: String { path + "/up.lock" }

    /// Where services' logs go when nobody reads them on a terminal.
    var logs: String { path + "/logs" }

    /// Makes the folder, closed to other users.
    func make() throws {
        do {
            try FileManager.default.createDirectory(
                atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        } catch {
            throw CommandFailure(description: "cannot make the data folder \(path): \(error.localizedDescription)")
        }
    }

    /// The system that runs over this folder now; nil when none does.
    func running() -> RunningSystem? {
        // The note of a system that was killed is still there; its lock is not.
        guard FolderLock.isHeld(lockFile), let data = FileManager.default.contents(atPath: runningFile) else { return nil }
        return try? JSONDecoder().decode(RunningSystem.self, from: data)
    }

    /// The URL of this system's database where one can be reached without starting anything: `DATABASE_URL`, else a running system's, else
    /// a private server's that runs.
    func databaseURL() throws -> String? {
        try environment.secret("DATABASE_URL") ?? running()?.databaseURL ?? EmbeddedPostgres.runningURL(dataDirectory: path)
    }

    /// Lends the migrated database to `body`. Without a running one the private server is started for as long as `body` takes.
    func withDatabase<Result>(
        maximumConnections: Int = 2, _ body: (PostgresClient) async throws -> Result
    ) async throws -> Result {
        var server: EmbeddedPostgres?
        let url: String
        if let known = try databaseURL() {
            url = known
        } else {
            try make()
            let started = EmbeddedPostgres(dataDirectory: path)
            url = try await started.start()
            server = started
        }
        var configuration = PostgresConfiguration(url: url)
        // Many share a database login: the audit also says whose terminal it was.
        if !NSUserName().isEmpty, !url.contains("options=") { configuration.sessionSettings["foretaste.actor"] = NSUserName() }
        let client = PostgresClient(
            configuration: configuration, maximumConnections: maximumConnections, applicationName: "foretaste")
        do {
            try await BundledMigrations.migrate(client)
            let result = try await body(client)
            await client.close()
            await server?.stop()
            return result
        } catch {
            await client.close()
            await server?.stop()
            throw error
        }
    }
}
