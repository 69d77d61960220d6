import Testing

@testable import Postgres
import PostgresTesting

@Suite struct PreparedTests {
    @Test func aStatementIsParsedOnceForEachConnection() async throws {
        try await TestDatabase.with { database in
            try await database.client.withConnection { connection in
                for number in 1...3 {
                    #expect(try await connection.query(prepared: "SELECT $1::int + 1 AS n", [.int(number)])[0]["n"].int == number + 1)
                }
                #expect(try await connection.query(prepared: "SELECT 1 AS n")[0]["n"].int == 1)
                let kept = try await connection.query("SELECT count(*) AS n FROM pg_prepared_statements")[0]["n"].int
                #expect(kept == 2)
            }
        }
    }

    @Test func aStatementThatTheServerForgotIsParsedAgain() async throws {
        try await TestDatabase.with { database in
            try await database.client.withConnection { connection in
                #expect(try await connection.query(prepared: "SELECT 7 AS n")[0]["n"].int == 7)
                try await connection.query("DISCARD ALL")
                #expect(try await connection.query(prepared: "SELECT 7 AS n")[0]["n"].int == 7)
                // In a transaction that has failed nothing can be tried again; the next one is as good as ever.
                try await connection.query("DISCARD ALL")
                let error = await #expect(throws: PostgresError.self) {
                    try await connection.transaction { try await $0.query(prepared: "SELECT 7 AS n") }
                }
                #expect(error?.sqlState == "26000")
                let rows = try await connection.transaction { try await $0.query(prepared: "SELECT 7 AS n") }
                #expect(try rows[0]["n"].int == 7)
            }
        }
    }

    @Test func aTableThatChangesBeneathAStatementIsNoTrouble() async throws {
        try await TestDatabase.with { database in
            try await database.client.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
            try await database.client.withConnection { connection in
                #expect(try await connection.query(prepared: "SELECT * FROM t")[0].columns == ["a"])
                try await connection.execute("ALTER TABLE t ADD b int")
                #expect(try await connection.query(prepared: "SELECT * FROM t")[0].columns == ["a", "b"])
            }
        }
    }

    @Test func aMistakeIsReportedEachTimeAndHarmsNothing() async throws {
        try await TestDatabase.with { database in
            try await database.client.withConnection { connection in
                for _ in 1...2 {
                    let error = await #expect(throws: PostgresError.self) { try await connection.query(prepared: "SELECT nothing") }
                    #expect(error?.sqlState == "42703")
                }
                let rows = try await connection.query(prepared: "SELECT 1 AS n")
                #expect(try rows[0]["n"].int == 1)
            }
        }
    }

    @Test func integersAndLinesOfAllKindsAreRead() async throws {
        try await TestDatabase.with { database in
            let numbers: [Int64] = [.min, .max, 0, -1, 9, 10, 99, 100, 999_999_999_999_999_999, -1_000_000_000_000_000_000]
            let row = try await database.client.query(
                "SELECT $1::bigint[] AS numbers, $2::bigint[] AS none, '{1,NULL}'::int[] AS holes, E'a\n\nb,ü' AS lines, '' AS empty, NULL::text AS null",
                [.array(numbers), .array([Int64]())])[0]
            #expect(try row["numbers"].intArray == numbers)
            #expect(try row["none"].intArray == [])
            #expect(throws: PostgresDecodingError.self) { try row["holes"].intArray }
            #expect(try row["lines"].lines.map(\.string) == ["a", "", "b,ü"])
            #expect(try row["empty"].lines.map(\.string) == [""])
            #expect(try row["null"].lines.isEmpty)
        }
    }
}
