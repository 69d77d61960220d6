import Foundation
import Postgres
import Preferences
import Testing

/// Labels that several raters gave, with sides swapped, counted, ranked and rated: what they say together.
@Suite struct LabelTests {
    private func side(_ letter: String) -> PairSide {
        PairSide(url: "http://store/\(letter)", sha256: String(repeating: letter, count: 64))
    }

    private func pair(
        _ key: String, _ a: String, _ b: String, _ label: PairLabel, rater: String = "r1", prompt: String = "p",
        dimension: String = "overall"
    ) -> NewPair {
        NewPair(
            source: "studio", externalID: key, prompt: prompt, dimension: dimension, label: label, rater: rater, a: side(a), b: side(b))
    }

    private func rating(_ key: String, _ latent: String, _ value: Double, rater: String = "r1") -> NewRating {
        NewRating(
            source: "studio", externalID: key, prompt: "p", dimension: "overall", rater: rater, latent: side(latent), rating: value,
            scale: .init(min: 1, max: 5))
    }

    @Test func everyPartOfALabelComesBackAsPosted() async throws {
        try await World.with { world in
            let labels = [
                PairLabel(.a, votes: Votes(a: 3, b: 1), margin: 1.5, presentation: .ba), PairLabel(.b, softLabel: 0.2, strength: 3),
                PairLabel(.bothBad), PairLabel(.skip, presentation: .ab), PairLabel(.tie, softLabel: 0.5, strength: 0),
            ]
            let pairs = labels.enumerated().map { pair("\($0)", "a", "b", $1) }
            let ids = try await world.store.post(pairs).map(\.id)
            for (id, pair) in zip(ids, pairs) { #expect(try await world.store.get(id)?.pair == pair) }
            #expect(
                try await world.store.post(pairs) == ids.map { .replayed(id: $0, state: .received) })
            var other = pairs[0]
            other.label.votes = Votes(a: 4, b: 1)
            other.label.presentation = nil
            #expect(try await world.store.post([other]) == [.conflict(id: ids[0], pointers: ["/votes", "/presentation"])])
        }
    }

    @Test func aComparisonAddsUpItsRatersWhicheverSideTheyCallA() async throws {
        try await World.with { world in
            try await world.makeUsable([
                pair("1", "a", "b", PairLabel(.a, strength: 3), rater: "r1"), pair("2", "b", "a", PairLabel(.b, strength: 1), rater: "r2"),
                pair("3", "b", "a", PairLabel(.a, strength: 1), rater: "r3"), pair("4", "a", "b", PairLabel(.tie), rater: "r4"),
                pair("5", "a", "b", PairLabel(.skip), rater: "r5"),
                // Another prompt is another comparison.
                pair("6", "a", "b", PairLabel(.b), prompt: "q"),
            ])
            let snapshot = try await Snapshot.freeze(dimension: "overall", backbone: nil, client: world.client)
            #expect(snapshot.members.count == 5)
            let first = try #require(snapshot.comparisons.first)
            #expect(snapshot.comparisons.count == 2)
            #expect(first.a == side("a") && first.b == side("b") && first.name == "studio/1")
            #expect(first.forA == 2 && first.forB == 1 && first.tie == 1 && first.bothBad == 0 && first.raters == 4)
            // 3 and 1 for a, 1 for b.
            #expect(first.margin == 1)
            #expect(snapshot.comparisons[1].forB == 1 && snapshot.comparisons[1].prompt == "q")
        }
    }

    @Test func aRaterHasOneVoiceAndCountedVotesHaveTheirs() async throws {
        try await World.with { world in
            try await world.makeUsable([
                // Shown twice, the second time swapped, answered differently: half a voice each.
                pair("1", "a", "b", PairLabel(.a)), pair("2", "b", "a", PairLabel(.a)),
                pair("3", "c", "d", PairLabel(.a, votes: Votes(a: 3, b: 1, tie: 1, bothBad: 2)), rater: "crowd"),
                pair("4", "d", "c", PairLabel(.b, votes: Votes(a: 0, b: 2)), rater: "crowd"),
                pair("5", "e", "f", PairLabel(.a, softLabel: 0.75)),
                pair("6", "e", "f", PairLabel(.a, votes: Votes(a: 3, b: 1, tie: 2), softLabel: 0.9), rater: "weighted", prompt: "q"),
            ])
            let said = try await Snapshot.freeze(dimension: "overall", backbone: nil, client: world.client).comparisons
            #expect(said.map(\.forA) == [0.5, 5, 0.75, 3.6])
            #expect(zip(said.map(\.forB), [0.5, 1, 0.25, 0.4]).allSatisfy { abs($0 - $1) < 1e-12 })
            #expect(said.map(\.tie) == [0, 1, 0, 2] && said.map(\.bothBad) == [0, 2, 0, 0])
            let repeated = try await world.client.query("select swapped, agrees from ops.duplicate_labels")
            #expect(repeated.count == 1)
            #expect(try repeated[0]["swapped"].bool && !repeated[0]["agrees"].bool)
        }
    }

