import Postgres
import Preferences
import Testing

@Suite struct SnapshotTests {
    private func pairs(_ count: Int, prompts: Int) -> [NewPair] {
        (0..<count).map { sample($0, prompt: "prompt \($0 % prompts)") }
    }

    @Test func arrivalOrderChangesNothing() async throws {
        var digests: Set<String> = []
        var orders: Set<[String]> = []
        for order in [pairs(30, prompts: 5), pairs(30, prompts: 5).reversed(), pairs(30, prompts: 5).shuffled()] {
            try await World.with { world in
                for pair in order { try await world.makeUsable([pair]) }
                let snapshot = try await Snapshot.freeze(dimension: "overall", backbone: "wan-demo", client: world.client)
                digests.insert(snapshot.digest)
                orders.insert(snapshot.members.map { "\($0.pair.externalID) \($0.split)" })
                #expect(snapshot.members.map(\.position) == Array(0..<30))
            }
        }
        #expect(digests.count == 1)
        #expect(orders.count == 1)
    }

    @Test func aPromptIsOnOneSideAndBothSidesHaveSome() async throws {
        for prompts in [2, 3, 4, 12, 60] {
            try await World.with { world in
                try await world.makeUsable(pairs(120, prompts: prompts))
                let snapshot = try await Snapshot.freeze(dimension: "overall", backbone: nil, client: world.client)
                let train = Set(snapshot.train.map(\.pair.prompt))
                let heldOut = Set(snapshot.heldOut.map(\.pair.prompt))
                #expect(train.isDisjoint(with: heldOut))
                #expect(train.count + heldOut.count == prompts)
                #expect(!train.isEmpty && !heldOut.isEmpty)
                #expect(Double(heldOut.count) <= max(1, (Double(prompts) / 3).rounded(.up)))
            }
        }
    }

    @Test func morePairsOfThePromptsDoNotMoveAPromptToTheOtherSide() async throws {
        try await World.with { world in
            try await world.makeUsable(pairs(40, prompts: 20))
            let before = try await Snapshot.freeze(dimension: "overall", backbone: nil, client: world.client)
            try await world.makeUsable((100..<200).map { sample($0, prompt: "prompt \($0 % 20)") })
            let after = try await Snapshot.freeze(dimension: "overall", backbone: nil, client: world.client)
            #expect(after.members.count == 140)
            #expect(Set(before.heldOut.map(\.pair.prompt)) == Set(after.heldOut.map(\.pair.prompt)))
            #expect(before.digest != after.digest)
        }
    }

    @Test func aSinglePromptIsAllForTraining() async throws {
        try await World.with { world in
            try await world.makeUsable(pairs(5, prompts: 1))
            let snapshot = try await Snapshot.freeze(dimension: "overall", backbone: nil, client: world.client)
            #expect(snapshot.train.count == 5 && snapshot.heldOut.isEmpty)
        }
    }

    @Test func onlyUsablePairsOfTheDimensionAndBackboneAreFrozen() async throws {
        try await World.with { world in
            try await world.makeUsable([sample(1), sample(2, dimension: "mq")], backbone: "wan-demo:1")
            try await world.makeUsable([sample(3)], backbone: "other")
            try await world.store.post([sample(4)])
            let snapshot = try await Snapshot.freeze(dimension: "overall", backbone: "wan-demo@latest", client: world.client)
            #expect(snapshot.members.map(\.pair.externalID) == ["1"])
            #expect(try await Snapshot.freeze(dimension: "none", backbone: nil, client: world.client).members.isEmpty)
        }
    }

    @Test func aJobThatStartsAgainGetsTheSnapshotThatItFroze() async throws {
        try await World.with { world in
            try await world.makeUsable([sample(1)])
            let first = try await Snapshot.freeze(dimension: "overall", backbone: nil, jobID: 7, client: world.client)
            try await world.makeUsable([sample(2)])
            #expect(try await Snapshot.freeze(dimension: "overall", backbone: nil, jobID: 7, client: world.client) == first)
            #expect(try await Snapshot.freeze(dimension: "overall", backbone: nil, jobID: 8, client: world.client).members.count == 2)
            #expect(try await Snapshot.load(first.id, client: world.client) == first)
            #expect(try await Snapshot.load(999, client: world.client) == nil)
        }
    }
}
