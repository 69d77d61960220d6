import Testing

@testable import Postgres
import PostgresTesting

@Suite struct PoolTests {
    @Test func anExhaustedPoolServesInTheOrderOfAsking() async throws {
        try await TestDatabase.with { database in
            let client = PostgresClient(configuration: database.client.configuration, maximumConnections: 2)
            let total = try await withThrowingTaskGroup(of: Int.self) { group in
                for number in 0..<200 {
                    group.addTask { try await client.query("SELECT $1::int AS n", [.int(number)])[0]["n"].int }
                }
                return try await group.reduce(0, +)
            }
            #expect(total == 19_900)
            let sessions = try await database.client.query(
                "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'foretaste'")
            #expect(try sessions[0]["n"].int <= 2)
            await client.close()
        }
    }

    @Test func aTaskThatIsCancelledWhileItWaitsLeavesTheLine() async throws {
        try await TestDatabase.with { database in
            let client = PostgresClient(configuration: database.client.configuration, maximumConnections: 1)
            try await client.withConnection { _ in
                let waiting = Task { try await client.query("SELECT 1") }
                try await Task.sleep(for: .milliseconds(50))
                waiting.cancel()
                await #expect(throws: CancellationError.self) { try await waiting.value }
            }
            #expect(try await client.query("SELECT 2 AS n")[0]["n"].int == 2)
            await client.close()
        }
    }

    @Test func waitingHasAnEnd() async throws {
        try await TestDatabase.with { database in
            var configuration = database.client.configuration
            configuration.acquireTimeout = 0.1
            let client = PostgresClient(configuration: configuration, maximumConnections: 1)
            try await client.withConnection { _ in
                let error = await #expect(throws: PostgresError.self) { try await client.query("SELECT 1") }
                #expect(error?.sqlState == "53300")
            }
            await client.close()
        }
    }

    @Test func whoWaitsTooLongForAnAnswerIsToldThatNoneWillCome() async throws {
        try await TestDatabase.with { database in
            let client = PostgresClient(configuration: database.client.configuration, maximumConnections: 2)
            let slow = Task { try await client.query("SELECT pg_sleep(60)") }
            try await Task.sleep(for: .seconds(3))
            let quick = Task { try await client.query("SELECT pg_sleep(1)") }
            try await Task.sleep(for: .milliseconds(100))
            await client.hangUp(owingFor: 2)
            let error = await #expect(throws: PostgresError.self) { try await slow.value }
            #expect(error?.isConnectionFailure == true, "\(String(describing: error))")
            #expect(try await quick.value.count == 1, "its answer was not due yet")
            #expect(try await client.query("SELECT 1 AS n")[0]["n"].int == 1)
            await client.close()
        }
    }

    @Test func aConnectionWhoseBackendWasEndedWhileIdleIsReplacedUnseen() async throws {
        try await TestDatabase.with { database in
            let client = PostgresClient(configuration: database.client.configuration, maximumConnections: 1)
            let first = try await client.query("SELECT pg_backend_pid() AS pid")[0]["pid"].int
            try await database.client.query("SELECT pg_terminate_backend($1, 5000)", [.int(first)])
            let second = try await client.query("SELECT pg_backend_pid() AS pid")[0]["pid"].int
            #expect(first != second)
            await client.close()
        }
    }

    @Test func aBackendEndedInTheMiddleOfAQueryIsAConnectionFailure() async throws {
        try await TestDatabase.with { database in
            let client = PostgresClient(configuration: database.client.configuration, maximumConnections: 1)
            let process = try await client.query("SELECT pg_backend_pid() AS pid")[0]["pid"].int
            async let sleeping = client.query("SELECT pg_sleep(30)")
            try await Task.sleep(for: .milliseconds(50))
            try await database.client.query("SELECT pg_terminate_backend($1)", [.int(process)])
            do {
                _ = try await sleeping
                Issue.record("the query ended well")
            } catch let error as PostgresError {
                #expect(error.isConnectionFailure && error.isRetryable)
                #expect(error.sqlState == "57P01")
            }
            #expect(try await client.query("SELECT 1 AS n")[0]["n"].int == 1)
            await client.close()
        }
    }

    @Test func aConnectionLeftInATransactionIsNotLentAgain() async throws {
        try await TestDatabase.with { database in
            let client = PostgresClient(configuration: database.client.configuration, maximumConnections: 1)
            try await client.execute("CREATE TABLE t (n int)")
            try await client.withConnection { connection in
                try await connection.query("BEGIN")
                try await connection.query("INSERT INTO t VALUES (1)")
            }
            #expect(try await client.query("SELECT n FROM t").isEmpty)
            await client.close()
        }
    }

    @Test func aClosedClientRefuses() async throws {
        try await TestDatabase.with { database in
            let client = PostgresClient(configuration: database.client.configuration, maximumConnections: 1)
            try await client.query("SELECT 1")
            await client.close()
            let error = await #expect(throws: PostgresError.self) { try await client.query("SELECT 1") }
            #expect(error?.sqlState == "08003")
        }
    }
}
