import Foundation
import Postgres
import Preferences
import Testing

/// Many pairs at once go into the table by another way than a few. Nobody may be able to tell.
@Suite struct BulkInsertTests {
    /// Every kind of label, and texts that mean something to a database, to COPY or to JSON.
    private func pairs(_ range: Range<Int>) -> [NewPair] {
        let prompts = ["tab\tand\nline \\N \\. end", "\"quoted\", {braces} 'single'", "\u{1}\u{7f} 🎬 e\u{301}", "\\.", "NULL"]
        let labels = [
            PairLabel(.a), PairLabel(.b, votes: Votes(a: 1, b: 3, tie: 2)), PairLabel(.a, softLabel: 0.8250000000000001, margin: 1e-7),
            PairLabel(.tie, strength: 0, presentation: .ba), PairLabel(.bothBad), PairLabel(.skip),
            PairLabel(.b, softLabel: 0, margin: 1e9, strength: 3, presentation: .ab),
        ]
        return range.map { number in
            var pair = sample(number, prompt: prompts[number % prompts.count])
            pair.label = labels[number % labels.count]
            return pair
        }
    }

    @Test func aPairIsTheSameWhicheverWayItCame() async throws {
        try await World.with { world in
            let pairs = pairs(0..<210)
            let created = try await world.store.post(pairs)
            for (pair, result) in zip(pairs, created) {
                let stored = try #require(try await world.store.get(result.id))
                #expect(stored.pair == pair && stored.state == .received && stored.revision == 0)
                #expect(abs(stored.receivedAt.timeIntervalSinceNow) < 600)
            }
            // One by one they are replays, and so they are the other way round.
            for (pair, result) in zip(pairs, created).prefix(20) {
                #expect(try await world.store.post([pair]) == [.replayed(id: result.id, state: .received)])
            }
            let few = self.pairs(300..<306)
            let first = try await world.store.post(few)
            let all = try await world.store.post(pairs + few)
            #expect(all == (created + first).map { .replayed(id: $0.id, state: .received) })
            let jobs = try await world.client.query(
                "select count(*) as jobs from preferences.pair p where not exists (select from queue.job j where j.id = p.verify_job)")
            #expect(try jobs[0]["jobs"].int == 0)
        }
    }

    @Test func oneBatchMayHoldNewOnesReplaysConflictsAndRepetitions() async throws {
        try await World.with { world in
            let known = try await world.store.post(pairs(0..<40))
            var batch = pairs(20..<60)
            batch[5].rater = "somebody else"
            batch[30].prompt = "another"
            batch.append(batch[39])
            var other = batch[38]
            other.b.url += "?"
            batch.insert(other, at: 0)
            let results = try await world.store.post(batch)
            #expect(results.count == 42)
            // The first line of a key wins, and stands where it stood.
            guard case .created(let id) = results[0] else {
                Issue.record("the first line was not created: \(results[0])")
                return
            }
            #expect(results[39] == .conflict(id: id, pointers: ["/b/url"]))
            #expect(results[41] == .replayed(id: results[40].id, state: .received))
            for place in 0..<20 {
                let id = known[20 + place].id
                #expect(results[1 + place] == (place == 5 ? .conflict(id: id, pointers: ["/rater"]) : .replayed(id: id, state: .received)))
            }
            #expect(try await world.store.summary().received == 60)
            #expect(try await world.store.get(results[31].id)?.pair.prompt == "another")
        }
    }

    @Test func keysAreComparedByTheirBytes() async throws {
        try await World.with { world in
            // Unicode holds them to be the same, a database does not.
            var batch = pairs(0..<30)
            (batch[3].externalID, batch[4].externalID) = ("caf\u{e9}", "cafe\u{301}")
            let results = try await world.store.post(batch)
            #expect(Set(results.map(\.id)).count == 30)
            #expect(try await world.store.summary().received == 30)
            #expect(try await world.store.post(batch) == results.map { .replayed(id: $0.id, state: .received) })
        }
    }

    @Test func batchesThatOverlapWaitForEachOtherAndCreateEachPairOnce() async throws {
        try await World.with { world in
            let store = world.store
            let results = try await withThrowingTaskGroup(of: [PostResult].self) { group in
                for client in 0..<6 {
                    let keys = (0..<150).map { ($0 * 7 + client * 31) % 250 }
                    group.addTask {
                        // Many at once, and a few at a time between them.
                        if client % 3 == 2 {
                            var results: [PostResult] = []
                            for start in stride(from: 0, to: keys.count, by: 10) {
                                results += try await store.post(keys[start..<start + 10].map { sample($0) })
                            }
                            return results
                        }
                        return try await store.post(keys.map { sample($0) })
                    }
                }
                return try await group.reduce(into: []) { $0 += $1 }
            }
            let created = results.count { if case .created = $0 { true } else { false } }
            let stored = try await store.summary().received
            #expect(created == stored && results.count == 900)
            #expect(Set(results.map(\.id)).count == stored)
        }
    }
}
