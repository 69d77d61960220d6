import Testing

@testable import Postgres
import PostgresTesting

@Suite struct TransactionTests {
    struct Refusal: Error {}

    @Test func whatTheBodyThrowsRollsBackAndIsThrownOn() async throws {
        try await TestDatabase.with { database in
            try await database.client.execute("CREATE TABLE t (n int)")
            await #expect(throws: Refusal.self) {
                try await database.client.transaction { connection in
                    try await connection.query("INSERT INTO t VALUES (1)")
                    throw Refusal()
                }
            }
            try await database.client.transaction { try await $0.query("INSERT INTO t VALUES (2)") }
            #expect(try await database.client.query("SELECT n FROM t").map { try $0["n"].int } == [2])
        }
    }

    @Test func anErrorThatTheBodySwallowsIsNoCommit() async throws {
        try await TestDatabase.with { database in
            try await database.client.execute("CREATE TABLE t (n int)")
            let error = await #expect(throws: PostgresError.self) {
                try await database.client.transaction { connection in
                    try await connection.query("INSERT INTO t VALUES (1)")
                    _ = try? await connection.query("SELECT 1 / 0")
                }
            }
            #expect(error?.sqlState == "25P02")
            #expect(try await database.client.query("SELECT n FROM t").isEmpty)
        }
    }

    @Test func aCancelledTransactionIsRolledBackAtOnceAndItsConnectionLivesOn() async throws {
        try await TestDatabase.with { database in
            let client = PostgresClient(configuration: database.client.configuration, maximumConnections: 1)
            try await client.execute("CREATE TABLE t (n int)")
            let before = try await client.query("SELECT pg_backend_pid() AS pid")[0]["pid"].int
            let clock = ContinuousClock()
            let start = clock.now
            let task = Task {
                try await client.transaction { connection in
                    try await connection.query("INSERT INTO t VALUES (1)")
                    try await connection.query("SELECT pg_sleep(30)")
                }
            }
            try await Task.sleep(for: .milliseconds(100))
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
            #expect(clock.now - start < .seconds(5))
            #expect(try await client.query("SELECT n FROM t").isEmpty)
            #expect(try await client.query("SELECT pg_backend_pid() AS pid")[0]["pid"].int == before)
            await client.close()
        }
    }

    @Test func overlappingCallsOnOneConnectionAreServedInTurn() async throws {
        try await TestDatabase.with { database in
            try await database.client.withConnection { connection in
                try await withThrowingTaskGroup(of: (Int, Int).self) { group in
                    for number in 0..<50 {
                        group.addTask { (number, try await connection.query("SELECT $1::int AS n", [.int(number)])[0]["n"].int) }
                    }
                    for try await (asked, answered) in group { #expect(asked == answered) }
                }
            }
        }
    }
}
