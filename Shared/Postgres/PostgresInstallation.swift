import Foundation

/// The programs of a PostgreSQL server on this machine.
struct PostgresInstallation: Sendable {
    let binaries: String
    let majorVersion: Int

    /// The newest one, or the one that wrote the data of `majorVersion`.
    ///
    /// Debian keeps the server's programs out of everybody's path, one folder a version.
    static func find(majorVersion: Int?, searchPath: [String]) throws -> PostgresInstallation {
        var folders = searchPath
        for (parent, child) in [("/usr/lib/postgresql", "bin"), ("/usr", "bin"), ("/usr/local", "bin"), ("/usr/local/pgsql", "bin")] {
            folders.append("\(parent)/\(child)")
            let versions = (try? FileManager.default.contentsOfDirectory(atPath: parent)) ?? []
            folders += versions.filter { Int($0.replacing("pgsql-", with: "")) != nil }.map { "\(parent)/\($0)/\(child)" }
        }
        let found = folders.compactMap { folder -> PostgresInstallation? in
            guard ["initdb", "postgres"].allSatisfy({ FileManager.default.isExecutableFile(atPath: "\(folder)/\($0)") }) else { return nil }
            return version(of: folder).map { PostgresInstallation(binaries: folder, majorVersion: $0) }
        }
        guard let newest = found.max(by: { $0.majorVersion < $1.majorVersion }) else {
            throw EmbeddedPostgresError(
                "no PostgreSQL server found (initdb and postgres in /usr/lib/postgresql/*/bin or the path); "
                    + "on Debian: apt install postgresql; or set DATABASE_URL")
        }
        guard let majorVersion else { return newest }
        guard let match = found.first(where: { $0.majorVersion == majorVersion }) else {
            throw EmbeddedPostgresError("the data was written by PostgreSQL \(majorVersion), and \(newest.majorVersion) is installed")
        }
        return match
    }

    /// The major version that `postgres --version` states.
    private static func version(of folder: String) -> Int? {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: folder + "/postgres")
        process.arguments = ["--version"]
        let output = Pipe()
        process.standardOutput = output
        guard (try? process.run()) != nil else { return nil }
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return text.firstMatch(of: /\(PostgreSQL\) (\d+)/).flatMap { Int($0.output.1) }
    }
}
