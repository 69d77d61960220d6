import Foundation
import JobQueue
import Migrations
import Postgres
import PostgresTesting
import SeededRandom
import Testing

extension JobQueueDatabaseTests {
    @Suite(.serialized) struct Dependencies {
        private func states(_ queue: JobQueue, _ ids: [Int64]) async throws -> [JobRecord.State] {
            var states: [JobRecord.State] = []
            for id in ids { states.append(try await queue.show(id).state) }
            return states
        }

        @Test func aJobStartsWhenAllThatItWaitsForHaveSucceeded() async throws {
            try await withQueue { queue, database in
                let parents = try await [queue.enqueue(kind: "quick"), queue.enqueue(kind: "slow"), queue.enqueue(kind: "quick")]
                let child = try await queue.enqueue(kind: "quick", waitsFor: parents + [parents[0]])
                let leaves = try await [
                    queue.enqueue(kind: "slow", waitsFor: [child]), queue.enqueue(kind: "quick", waitsFor: [child, parents[1]]),
                ]
                #expect(try await states(queue, [child] + leaves) == [.waiting, .waiting, .waiting])
                let order = Order()
                func handler(_ kind: String) -> JobHandler {
                    JobHandler(kind: kind, concurrency: 4) { job in
                        let results = try await job.parents().map { $0.result ?? "" }
                        await order.note(job.id)
                        return JobResult(json: results.isEmpty ? "\(job.id)" : "[\(results.joined(separator: ","))]")
                    }
                }
                try await withWorkers(2, database, [handler("quick"), handler("slow")]) {
                    for leaf in leaves { _ = try await queue.finished(leaf) }
                }
                let ended = await order.ids
                #expect(Set(ended.prefix(3)) == Set(parents) && ended[3] == child && Set(ended.suffix(2)) == Set(leaves), "\(ended)")
                #expect(try await queue.show(child).result == "[\(parents.map(String.init).joined(separator: ", "))]")
                #expect(try await database.client.integer("select count(*) from queue.dep") == 0)
            }
        }

        private actor Order {
            private(set) var ids: [Int64] = []
            func note(_ id: Int64) { ids.append(id) }
        }

        @Test func whatWaitsForALostJobIsCancelledOrGoesOnAndComesBackWithIt() async throws {
            try await withQueue { queue, database in
                let root = try await queue.enqueue(kind: "slow")
                let child = try await queue.enqueue(kind: "slow", waitsFor: [root])
                let grandchild = try await queue.enqueue(kind: "slow", waitsFor: [child, root])
                let stubborn = try await queue.enqueue(kind: "slow", waitsFor: [child], onParentFailure: .continue)
                let all = [root, child, grandchild, stubborn]
                #expect(try await queue.cancel(root) == .cancelled)
                #expect(try await states(queue, all) == [.cancelled, .cancelled, .cancelled, .ready])
                #expect(try await queue.show(grandchild).error?.contains("was given up") == true)
                // One that joins late fares like the others.
                let late = try await queue.enqueue(kind: "slow", waitsFor: [root])
                let lateStubborn = try await queue.enqueue(kind: "slow", waitsFor: [root], onParentFailure: .continue)
                #expect(try await states(queue, [late, lateStubborn]) == [.cancelled, .ready])
                // They come back with what they wait for, not before it.
                let error = await failure { try await queue.retry(grandchild) }
                #expect((error as? PostgresError)?.message.contains("waits for job \(root)") == true, "\(error)")
                // One that an operator cancelled by itself does not.
                #expect(try await queue.cancel(late) == .finished)
                let own = try await queue.enqueue(kind: "slow", waitsFor: [stubborn])
                #expect(try await queue.cancel(own) == .cancelled)
                try await queue.retry(root)
                #expect(try await states(queue, all + [late, own]) == [.ready, .waiting, .waiting, .ready, .waiting, .cancelled])
                try await queue.retry(own)
                #expect(try await states(queue, [own]) == [.waiting])
                try await withWorkers(1, database, [JobHandler(kind: "slow", concurrency: 3) { insertEffect($0) }]) {
                    for id in all + [late, own] {
                        let job = try await queue.finished(id)
                        #expect(job.state == .succeeded)
                    }
                }
                #expect(try await database.client.integer("select count(*) from queue.dep") == 0)
                #expect(try await database.client.integer("select count(*) from public.effect") == 7)
            }
        }

        @Test func onlyJobsThatExistCanBeWaitedForAndThoseThatHaveSucceededCount() async throws {
            try await withQueue { queue, database in
                let client = database.client
                let unknown = await failure { try await queue.enqueue(kind: "quick", waitsFor: [4711]) }
                #expect((unknown as? PostgresError)?.message.contains("there is no job 4711") == true, "\(unknown)")
                #expect(try await client.integer("select count(*) from queue.job") == 0)
                let done = try await queue.enqueue(kind: "quick")
                try await withWorkers(1, database, [JobHandler(kind: "quick") { _ in JobResult() }]) { _ = try await queue.finished(done) }
                let after = try await queue.enqueue(kind: "quick", waitsFor: [done])
                let later = try await queue.enqueue(kind: "quick", runAt: Date() + 60, waitsFor: [done])
                #expect(try await states(queue, [after, later]) == [.ready, .deferred])
                // A time of its own still holds when the others are done.
                let parent = try await queue.enqueue(kind: "quick")
                let deferred = try await queue.enqueue(kind: "quick", runAt: Date() + 60, waitsFor: [parent])
                try await withWorkers(1, database, [JobHandler(kind: "quick") { _ in JobResult() }]) {
                    _ = try await queue.finished(parent)
                }
                #expect(try await states(queue, [deferred]) == [.deferred])
            }
        }

