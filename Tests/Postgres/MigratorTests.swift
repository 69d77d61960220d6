import Migrations
import Testing

@testable import Postgres
import PostgresTesting

@Suite struct MigratorTests {
    static let first = """
        -- people's notes may stand here
        -- migrate:up
        CREATE TABLE fruit (name text PRIMARY KEY);
        CREATE FUNCTION ripe() RETURNS int LANGUAGE plpgsql AS $body$ BEGIN PERFORM 1; RETURN 1; END $body$;

        -- migrate:down
        DROP FUNCTION ripe();
        DROP TABLE fruit;
        """
    static let second = """
        -- migrate:up transaction:false
        CREATE INDEX CONCURRENTLY fruit_name ON fruit (name); -- a comment; with a semicolon
        INSERT INTO fruit VALUES ('ap;ple'), ($$p;ear$$);
        -- migrate:down
        DROP INDEX fruit_name;
        """

    static func migrations() throws -> [Migration] {
        [
            try Migration(fileName: "20260102000000_second.sql", sql: second),
            try Migration(fileName: "20260101000000_first.sql", sql: first),
        ]
    }

    @Test func migrationsRunOnceInOrderAndBack() async throws {
        try await TestDatabase.with { database in
            let migrator = try Migrator(Self.migrations())
            #expect(try await migrator.pending(database.client).count == 2)
            #expect(try await migrator.migrate(database.client).map(\.name) == ["first", "second"])
            #expect(try await migrator.migrate(database.client).isEmpty)
            #expect(
                try await database.client.query("SELECT name FROM fruit ORDER BY 1").map { try $0["name"].string } == ["ap;ple", "p;ear"])
            let versions = try await database.client.query("SELECT version FROM public.schema_migrations ORDER BY 1")
            #expect(try versions.map { try $0["version"].string } == ["20260101000000", "20260102000000"])
            #expect(try await migrator.rollBack(database.client)?.name == "second")
            #expect(try await migrator.rollBack(database.client)?.name == "first")
            #expect(try await migrator.rollBack(database.client) == nil)
            #expect(try await migrator.migrate(database.client).count == 2)
        }
    }

    @Test(.timeLimit(.minutes(1))) func anyNumberMayMigrateAtOnce() async throws {
        try await TestDatabase.with { database in
            let migrator = try Migrator(Self.migrations())
            let applied = try await withThrowingTaskGroup(of: Int.self) { group in
                for _ in 0..<6 {
                    group.addTask {
                        let client = PostgresClient(configuration: database.client.configuration, maximumConnections: 1)
                        let count = try await migrator.migrate(client).count
                        await client.close()
                        return count
                    }
                }
                return try await group.reduce(0, +)
            }
            #expect(applied == 2)
        }
    }

    @Test func aDatabaseFromTheFutureIsRefused() async throws {
        try await TestDatabase.with { database in
            try await Migrator(Self.migrations()).migrate(database.client)
            try await database.client.query("INSERT INTO public.schema_migrations VALUES ('29990101000000')")
            let error = await #expect(throws: MigrationError.self) { try await Migrator(Self.migrations()).migrate(database.client) }
            #expect(error?.description.contains("29990101000000") == true)
        }
    }

    @Test func aMigrationThatFailsLeavesNothingAndNamesItself() async throws {
        try await TestDatabase.with { database in
            let broken = try Migration(
                fileName: "20260103000000_broken.sql", sql: "-- migrate:up\nCREATE TABLE half (n int);\nSELEKT 1;\n-- migrate:down\n")
            let migrator = try Migrator(Self.migrations() + [broken])
            let error = await #expect(throws: MigrationError.self) { try await migrator.migrate(database.client) }
            #expect(error?.description.contains("20260103000000_broken") == true)
            #expect(try await database.client.query("SELECT to_regclass('half') IS NULL AS gone")[0]["gone"].bool)
            #expect(try await migrator.pending(database.client).map(\.name) == ["broken"])
        }
    }

    @Test func malformedFilesAreRefused() {
        #expect(throws: MigrationError.self) { try Migration(fileName: "no_version.sql", sql: "-- migrate:up\n") }
        #expect(throws: MigrationError.self) { try Migration(fileName: "1_x.sql", sql: "SELECT 1;") }
        #expect(throws: MigrationError.self) { try Migration(fileName: "1_x.sql", sql: "-- migrate:down\n") }
        #expect(throws: MigrationError.self) {
            try Migrator([
                Migration(version: "1", name: "a", sql: "-- migrate:up"), Migration(version: "1", name: "b", sql: "-- migrate:up"),
            ])
        }
    }

    @Test func bundledMigrationsGoUpDownAndUpAgain() async throws {
        try await TestDatabase.with { database in
            let migrator = try Migrator(BundledMigrations.all())
            let count = try await migrator.migrate(database.client).count
            #expect(count == migrator.migrations.count && count > 0)
            while try await migrator.rollBack(database.client) != nil {}
            #expect(try await migrator.migrate(database.client).count == count)
        }
    }

    @Test func scriptsAreSplitOutsideQuotesAndComments() {
        #expect(sqlStatements("SELECT ';', \"a;b\"; -- no; \n /* ; */ SELECT $x$ ; $x$, $1 ;\n;; ").count == 2)
    }
}
