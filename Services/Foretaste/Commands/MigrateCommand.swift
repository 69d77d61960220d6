import ArgumentParser
import Migrations

/// `foretaste migrate`.
struct MigrateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "migrate", abstract: "Bring the database up to date; safe to run from any number of machines at once.",
        discussion: "The files are dbmate's format and its table schema_migrations is used, so that either program may run them.")
    @OptionGroup var data: DataOptions

    func run() async throws {
        // Lending the database migrates it; a second look says that nothing is left.
        try await data.withDatabase { client in
            let applied = try await BundledMigrations.migrate(client)
            precondition(applied.isEmpty)
            print("up to date: \(try BundledMigrations.all().count) migrations")
        }
    }
}