    @Test func aRankingBecomesItsPairsOnce() async throws {
        try await World.with { world in
            let ranking = NewRanking(
                source: "studio", externalID: "r", prompt: "p", dimension: "overall", rater: "r1",
                items: zip(["a", "b", "c"], [2, 1, 2]).map {
                    .init(url: "http://store/\($0)", sha256: String(repeating: $0, count: 64), rank: $1)
                })
            let id = try await world.store.post([NewLabel.ranking(ranking)])[0].id
            let stored = try #require(try await world.store.ranking(id))
            #expect(stored.ranking == ranking && stored.state == .received && stored.pairs.count == 3)
            let pairs = try await world.store.list().items
            #expect(pairs.map(\.pair.externalID) == ["r#1-2", "r#1-3", "r#2-3"])
            #expect(pairs.map(\.pair.outcome) == [.b, .tie, .a] && pairs.allSatisfy { $0.rankingID == id })
            #expect(try await world.store.post([NewLabel.ranking(ranking)]) == [.replayed(id: id, state: .received)])
            #expect(try await world.store.summary().received == 3)
            var other = ranking
            other.items[0].rank = 3
            #expect(try await world.store.post([NewLabel.ranking(other)]) == [.conflict(id: id, pointers: ["/items"])])
            // The three pairs wait for one verification.
            #expect(try await world.client.query("select 1 from ops.jobs").count == 1)
        }
    }

    @Test func aRankingWhosePairsWouldTakeAForeignKeyIsRefusedWhole() async throws {
        try await World.with { world in
            let foreign = try await world.store.post([pair("r#1-3", "a", "b", PairLabel(.a))])[0].id
            let ranking = NewRanking(
                source: "studio", externalID: "r", prompt: "p", dimension: "overall", rater: "r1",
                items: zip(["a", "b", "c"], [1, 2, 3]).map {
                    .init(url: "http://store/\($0)", sha256: String(repeating: $0, count: 64), rank: $1)
                })
            let results = try await world.store.post([.ranking(ranking), .pair(pair("1", "a", "b", PairLabel(.b)))])
            #expect(results[0] == .conflict(id: foreign, pointers: ["/external_id"]))
            guard case .created = results[1] else { throw PostgresError(sqlState: "", message: "\(results)") }
            #expect(try await world.store.summary().received == 2)
            #expect(try await world.client.query("select 1 from preferences.ranking").isEmpty)
        }
    }

    @Test func ratingsSayHowGoodALatentIsAndWhichIsBetter() async throws {
        try await World.with { world in
            let ratings = [
                rating("1", "a", 5), rating("2", "b", 3), rating("3", "c", 3), rating("4", "a", 4, rater: "r2"),
                rating("5", "b", 5, rater: "r2"),
            ]
            let results = try await world.store.post(ratings.map(NewLabel.rating))
            #expect(try await world.store.rating(results[0].id)?.rating == ratings[0])
            #expect(try await world.store.post(ratings.map(NewLabel.rating)) == results.map { .replayed(id: $0.id, state: .received) })
            var other = ratings[1]
            other.rating = 1
            #expect(try await world.store.post([NewLabel.rating(other)]) == [.conflict(id: results[1].id, pointers: ["/rating"])])
            let store = world.store
            #expect(try await store.unsettled(results.map(\.id)).map(\.sides.count) == [1, 1, 1, 1, 1])
            try await world.client.transaction { connection in
                try await store.settle(results.map { .usable($0.id, descriptor()) }, on: connection)
            }
            let snapshot = try await Snapshot.freeze(dimension: "overall", backbone: "wan-demo", client: world.client)
            #expect(snapshot.members.isEmpty)
            #expect(snapshot.ratedLatents.map(\.good) == [0.875, 0.75, 0.5])
            let said = snapshot.comparisons
            #expect(said.map { "\($0.a.sha256.prefix(1))\($0.b.sha256.prefix(1))" } == ["ab", "ac", "bc"])
            #expect(said.map(\.forA) == [1, 1, 0] && said.map(\.forB) == [1, 0, 0] && said.map(\.tie) == [0, 0, 1])
            // 2 of 4 scale units for a, 1 for b; all of it from ratings.
            #expect(said.map(\.margin) == [0.125, 0.5, 0] && said.allSatisfy(\.isRated))
        }
    }