        @Test func aLongChainIsCancelledAndRevivedWhole() async throws {
            try await withQueue { queue, database in
                let client = database.client
                let root = try await queue.enqueue(kind: "quick")
                try await client.query(
                    """
                    do $$ declare job bigint := \(root); begin
                        for n in 1..1000 loop job := queue.enqueue('quick', waits_for => array[job]); end loop;
                    end $$
                    """)
                try await queue.cancel(root)
                #expect(try await client.integer("select count(*) from queue.dead") == 1001)
                try await queue.retry(root)
                #expect(try await client.integer("select count(*) from queue.job where state = 3 and waits_on = 1") == 1000)
            }
        }

        /// Fan-outs and fan-ins grow while their parents end in every way, by many connections at once.
        @Test func nobodyIsForgottenHoweverMuchHappensAtOnce() async throws {
            try await withQueue { queue, database in
                let client = database.client
                let worker = try await client.integer("select queue.register_worker('t', 'h', 1, '10 minutes')")
                let roots = try await withThrowingTaskGroup(of: Int64.self) { group in
                    for _ in 0..<20 { group.addTask { try await queue.enqueue(kind: "quick") } }
                    return try await group.reduce(into: [Int64]()) { $0.append($1) }
                }
                try await withThrowingTaskGroup { group in
                    for seed in 0..<6 {
                        group.addTask {
                            let own = PostgresClient(
                                configuration: PostgresConfiguration(url: database.url), maximumConnections: 1, logger: quiet)
                            var random = SplitMix64(seed: UInt64(seed))
                            var known = roots
                            for _ in 0..<60 {
                                do {
                                    if seed % 2 == 0 {
                                        let parents = (0..<Int.random(in: 1...3, using: &random)).map { _ in
                                            known.randomElement(using: &random)!
                                        }
                                        known.append(
                                            try await JobQueue(client: own).enqueue(
                                                kind: "quick", waitsFor: parents,
                                                onParentFailure: Int.random(in: 0..<4, using: &random) == 0 ? .continue : .cancel))
                                    } else {
                                        try await step(own, worker, &random)
                                    }
                                } catch let error as PostgresError where error.isRetryable { continue }
                            }
                            await own.close()
                        }
                    }
                    try await group.waitForAll()
                }
                try await consistent(client, "after the storm")
                // Whatever is left comes to an end, and nothing waits for what has ended.
                var random = SplitMix64(seed: 99)
                for _ in 0..<3000 where try await client.integer("select count(*) from queue.job") > 0 {
                    try await step(client, worker, &random, mayFail: false)
                }
                #expect(try await client.integer("select count(*) from queue.job") == 0, "somebody waits for ever")
                try await consistent(client, "at the end")
                #expect(try await client.integer("select count(*) from queue.done") > 20)
                #expect(try await client.integer("select count(*) from queue.dead where last_error ? 'because_of'") > 5)
            }
        }

        private func step(_ client: PostgresClient, _ worker: Int, _ random: inout SplitMix64, mayFail: Bool = true) async throws {
            guard let row = try await client.query("select id, token from queue.claim($1, 'quick', 'quick', 1)", [.int(worker)]).first
            else { return }
            let lease: [PostgresValue] = [.int(try row["id"].int64), .int(try row["token"].int64)]
            switch mayFail ? Int.random(in: 0..<6, using: &random) : 0 {
            case 5: try await client.query("select queue.fail($1, $2, '{}', permanent => true)", lease)
            case 4:
                try await client.query("select queue.fail($1, $2, '{}', permanent => true)", lease)
                try await client.query("select queue.retry($1)", [lease[0]])
            default: try await client.query("select queue.complete(array[$1::bigint], array[$2::bigint], array[null::jsonb])", lease)
            }
        }

        private func consistent(_ client: PostgresClient, _ when: String) async throws {
            for (what, sql) in [
                (
                    "a waiting job waits for as many as its rows say",
                    "select count(*) from queue.job j where j.state = 3 and j.waits_on <> (select count(*) from queue.dep d where d.child = j.id)"
                ),
                ("a job that waits for nothing does not wait", "select count(*) from queue.job j where j.state = 3 and j.waits_on = 0"),
                (
                    "only waiting jobs wait",
                    "select count(*) from queue.dep d join queue.job j on j.id = d.child where j.state <> 3"
                ),
                (
                    "who is waited for lives, or those who wait are dead with it",
                    """
                    select count(*) from queue.dep d left join queue.job p on p.id = d.parent left join queue.dead c on c.id = d.child
                    where p.id is null and c.id is null
                    """
                ),
                (
                    "who is waited for knows it",
                    "select count(*) from queue.dep d join queue.job p on p.id = d.parent where not p.parent"
                ),
            ] {
                #expect(try await client.integer(sql) == 0, "\(when): \(what)")
            }
        }
    }
}
