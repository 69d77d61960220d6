import Testing

@testable import Postgres
import PostgresTesting

@Suite struct ListenTests {
    @Test(.timeLimit(.minutes(1))) func notificationsArriveAndALostBackendIsReplacedWithAMarker() async throws {
        try await TestDatabase.with { database in
            var heard = database.client.listen("plain", "odd \"name\"").makeAsyncIterator()
            #expect(await heard.next() == .reconnected)
            try await database.client.query("SELECT pg_notify($1, $2)", ["plain", "one"])
            #expect(await heard.next() == .message(channel: "plain", payload: "one"))
            try await database.client.query("SELECT pg_notify($1, $2)", ["odd \"name\"", ""])
            #expect(await heard.next() == .message(channel: "odd \"name\"", payload: ""))
            for round in 0..<10 {
                try await database.client.query(
                    """
                    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'test listen'
                    """)
                #expect(await heard.next() == .reconnected)
                try await database.client.query("SELECT pg_notify('plain', $1)", ["round \(round)"])
                #expect(await heard.next() == .message(channel: "plain", payload: "round \(round)"))
            }
        }
    }

    @Test(.timeLimit(.minutes(1))) func aSilentConnectionIsPingedAndStaysOpen() async throws {
        try await TestDatabase.with { database in
            var configuration = database.client.configuration
            configuration.pingInterval = 0.02
            let client = PostgresClient(configuration: configuration, maximumConnections: 1, applicationName: "pinged")
            var heard = client.listen("quiet").makeAsyncIterator()
            #expect(await heard.next() == .reconnected)
            try await Task.sleep(for: .milliseconds(200))
            // Notifications that come with a ping's answer are not lost either.
            for number in 0..<200 { try await database.client.query("SELECT pg_notify('quiet', $1)", [.string("\(number)")]) }
            for number in 0..<200 { #expect(await heard.next() == .message(channel: "quiet", payload: "\(number)")) }
            await client.close()
            #expect(await heard.next() == nil)
        }
    }

    @Test(.timeLimit(.minutes(1))) func aReaderThatStopsTakesItsConnectionAlong() async throws {
        try await TestDatabase.with { database in
            let reader = Task { [client = database.client] in
                for await _ in client.listen("anything") {}
            }
            func sessions() async throws -> Int {
                try await database.client.query(
                    """
                    SELECT count(*) AS n FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'test listen'
                    """)[0]["n"].int
            }
            while try await sessions() == 0 { try await Task.sleep(for: .milliseconds(5)) }
            reader.cancel()
            while try await sessions() > 0 { try await Task.sleep(for: .milliseconds(5)) }
        }
    }

    /// Both cooperative threads are busy, as numeric code on them would be; the database's timers and answers go on.
    @Test(.timeLimit(.minutes(1))) func busyCooperativeThreadsDoNotStopTheLoopsClock() async throws {
        try await TestDatabase.with { database in
            try await database.client.query("SELECT 1")
            let clock = ContinuousClock()
            let elapsed = try await Task { @PostgresActor in
                let connection = try await database.client.pool.acquire()
                for _ in 0..<16 {
                    Task.detached {
                        let end = clock.now + .milliseconds(200)
                        while clock.now < end {}
                    }
                }
                let start = clock.now
                try await PostgresActor.sleep(seconds: 0.05)
                try await connection.query("SELECT 1")
                let elapsed = clock.now - start
                database.client.pool.release(connection)
                return elapsed
            }.value
            #expect(elapsed < .milliseconds(700))
        }
    }
}
