import Foundation
@testable import JobQueue
import Postgres
import PostgresTesting
import Testing

extension JobQueueDatabaseTests {
    /// The fused turn: what it finishes, what it claims, and what it costs.
    @Suite(.serialized) struct Turns {
        private func register(_ client: PostgresClient) async throws -> Int64 {
            try #require(try await client.query("select queue.register_worker('test', 'here', 1, '1 hour') as id").first)["id"].int64
        }

        private func turn(
            _ client: PostgresClient, _ worker: Int64, claiming: Int, finishing: [JobRun.Key] = [], low: [Int64] = [0, 0, 0, 0],
            firstBand: Int = 0
        ) async throws -> Turn.Answer {
            let turn = Turn(
                worker: worker, claiming: claiming,
                acknowledgements: finishing.map { JobRun(of: $0) },
                from: (low, firstBand, nil))
            return try await client.withConnection { try await turn.run(for: JobHandler(kind: "quick") { _ in JobResult() }, on: $0) }
        }

        private func keys(_ jobs: [ClaimedJob]) -> [JobRun.Key] { jobs.map { JobRun.Key(id: $0.id, token: $0.token) } }

        private func many(_ queue: JobQueue, _ count: Int) async throws {
            try await queue.enqueueMany(kind: "quick", jobs: (0..<count).map { (json: #"{"n":\#($0)}"#, dedupeKey: nil) })
        }

        @Test func aTurnFinishesOneBatchAndClaimsTheNextAndNamesWhatIsFenced() async throws {
            try await withQueue { queue, database in
                try await many(queue, 7)
                let worker = try await register(database.client)
                let first = try await turn(database.client, worker, claiming: 3)
                #expect(first.jobs.map(\.arguments.string) == [#"{"n": 0}"#, #"{"n": 1}"#, #"{"n": 2}"#])
                var finishing = keys(first.jobs)
                let stale = JobRun.Key(id: finishing[1].id, token: finishing[1].token - 1)
                finishing[1] = stale
                let second = try await turn(database.client, worker, claiming: 2, finishing: finishing)
                #expect(second.fenced == [stale])
                #expect(second.jobs.map(\.arguments.string) == [#"{"n": 3}"#, #"{"n": 4}"#])
                #expect(try await database.client.integer("select count(*) from queue.done") == 2)
                // The answer was lost and the same is handed in again: what was finished then is not fenced now.
                let again = try await turn(database.client, worker, claiming: 0, finishing: finishing)
                #expect(again.fenced == [stale])
                #expect(again.jobs.isEmpty)
                #expect(try await database.client.integer("select count(*) from queue.done") == 2)
            }
        }

        @Test func anExpiredWorkerAndAPausedQueueFinishButClaimNothing() async throws {
            try await withQueue { queue, database in
                try await many(queue, 6)
                let worker = try await register(database.client)
                let held = keys(try await turn(database.client, worker, claiming: 2).jobs)
                try await queue.pause("quick")
                let paused = try await turn(database.client, worker, claiming: 2, finishing: [held[0]])
                #expect(paused.jobs.isEmpty && paused.fenced.isEmpty)
                try await queue.resume("quick")
                try await database.client.query("update queue.worker set expires_at = clock_timestamp() - interval '1 second'")
                let expired = try await turn(database.client, worker, claiming: 2, finishing: [held[1]])
                #expect(expired.jobs.isEmpty && expired.fenced.isEmpty)
                #expect(try await database.client.integer("select count(*) from queue.done") == 2)
                #expect(try await database.client.integer("select count(*) from queue.job where state = 1") == 0)
            }
        }

        @Test func whoeverEndsAWorkerWaitsForItsTurn() async throws {
            try await withQueue { queue, database in
                try await many(queue, 1)
                let worker = try await register(database.client)
                try await database.client.transaction { connection in
                    #expect(try await connection.query("select id from queue.claim($1, 'quick', 'quick', 1)", [.int(worker)]).count == 1)
                    // The sweep sees neither the claim nor an idle worker: it leaves this one for the next time.
                    try await database.client.query("update queue.worker set absent_since = clock_timestamp() - interval '1 minute'")
                    #expect(try await database.client.integer("select queue.rescue()") == 0)
                }
                #expect(try await database.client.integer("select queue.rescue()") == 1)
                #expect(try await database.client.integer("select count(*) from queue.worker where swept") == 1)
            }
        }

        @Test func lowBandsProgressThoughHighOnesAreNeverEmpty() async throws {
            let firsts = (1...15).map(LinePosition.firstBand)
            #expect((0..<4).map { band in firsts.count { $0 == band } } == [8, 4, 2, 1])
            try await withQueue { queue, database in
                for band in 0..<4 { for _ in 0..<10 { try await queue.enqueue(kind: "quick", json: "\(band)", band: band) } }
                let worker = try await register(database.client)
                var line = LinePosition(now: .now)
                var bands: [Int] = []
                for _ in 0..<15 {
                    let place = line.next(at: .now)
                    let answer = try await turn(database.client, worker, claiming: 1, low: place.low, firstBand: place.firstBand)
                    bands += answer.jobs.compactMap { Int($0.arguments.string) }
                }
                #expect((0..<4).map { band in bands.count { $0 == band } } == [8, 4, 2, 1])
                // The first band is no reason to leave capacity idle.
                #expect(try await turn(database.client, worker, claiming: 100, firstBand: 3).jobs.count == 25)
            }
        }

        @Test func aLineIsReadFromItsBeginningOnceASecondWhereThatIsCheap() {
            let start = ContinuousClock.now
            var line = LinePosition(now: start)
            #expect(line.next(at: start).look == 0)
            line.turnEnded(after: .milliseconds(2), look: 0)
            line.passed([0, 70, 0, 0])
            line.passed([0, 60, 0, 0])
            let next = line.next(at: start + .milliseconds(500))
            #expect(next.look == nil && next.low == [0, 70, 0, 0])
            line.turnEnded(after: .milliseconds(3), look: next.look)
            line.reset()
            let rung = line.next(at: start + .milliseconds(501))
            #expect(rung.look == 0 && rung.low == [0, 0, 0, 0])
            line.turnEnded(after: .milliseconds(3), look: 0)
            #expect(line.lookDue(at: start + .milliseconds(1500)) == nil)
            #expect(line.lookDue(at: start + .milliseconds(1501)) == 0)
            #expect(line.marksForAsking(at: start + .milliseconds(1501)) == [0, 0, 0, 0])
        }

        @Test func oneLookThatTookLongForAnotherReasonPutsTheNextOffByNoMoreThanSeconds() {
            let start = ContinuousClock.now
            var line = LinePosition(now: start)
            line.turnEnded(after: .milliseconds(2), look: line.next(at: start).look)
            line.passed([0, 70, 0, 0])
            let look = line.next(at: start + .seconds(1)).look
            #expect(look == 0)
            line.turnEnded(after: .seconds(7), look: look)
            line.reset()
            #expect(line.lookDue(at: start + .seconds(4)) == 0)
        }

        @Test func aLineThatIsDearToReadIsReadAsFarBackAsAHundredthOfTheTimeAllows() {
            let start = ContinuousClock.now
            var line = LinePosition(now: start)
            var looks = [0, 0, 0]
            // A hundred places a millisecond, whose dead rows all stay: a look back reads them at a microsecond each.
            for millisecond in stride(from: 0, to: 600_000, by: 10) {
                let now = start + .milliseconds(millisecond)
                let place = Int64(millisecond * 100)
                line.reset()
                let next = line.next(at: now)
                let walked = place - next.low[1]
                if let look = next.look {
                    looks[look] += 1
                    // Nobody who took his place within two seconds is passed over.
                    #expect(next.low[1] <= max(0, place - 200_000))
                }
                line.turnEnded(after: .milliseconds(5) + .microseconds(walked), look: next.look)
                line.passed([0, place, 0, 0])
            }
            // From the beginning: at growing intervals. Two seconds' worth are 0.2 to 0.3 s, so every 20 to 30 s.
            #expect(looks[0] < 15 && looks[1] < 8 && (15...45).contains(looks[2]), "\(looks)")
            #expect(line.marksForAsking(at: start + .seconds(601)).map { $0[1] > 59_000_000 } ?? false)
        }

        /// With a snapshot held elsewhere no dead row can go. A claim that begins behind them does not read them.
        @Test func deadRowsThatASnapshotKeepsAreNotReadAgain() async throws {
            try await withQueue { queue, database in
                let reader = PostgresClient(configuration: PostgresConfiguration(url: database.url), maximumConnections: 1)
                try await reader.withConnection { connection in
                    try await connection.query("begin isolation level repeatable read")
                    try await connection.query("select count(*) from queue.job")
                    try await many(queue, 3000)
                    let worker = try await register(database.client)
                    var answer = try await turn(database.client, worker, claiming: 500)
                    var low: Int64 = 0
                    while !answer.jobs.isEmpty {
                        low = max(low, answer.places[1])
                        answer = try await turn(database.client, worker, claiming: 500, finishing: keys(answer.jobs), low: [0, low, 0, 0])
                    }
                    try await many(queue, 5)
                    func read(from low: Int64) async throws -> Int {
                        try await database.client.transaction { connection in
                            let returned = "select pg_stat_get_xact_tuples_returned('queue.job_ready'::regclass) as n"
                            let before = try await connection.query(returned)[0]["n"].int
                            let jobs = try await connection.query(
                                "select id from queue.turn($1, 'quick', 'quick', 5, array[0, $2, 0, 0]::bigint[])",
                                [.int(worker), .int(low)])
                            #expect(jobs.count == 5)
                            let after = try await connection.query(returned)[0]["n"].int
                            try await connection.query("select queue.release(id, token) from queue.job")
                            return after - before
                        }
                    }
                    #expect(try await read(from: low) < 50)
                    #expect(try await read(from: 0) >= 3000)
                    try await connection.query("commit")
                }
                await reader.close()
            }
        }

        @Test func aClaimTouchesNoIndexAndCommitsWithoutWaitingForTheDisk() async throws {
            try await withQueue { queue, database in
                try await many(queue, 100)
                let worker = try await register(database.client)
                try await database.client.transaction { connection in
                    try await connection.query("set local synchronous_commit = on")
                    let claimed = try await connection.query("select id from queue.claim($1, 'quick', 'quick', 100)", [.int(worker)])
                    #expect(claimed.count == 100)
                    let row = try await connection.query(
                        """
                        select pg_stat_get_xact_tuples_updated('queue.job'::regclass) as updated,
                            pg_stat_get_xact_tuples_hot_updated('queue.job'::regclass) as hot, current_setting('synchronous_commit') as flush
                        """)[0]
                    #expect(try row["updated"].int == 100)
                    #expect(try row["hot"].int == 100)
                    #expect(try row["flush"].string == "off")
                }
                let held = try await database.client.query("select id, token from queue.job")
                let flush = try await database.client.transaction { connection in
                    try await connection.query("set local synchronous_commit = on")
                    try await connection.query(
                        "select * from queue.turn($1, 'quick', 'quick', 5, ids => array[$2::bigint], tokens => array[$3::bigint])",
                        [.int(worker), .int(try held[0]["id"].int64), .int(try held[0]["token"].int64)])
                    return try await connection.query("select current_setting('synchronous_commit') as flush")[0]["flush"].string
                }
                #expect(flush == "on")
            }
        }

        @Test func aJobThatStartsForTheHundredThousandthTimeStillStarts() async throws {
            try await withQueue { queue, database in
                let id = try await queue.enqueue(kind: "quick")
                try await database.client.query("update queue.job set attempt = 99999")
                let worker = try await register(database.client)
                let job = try #require(try await turn(database.client, worker, claiming: 1).jobs.first)
                #expect(job.attempt == 100_000)
                #expect(try await turn(database.client, worker, claiming: 0, finishing: keys([job])).fenced.isEmpty)
                #expect(try await queue.show(id).attempt == 100_000)
            }
        }
    }
}
