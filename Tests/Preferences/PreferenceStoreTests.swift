import Postgres
import Preferences
import Testing

@Suite struct PreferenceStoreTests {
    @Test func aPostedPairIsReceivedAndItsVerificationIsQueuedWithIt() async throws {
        try await World.with { world in
            let id = try await world.store.post([sample(1)])[0].id
            let pair = try #require(try await world.store.get(id))
            #expect(pair.pair == sample(1))
            #expect(pair.state == .received)
            #expect(pair.reason == nil)
            let jobs = try await world.client.query("select kind, args from ops.jobs")
            #expect(jobs.count == 1)
            #expect(try jobs[0]["kind"].string == "verify_preference")
            #expect(try jobs[0]["args"].decode(VerificationArguments.self) == VerificationArguments(pairs: [id], try: 1))
            #expect(try await world.store.summary() == PairSummary(received: 1, usable: 0, quarantined: 0))
        }
    }

    @Test func theSamePairAgainIsAReplayAndQueuesNothing() async throws {
        try await World.with { world in
            let id = try await world.store.post([sample(1)])[0].id
            #expect(try await world.store.post([sample(1)]) == [.replayed(id: id, state: .received)])
            #expect(try await world.client.query("select 1 from ops.jobs").count == 1)
        }
    }

    @Test func theSameKeyWithAnotherContentIsAConflictThatNamesTheFields() async throws {
        try await World.with { world in
            let id = try await world.store.post([sample(1)])[0].id
            var other = sample(1, outcome: .b)
            other.b.sha256 = String(repeating: "c", count: 64)
            #expect(try await world.store.post([other]) == [.conflict(id: id, pointers: ["/outcome", "/b/sha256"])])
            #expect(try await world.store.get(id)?.pair == sample(1))
        }
    }

    @Test func aBatchHasAResultForEachPairInItsOrder() async throws {
        try await World.with { world in
            let first = try await world.store.post([sample(2)])[0].id
            let results = try await world.store.post([sample(3), sample(2), sample(1), sample(3), sample(1, outcome: .tie)])
            guard case .created(let third) = results[0], case .created(let one) = results[2] else {
                Issue.record("new pairs were not created: \(results)")
                return
            }
            #expect(results[1] == .replayed(id: first, state: .received))
            #expect(results[3] == .replayed(id: third, state: .received))
            #expect(results[4] == .conflict(id: one, pointers: ["/outcome"]))
            #expect(try await world.store.summary().received == 3)
        }
    }

    @Test func aLargeBatchIsVerifiedInJobsOfLimitedSize() async throws {
        try await World.with { world in
            try await world.store.post((0..<450).map { sample($0) })
            let sizes = try await world.client.query("select jsonb_array_length(args->'pairs') as pairs from ops.jobs order by 1 desc")
            #expect(try sizes.map { try $0["pairs"].int } == [200, 200, 50])
        }
    }

    @Test func manyClientsThatPostTheSamePairsAtOnceCreateEachOnce() async throws {
        try await World.with { world in
            let store = world.store
            let results = try await withThrowingTaskGroup(of: [PostResult].self) { group in
                for client in 0..<6 {
                    let keys = client % 2 == 0 ? Array(0..<40) : Array((0..<40).reversed())
                    group.addTask { try await store.post(keys.map { sample($0) }) }
                }
                return try await group.reduce(into: []) { $0 += $1 }
            }
            let created = results.count { if case .created = $0 { true } else { false } }
            #expect(created == 40)
            #expect(Set(results.map(\.id)).count == 40)
            #expect(try await store.summary().received == 40)
        }
    }

    @Test func hostileTextIsKeptAsItIs() async throws {
        try await World.with { world in
            var pair = sample(1, prompt: "a \"quoted\" \\ prompt\n'; drop table preferences.pair; -- 🎬 \u{1b}[31m")
            pair.externalID = "{\"x\":[1,2]}"
            let id = try await world.store.post([pair])[0].id
            #expect(try await world.store.get(id)?.pair == pair)
        }
    }

    @Test func pagesFollowOneAnotherWithoutGapOrRepetition() async throws {
        try await World.with { world in
            let ids = try await world.store.post((0..<7).map { sample($0) }).map(\.id)
            var seen: [String] = []
            var cursor: String?
            repeat {
                let page = try await world.store.list(limit: 3, cursor: cursor)
                seen += page.items.map(\.id)
                cursor = page.next
            } while cursor != nil
            #expect(seen == ids.sorted { seen.firstIndex(of: $0)! < seen.firstIndex(of: $1)! })
            #expect(Set(seen) == Set(ids) && seen.count == 7)
            #expect(try await world.store.list(state: .usable).items.isEmpty)
            await #expect(throws: PreferencesError.cursor) { try await world.store.list(cursor: "nonsense") }
        }
    }

