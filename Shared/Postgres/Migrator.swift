import Foundation

/// One migration in dbmate's format.
public struct Migration: Sendable, Hashable {
    /// What stands in `schema_migrations`: the file name's leading digits.
    public let version: String
    /// The rest of the file's name, for people.
    public let name: String
    /// The statements of the `-- migrate:up` block.
    public let up: String
    /// The statements of the `-- migrate:down` block; empty where there is none.
    public let down: String
    /// Whether `up` runs in a transaction, which is so unless the block says `transaction:false`.
    public let upInTransaction: Bool
    /// The same for `down`.
    public let downInTransaction: Bool

    /// Reads a migration's file, `YYYYMMDDHHMMSS_name.sql`.
    public init(fileName: String, sql: String) throws {
        let stem = fileName.hasSuffix(".sql") ? String(fileName.dropLast(4)) : fileName
        let version = stem.prefix { $0.isASCII && $0.isNumber }
        guard !version.isEmpty else { throw MigrationError("\(fileName): the name does not start with a version") }
        let rest = stem.dropFirst(version.count)
        try self.init(version: String(version), name: String(rest.hasPrefix("_") ? rest.dropFirst() : rest), sql: sql)
    }

    /// Reads a migration's text.
    public init(version: String, name: String, sql: String) throws {
        self.version = version
        self.name = name
        var blocks: [String: (options: Substring, text: String)] = [:]
        var current: String?
        for line in sql.split(separator: "\n", omittingEmptySubsequences: false) {
            if let match = line.wholeMatch(of: /--\s*migrate:(up|down)\b(.*)/) {
                let block = String(match.output.1)
                guard blocks[block] == nil else { throw MigrationError("\(version): two migrate:\(block) blocks") }
                blocks[block] = (match.output.2, "")
                current = block
            } else if let block = current {
                blocks[block]!.text += line + "\n"
            } else if !line.allSatisfy(\.isWhitespace), !line.hasPrefix("--") {
                throw MigrationError("\(version): a statement before the migrate:up block")
            }
        }
        guard let up = blocks["up"] else { throw MigrationError("\(version): no migrate:up block") }
        self.up = up.text
        upInTransaction = !up.options.contains("transaction:false")
        down = blocks["down"]?.text ?? ""
        downInTransaction = !(blocks["down"]?.options.contains("transaction:false") ?? false)
    }
}

/// A migration that cannot be read, or a database that cannot be migrated.
public struct MigrationError: Error, Sendable, CustomStringConvertible {
    /// What is wrong, for a person.
    public let description: String
    init(_ description: String) { self.description = description }
}

/// Brings a database to the newest schema. dbmate can do the same with the same files.
public struct Migrator: Sendable {
    /// The key of the advisory lock under which one process at a time migrates a database.
    static let lockKey: Int64 = 0x666f_7265_7461_7374

    /// All migrations, oldest first.
    public let migrations: [Migration]

    /// Migrations in any order; versions must differ.
    public init(_ migrations: [Migration]) throws {
        // Versions are compared as text, as dbmate does.
        self.migrations = migrations.sorted { $0.version < $1.version }
        for (first, second) in zip(self.migrations, self.migrations.dropFirst()) where first.version == second.version {
            throw MigrationError("two migrations have version \(first.version)")
        }
    }

    /// Applies what is missing and returns it. Any number of processes may do so at once.
    ///
    /// Refuses a database that has a version which is not among ours: a newer program has been here.
    @discardableResult
    public func migrate(_ client: PostgresClient) async throws -> [Migration] {
        try await locked(client) { connection in
            let applied = try await appliedVersions(connection)
            var done: [Migration] = []
            for migration in migrations where !applied.contains(migration.version) {
                try await apply(
                    migration, migration.up, inTransaction: migration.upInTransaction,
                    "INSERT INTO public.schema_migrations (version) VALUES ($1)", connection)
                done.append(migration)
            }
            return done
        }
    }

    /// Takes the newest applied migration back and returns it; nil when none is applied.
    @discardableResult
    public func rollBack(_ client: PostgresClient) async throws -> Migration? {
        try await locked(client) { connection in
            let applied = try await appliedVersions(connection)
            guard let migration = migrations.last(where: { applied.contains($0.version) }) else { return nil }
            try await apply(
                migration, migration.down, inTransaction: migration.downInTransaction,
                "DELETE FROM public.schema_migrations WHERE version = $1", connection)
            return migration
        }
    }

    /// The migrations that the database does not have.
    public func pending(_ client: PostgresClient) async throws -> [Migration] {
        let exists = try await client.query("SELECT to_regclass('public.schema_migrations') IS NOT NULL AS exists")[0]["exists"].bool
        guard exists else { return migrations }
        let applied = Set(try await client.query("SELECT version FROM public.schema_migrations").map { try $0["version"].string })
        return migrations.filter { !applied.contains($0.version) }
    }

    private func locked<Result>(
        _ client: PostgresClient, isolation: isolated (any Actor)? = #isolation, _ body: (PostgresConnection) async throws -> Result
    ) async throws -> Result {
        try await client.withConnection { connection in
            // A session's lock, because a migration may run outside a transaction. Tried again and again instead of waited for:
            // a waiting statement holds a snapshot, on which CREATE INDEX CONCURRENTLY in the holder's migration would wait for ever.
            while try await !connection.query("SELECT pg_try_advisory_lock($1) AS got", [.int(Self.lockKey)])[0]["got"].bool {
                try await PostgresActor.sleep(seconds: 0.05)
            }
            do {
                let result = try await body(connection)
                try await unlock(connection)
                return result
            } catch {
                try? await unlock(connection)
                throw error
            }
        }
    }

    /// Done even by a task that was cancelled: the pool would keep the lock with the connection.
    private func unlock(_ connection: PostgresConnection) async throws {
        _ = try await connection.query("SELECT pg_advisory_unlock($1)", [.int(Self.lockKey)], cancellable: false)
    }

    private func appliedVersions(_ connection: PostgresConnection) async throws -> Set<String> {
        // Asked first, so that a role that may only read can learn that nothing is to be done.
        if try await !connection.query("SELECT to_regclass('public.schema_migrations') IS NOT NULL AS exists")[0]["exists"].bool {
            try await connection.query("CREATE TABLE public.schema_migrations (version varchar(128) PRIMARY KEY)")
        }
        let applied = Set(try await connection.query("SELECT version FROM public.schema_migrations").map { try $0["version"].string })
        let unknown = applied.subtracting(migrations.map(\.version)).sorted()
        guard unknown.isEmpty else {
            throw MigrationError(
                "the database has migrations that this program does not know (\(unknown.joined(separator: ", "))): it was migrated by "
                    + "a newer version; update this one")
        }
        return applied
    }

    private func apply(
        _ migration: Migration, _ script: String, inTransaction: Bool, _ note: String, _ connection: PostgresConnection
    ) async throws {
        do {
            if inTransaction {
                try await connection.transaction { connection in
                    try await connection.execute(script)
                    // A script may have changed the search path; the note names its schema.
                    try await connection.query(note, [.string(migration.version)])
                }
            } else {
                for statement in sqlStatements(script) { try await connection.query(statement) }
                try await connection.query(note, [.string(migration.version)])
            }
            // What a script set for its session (pg_dump's files do) is not for the next borrower.
            try await connection.query("RESET ALL")
        } catch let error as PostgresError {
            throw MigrationError("migration \(migration.version)_\(migration.name): \(error)")
        }
    }
}