    @Test func aCorrectionChangesLaterSnapshotsAndNoEarlierOne() async throws {
        try await World.with { world in
            let ids = try await world.makeUsable([pair("1", "a", "b", PairLabel(.a, strength: 2)), pair("2", "c", "d", PairLabel(.b))])
            let before = try await Snapshot.freeze(dimension: "overall", backbone: nil, client: world.client)
            #expect(try await world.store.correct(ids[0], to: PairLabel(.b), actor: "ada", reason: "swapped") == 1)
            // Saying it again changes nothing.
            #expect(try await world.store.correct(ids[0], to: PairLabel(.b), actor: "ada", reason: "swapped") == 1)
            #expect(try await world.store.setRetracted(ids[1], true, actor: "bob", reason: "wrong clip") == 1)
            #expect(try await world.store.setRetracted(ids[1], true, actor: "bob", reason: "wrong clip") == 0)
            let after = try await Snapshot.freeze(dimension: "overall", backbone: nil, client: world.client)
            #expect(try await Snapshot.load(before.id, client: world.client) == before)
            #expect(before.members.map(\.pair.label) == [PairLabel(.a, strength: 2), PairLabel(.b)])
            #expect(after.members.map(\.pair.label) == [PairLabel(.b)])
            #expect(after.digest != before.digest)
            #expect(before.comparisons[0].forA == 1 && after.comparisons[0].forB == 1)

            let history = try await world.store.history(ids[0])
            #expect(history.map(\.action) == ["posted", "corrected"] && history.map(\.actor) == ["r1", "ada"])
            #expect(history.map(\.reason) == [nil, "swapped"])
            #expect(
                try history.map { try JSONDecoder().decode(PairLabel.self, from: Data($0.label.utf8)) }
                    == [PairLabel(.a, strength: 2), PairLabel(.b)])
            #expect(try await world.store.history(ids[1]).map(\.action) == ["posted", "retracted"])
            await #expect(throws: LabelChangeError.retracted) {
                try await world.store.correct(ids[1], to: PairLabel(.a), actor: "ada", reason: "no")
            }
            await #expect(throws: LabelChangeError.notFound) {
                try await world.store.correct("pair_none", to: PairLabel(.a), actor: "ada", reason: "no")
            }
            // The tool posts its rows again, the old label among them: no conflict, and the correction stays.
            #expect(
                try await world.store.post([pair("1", "a", "b", PairLabel(.a, strength: 2))]) == [.replayed(id: ids[0], state: .usable)])
            #expect(try await world.store.get(ids[0])?.pair.outcome == .b)
            #expect(try await world.store.setRetracted(ids[1], false, actor: "bob", reason: "was right") == 1)
            #expect(try await Snapshot.freeze(dimension: "overall", backbone: nil, client: world.client).members.count == 2)
        }
    }

    @Test func historyCannotBeRewritten() async throws {
        try await World.with { world in
            let ids = try await world.makeUsable([pair("1", "a", "b", PairLabel(.a))])
            try await world.store.correct(ids[0], to: PairLabel(.b), actor: "ada", reason: "swapped")
            for statement in [
                "update preferences.revision set reason = 'x'", "delete from preferences.revision", "truncate preferences.revision",
            ] {
                let error = await #expect(throws: PostgresError.self) { try await world.client.query(statement) }
                #expect(error?.sqlState == "42501", "\(statement)")
            }
        }
    }

    @Test func retractingARankingTakesItsPairsAlong() async throws {
        try await World.with { world in
            let ranking = NewRanking(
                source: "studio", externalID: "r", prompt: "p", dimension: "overall", rater: "r1",
                items: zip(["a", "b", "c"], [1, 2, 3]).map {
                    .init(url: "http://store/\($0)", sha256: String(repeating: $0, count: 64), rank: $1)
                })
            let id = try await world.store.post([NewLabel.ranking(ranking)])[0].id
            #expect(try await world.store.setRetracted(id, true, actor: "ada", reason: "wrong prompt") == 3)
            let stored = try #require(try await world.store.ranking(id))
            #expect(stored.retractedAt != nil)
            #expect(try await world.store.history(stored.pairs[0]).map(\.action) == ["posted", "retracted"])
        }
    }

    @Test func anErasedRaterLeavesHisLabelsAndTheDigests() async throws {
        try await World.with { world in
            let posted = [pair("1", "a", "b", PairLabel(.a), rater: "jane"), pair("2", "c", "d", PairLabel(.b), rater: "joe")]
            let ids = try await world.makeUsable(posted)
            try await world.store.correct(ids[0], to: PairLabel(.b), actor: "jane", reason: "slip")
            let before = try await Snapshot.freeze(dimension: "overall", backbone: nil, client: world.client)
            let erased = try await world.store.eraseRater("jane", reason: "asked for it")
            #expect(erased.labels == 1 && erased.tombstone.hasPrefix("erased_"))
            #expect(try await world.store.get(ids[0])?.pair.rater == erased.tombstone)
            #expect(try await world.store.history(ids[0]).map(\.actor) == [erased.tombstone, erased.tombstone])
            let after = try await Snapshot.freeze(dimension: "overall", backbone: nil, client: world.client)
            #expect(after.digest == before.digest)
            #expect(try await world.store.post(posted) == ids.map { .replayed(id: $0, state: .usable) })
            let left = try await world.client.query(
                "select 1 from preferences.pair where rater = 'jane' union all select 1 from preferences.revision where actor = 'jane'")
            #expect(left.isEmpty)
        }
    }

    @Test func aPromptKeepsItsSideWhenOthersArrive() async throws {
        try await World.with { world in
            var sides: [String: Snapshot.Split] = [:]
            var count = 0
            // From very few prompts, where some cross over for balance, to many.
            for more in [2, 1, 3, 14, 60] {
                try await world.makeUsable((count..<count + more).map { pair("\($0)", "a", "b", PairLabel(.a), prompt: "prompt \($0)") })
                count += more
                let snapshot = try await Snapshot.freeze(dimension: "overall", backbone: nil, client: world.client)
                #expect(snapshot.members.count == count)
                #expect(!snapshot.train.isEmpty && !snapshot.heldOut.isEmpty)
                for member in snapshot.members {
                    if let known = sides[member.pair.prompt] { #expect(known == member.split, "\(member.pair.prompt)") }
                    sides[member.pair.prompt] = member.split
                }
            }
            #expect((8...32).contains(sides.values.count { $0 == .heldOut }))
        }
    }

    @Test func aDimensionIsDefinedOnce() async throws {
        try await World.with { world in
            let registry = DimensionRegistry(client: world.client)
            let presets = try await registry.list()
            #expect(presets.map(\.name) == ["mq", "overall", "ta", "vq"])
            #expect(try await registry.define("hands", description: "Five fingers?"))
            #expect(try await registry.define("hands") == false)
            #expect(try await registry.list().first?.description == "Five fingers?")
            #expect(try await registry.define("hands", description: "Are there five?") == false)
            #expect(try await registry.list().first?.description == "Are there five?")
            #expect(!DimensionRegistry.isName("over all") && DimensionRegistry.isName("hands.left-2"))
        }
    }

    @Test func aSnapshotIsReadOutLineByLineWithoutSecrets() async throws {
        try await World.with { world in
            let pairs = (0..<2300).map { number in
                NewPair(
                    source: "studio", externalID: String(format: "%04d", number), prompt: "prompt \(number % 50)", dimension: "overall",
                    label: number == 7 ? PairLabel(.a, votes: Votes(a: 3, b: 1), margin: 2) : PairLabel(.b), rater: "r1",
                    a: PairSide(url: "https://store/\(number)a?signature=secret", sha256: String(repeating: "a", count: 64)),
                    b: PairSide(url: "https://store/\(number)b?signature=secret", sha256: String(repeating: "b", count: 64)))
            }
            try await world.makeUsable(pairs)
            let catalog = SnapshotCatalog(client: world.client)
            let snapshot = try await catalog.freeze(dimension: "overall")
            #expect(snapshot.pairs == 2300 && snapshot.prompts == 50 && snapshot.ratings == 0)
            struct Line: Decodable {
                let external_id: String
                let split: String
                let votes: Votes?
                let margin: Double?
                let a: PairSide
            }
            let text = try await text(of: .pairs, snapshot.id, catalog)
            #expect(!text.contains("secret"))
            let lines = try text.split(separator: "\n").map { try JSONDecoder().decode(Line.self, from: Data($0.utf8)) }
            #expect(lines.map(\.external_id) == pairs.map(\.externalID))
            #expect(lines.count { $0.split == "train" } == snapshot.train)
            #expect(lines[7].votes == Votes(a: 3, b: 1) && lines[7].margin == 2 && lines[7].a.url == "https://store/7a")
            #expect(try await self.text(of: .comparisons, snapshot.id, catalog).split(separator: "\n").count == 50)
            #expect(try await self.text(of: .ratings, snapshot.id, catalog).isEmpty)
            #expect(try await catalog.list(dimension: "overall").items == [snapshot])
            #expect(try await catalog.list(dimension: "mq").items.isEmpty)
        }
    }

    private func text(of part: SnapshotCatalog.Part, _ id: Int64, _ catalog: SnapshotCatalog) async throws -> String {
        var text = ""
        var longest = 0
        try await catalog.export(id, part) {
            text += $0
            longest = max(longest, $0.utf8.count)
        }
        // However many lines there are, a thousand at a time are held.
        #expect(longest < 1_000_000)
        return text
    }
}