    @Test func aVerdictIsWrittenOnceAndCountedOnce() async throws {
        try await World.with { world in
            try await world.client.query("select queue.schedule_add('every-2', 'train_reward', '{}', every_new_pairs => 2)")
            let ids = try await world.store.post([sample(1), sample(2), sample(3)]).map(\.id)
            let store = world.store
            func settle(_ verdicts: [PairVerdict]) async throws -> Int {
                try await world.client.transaction { try await store.settle(verdicts, on: $0) }
            }
            #expect(try await settle([.usable(ids[0], descriptor()), .quarantined(ids[1], "/a/url: gone")]) == 1)
            #expect(try await settle([.usable(ids[0], descriptor()), .usable(ids[1], descriptor())]) == 0)
            #expect(try await world.client.query("select 1 from ops.jobs where kind = 'train_reward'").isEmpty)
            #expect(try await settle([.usable(ids[2], descriptor())]) == 1)
            #expect(try await world.client.query("select 1 from ops.jobs where kind = 'train_reward'").count == 1)
            let quarantined = try #require(try await store.get(ids[1]))
            #expect(quarantined.state == .quarantined && quarantined.reason == "/a/url: gone")
            let usable = try #require(try await store.get(ids[0]))
            #expect(usable.backbone == "wan-demo" && usable.shape == [12, 6, 8, 8] && usable.reason == nil)
            #expect(try await store.summary() == PairSummary(received: 0, usable: 2, quarantined: 1))
            #expect(try await store.unsettled(ids).isEmpty)
        }
    }

    @Test func aPairWhoseVerificationDiedIsQueuedAloneAndAtLastQuarantined() async throws {
        try await World.with { world in
            let ids = try await world.store.post([sample(1), sample(2)]).map(\.id)
            #expect(try await world.store.rescueLostVerifications() == 0)
            for round in 1...3 {
                try await world.client.query("delete from queue.job")
                #expect(try await world.store.rescueLostVerifications() == 2)
                let jobs = try await world.client.query("select args from ops.jobs where kind = 'verify_preference'")
                #expect(jobs.count == (round < 3 ? 2 : 0))
            }
            let pair = try #require(try await world.store.get(ids[0]))
            #expect(pair.state == .quarantined)
            #expect(pair.reason?.contains("without an answer") == true)
            try await world.client.query("select preferences.reverify($1)", [.string(ids[0])])
            #expect(try await world.store.get(ids[0])?.state == .received)
            #expect(try await world.store.rescueLostVerifications() == 0)
        }
    }

    @Test func dashboardsReadTheViewsAndNothingElse() async throws {
        try await World.with { world in
            try await world.store.post([sample(1)])
            try await world.client.transaction { connection in
                try await connection.query("set local role foretaste_dashboard")
                #expect(try await connection.query("select pairs from ops.preferences").count == 1)
                for view in ["quarantine", "snapshots", "models", "promotions", "artifact_fetches"] {
                    try await connection.query("select * from ops.\(view)")
                }
            }
            let error = await #expect(throws: PostgresError.self) {
                try await world.client.transaction { connection in
                    try await connection.query("set local role foretaste_dashboard")
                    try await connection.query("select * from preferences.pair")
                }
            }
            #expect(error?.sqlState == "42501")
        }
    }

    @Test func fetchesAreCountedWithoutTheirQueries() async throws {
        try await World.with { world in
            let log = ArtifactFetchLog(client: world.client)
            let digest = String(repeating: "a", count: 64)
            let fetch = ArtifactFetchLog.Fetch(url: "http://store/a?signature=secret", sha256: digest, bytes: 10, service: "ingest")
            try await log.record([fetch, fetch])
            try await log.record([fetch, .init(url: "http://store/a", sha256: digest, bytes: 10, service: "reward-trainer")])
            #expect(
                try await log.list() == [
                    .init(url: "http://store/a", sha256: digest, bytes: 10, service: "ingest", times: 3),
                    .init(url: "http://store/a", sha256: digest, bytes: 10, service: "reward-trainer", times: 1),
                ])
        }
    }
}
