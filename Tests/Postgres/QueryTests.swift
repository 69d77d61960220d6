import Foundation
import Testing

@testable import Postgres
import PostgresTesting

@Suite struct QueryTests {
    @Test func valuesOfEveryKindComeBackAsTheyWent() async throws {
        try await TestDatabase.with { database in
            let moment = Date(timeIntervalSince1970: 1_763_708_400.123456)
            let row = try await database.client.query(
                """
                SELECT $1::text AS text, $2::bigint AS big, $3::float8 AS real, $4::bool AS flag, $5::bytea AS bytes, $6::jsonb AS json,
                    $7::timestamptz AS moment, $8::text AS nothing, $9::bigint[] AS numbers, $10::text[] AS texts
                """,
                [
                    "snö \\ 'quoted' \"double\"\n\t", .int(Int64.min), 0.1, true, .bytes([0, 1, 0x5c, 255]), .json(#"{"a":[1,2]}"#),
                    .date(moment), nil, .array([1, -2, 3] as [Int64]), .array(["a,b", "c\"d\\", "{}", "", "NULL"]),
                ])[0]
            #expect(try row["text"].string == "snö \\ 'quoted' \"double\"\n\t")
            #expect(try row["big"].int64 == .min)
            #expect(try row["real"].double == 0.1)
            #expect(try row["flag"].bool)
            #expect(try row["bytes"].bytes == [0, 1, 0x5c, 255])
            #expect(try row["json"].decode([String: [Int]].self) == ["a": [1, 2]])
            #expect(abs(try row["moment"].date.timeIntervalSince(moment)) < 2e-6)
            #expect(try row["nothing"].optionalString == nil)
            #expect(try row["numbers"].intArray == [1, -2, 3])
            #expect(try row["texts"].stringArray == ["a,b", "c\"d\\", "{}", "", "NULL"])
        }
    }

    @Test func specialNumbersAndTimesAreRead() async throws {
        try await TestDatabase.with { database in
            let row = try await database.client.query(
                """
                SELECT $1::float8 AS nan, $2::float8 AS infinity, date '1969-07-20' AS day,
                    timestamp '2000-02-29 23:59:59.5' AS plain, timestamptz '1900-01-01 00:00:00+05:30' AS old
                """, [.double(.nan), .double(-.infinity)])[0]
            #expect(try row["nan"].double.isNaN)
            #expect(try row["infinity"].double == -.infinity)
            #expect(try row["day"].date == Date(timeIntervalSince1970: -14_256_000))
            #expect(try row["plain"].date == Date(timeIntervalSince1970: 951_868_799.5))
            #expect(try row["old"].date == Date(timeIntervalSince1970: -2_208_988_800 - 19800))
        }
    }

    @Test func aWrongReadSaysWhatWasExpectedAndFound() async throws {
        try await TestDatabase.with { database in
            let row = try await database.client.query("SELECT 'abc' AS word, NULL::int AS nothing")[0]
            #expect(performing: { _ = try row["word"].int }, throws: { "\($0)" == "column word: expected an integer, found abc" })
            #expect(performing: { _ = try row["nothing"].int }, throws: { "\($0)" == "column nothing: expected an integer, found NULL" })
            #expect(performing: { _ = try row["wrod"].int }, throws: { "\($0)".contains("not in the answer, which has word, nothing") })
            #expect(try row["nothing"].optionalInt == nil)
        }
    }

    @Test func errorsCarryStateDetailAndConstraint() async throws {
        try await TestDatabase.with { database in
            try await database.client.execute(
                "CREATE TABLE pair (id int CONSTRAINT pair_key UNIQUE, n int CONSTRAINT positive CHECK (n > 0)); INSERT INTO pair VALUES (1, 1)"
            )
            let unique = await #expect(throws: PostgresError.self) {
                try await database.client.query("INSERT INTO pair VALUES ($1, 1)", [1])
            }
            #expect(unique?.sqlState == "23505")
            #expect(unique?.isUniqueViolation == true)
            #expect(unique?.constraint == "pair_key")
            #expect(unique?.table == "pair")
            #expect(unique?.detail == "Key (id)=(1) already exists.")
            let check = await #expect(throws: PostgresError.self) { try await database.client.query("INSERT INTO pair VALUES (2, 0)") }
            #expect(check?.constraint == "positive")
            let syntax = await #expect(throws: PostgresError.self) { try await database.client.query("SELEKT 1") }
            #expect(syntax?.sqlState == "42601")
            // The connection is as good as before.
            #expect(try await database.client.query("SELECT count(*) AS n FROM pair")[0]["n"].int == 1)
        }
    }

    @Test func answersTellHowManyRowsWereTouched() async throws {
        try await TestDatabase.with { database in
            try await database.client.execute("CREATE TABLE t (n int)")
            #expect(try await database.client.run("INSERT INTO t SELECT generate_series(1, 7)").rowCount == 7)
            let update = try await database.client.run("UPDATE t SET n = n + 1 WHERE n > $1", [4])
            #expect(update.rowCount == 3)
            #expect(update.command == "UPDATE")
        }
    }

    @Test func tenThousandRowsGoInByCopyWithEveryAwkwardCharacter() async throws {
        try await TestDatabase.with { database in
            try await database.client.execute("CREATE TABLE bulk (id bigint PRIMARY KEY, text text, bytes bytea)")
            let count = try await database.client.copyIn(
                "bulk", columns: ["id", "text", "bytes"],
                rows: (0..<10_000).lazy.map { index -> [PostgresValue] in
                    [.int(index), index % 3 == 0 ? nil : "row\t\(index)\\\n\r", .bytes([UInt8(index & 255), 0])]
                })
            #expect(count == 10_000)
            let row = try await database.client.query(
                "SELECT count(*) AS n, count(text) AS texts, sum(id) AS total FROM bulk")[0]
            #expect(try row["n"].int == 10_000)
            #expect(try row["texts"].int == 6666)
            #expect(try row["total"].int == 49_995_000)
            let last = try await database.client.query("SELECT text, bytes FROM bulk WHERE id = 9998")[0]
            #expect(try last["text"].string == "row\t9998\\\n\r")
            #expect(try last["bytes"].bytes == [14, 0])
            // A bad row leaves nothing, and the connection usable.
            let failure = await #expect(throws: PostgresError.self) {
                try await database.client.copyIn("bulk", columns: ["id"], rows: [[.int(20_000)], ["not a number"]])
            }
            #expect(failure?.sqlState == "22P02")
            #expect(try await database.client.query("SELECT 1 FROM bulk WHERE id = 20000").isEmpty)
        }
    }

    @Test func passwordsStayOutOfEveryText() async throws {
        let configuration = PostgresConfiguration(url: "postgresql://me:s3cr%65t@[bad:5432/x?password=s3cr%65t")
        #expect(!configuration.description.contains("s3cr"))
        let client = PostgresClient(configuration: configuration)
        let error = await #expect(throws: PostgresError.self) { try await client.query("SELECT 1") }
        #expect(error.map { !"\($0)".contains("s3cr") } == true)
        #expect(
            PostgresConfiguration(url: "host=/nowhere user=me password='hush hush'").description == "host=/nowhere user=me password=***")
        let unreachable = PostgresClient(configuration: PostgresConfiguration(url: "postgresql://me:hush@127.0.0.1:1/x"))
        let refused = await #expect(throws: PostgresError.self) { try await unreachable.query("SELECT 1") }
        #expect(refused?.isConnectionFailure == true)
        #expect(refused?.message.contains("127.0.0.1") == true)
    }
}
