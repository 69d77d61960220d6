import Foundation
public import Postgres

/// The migrations that ship with the program.
public enum BundledMigrations {
    /// All of them, oldest first. The files are found beside the executable, whatever the working directory.
    public static func all() throws -> [Migration] {
        let folder = Bundle.module.resourceURL ?? Bundle.module.bundleURL
        let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
            .filter { $0.pathExtension == "sql" }.sorted { $0.lastPathComponent < $1.lastPathComponent }
        return try files.map { try Migration(fileName: $0.lastPathComponent, sql: String(contentsOf: $0, encoding: .utf8)) }
    }

    /// Brings a database to this program's schema, and returns what had to be applied.
    @discardableResult
    public static func migrate(_ client: PostgresClient) async throws -> [Migration] {
        try await Migrator(all()).migrate(client)
    }
}
