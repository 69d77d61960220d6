import Foundation
import Postgres
import Preferences
import Testing

@Suite struct ModelRegistryTests {
    private func reward(_ digit: Character = "a", name: String = "reward-overall", backbone: String = "wan-demo:1") -> NewModel {
        NewModel(
            name: name, kind: .reward, url: "file:///models/\(digit)", sha256: String(repeating: digit, count: 64), bytes: 10,
            config: #"{"head": "prism"}"#, metrics: #"{"accuracy": 0.8}"#, lineage: #"{"snapshot": 1}"#, dimension: "overall",
            backbone: backbone)
    }

    @Test func versionsCountUpAndAreFoundByEveryKindOfName() async throws {
        try await World.with { world in
            let first = try await world.registry.register(reward("a"))
            let second = try await world.registry.register(reward("b"))
            #expect(first.reference == "reward-overall:1" && second.reference == "reward-overall:2")
            try await world.registry.setAlias("reward-overall", alias: "champion", version: 1, reason: "the first")
            #expect(try await world.registry.resolve("reward-overall:1").model == reward("a"))
            #expect(try await world.registry.resolve("reward-overall@champion").version == 1)
            #expect(try await world.registry.resolve("reward-overall@latest").version == 2)
            #expect(try await world.registry.resolve("reward-overall").version == 2)
            #expect(try await world.registry.resolve("reward-overall@champion").aliases == ["champion"])
        }
    }

    @Test func whatIsNotThereIsNamedWithWhatIs() async throws {
        try await World.with { world in
            try await world.registry.register(reward())
            for reference in ["reward-overall:2", "reward-overall@challenger", "nothing", "", ":", "@", "a:b", "a\0b", "reward-overall:1x"]
            {
                await #expect(throws: RegistryError.self, "\(reference)") { try await world.registry.resolve(reference) }
            }
            await #expect(throws: RegistryError.notFound(reference: "reward-overall:2", known: ["reward-overall:1"])) {
                try await world.registry.resolve("reward-overall:2")
            }
            await #expect(throws: RegistryError.wrongKind(reference: "reward-overall", found: .reward, expected: .generator)) {
                try await world.registry.resolve("reward-overall", kind: .generator)
            }
        }
    }

    @Test func aNameBelongsToOneKindAndHasToBeOne() async throws {
        try await World.with { world in
            try await world.registry.register(reward())
            var model = reward()
            model.kind = .generator
            await #expect(throws: RegistryError.nameTaken(name: "reward-overall", kind: .reward)) {
                try await world.registry.register(model)
            }
            model.name = "bad:name"
            await #expect(throws: RegistryError.badName("bad:name")) { try await world.registry.register(model) }
        }
    }

    @Test func aJobRegistersOnceHoweverOftenItsEndIsRepeated() async throws {
        try await World.with { world in
            let first = try await world.registry.register(reward("a"), job: (id: 5, token: 1))
            let again = try await world.registry.register(reward("b"), job: (id: 5, token: 2))
            #expect(first == again)
            #expect(try await world.registry.register(reward("b"), job: (id: 6, token: 1)).version == 2)
        }
    }

    @Test func theSameBytesAreNoNewVersionWhereThatIsAskedFor() async throws {
        try await World.with { world in
            try await world.registry.register(reward("a"))
            #expect(try await world.registry.register(reward("a"), reuseIdentical: true).version == 1)
            #expect(try await world.registry.register(reward("a")).version == 2)
            #expect(try await world.registry.register(reward("b"), reuseIdentical: true).version == 3)
        }
    }

    @Test func manyRegistrationsAtOnceGetDifferentVersions() async throws {
        try await World.with { world in
            let registry = world.registry
            let versions = try await withThrowingTaskGroup(of: Int.self) { group in
                for _ in 0..<12 { group.addTask { try await registry.register(reward()).version } }
                return try await group.reduce(into: Set<Int>()) { $0.insert($1) }
            }
            #expect(versions == Set(1...12))
        }
    }

    @Test func aVersionAndItsAliasVanishWithTheTransactionThatMadeThem() async throws {
        struct Refusal: Error {}
        try await World.with { world in
            let registry = world.registry
            await #expect(throws: Refusal.self) {
                try await world.client.transaction { connection in
                    let version = try await registry.register(reward(), job: (id: 1, token: 1), on: connection)
                    try await registry.setAlias(version.name, alias: "champion", version: version.version, reason: "better", on: connection)
                    throw Refusal()
                }
            }
            let left = try await registry.list()
            #expect(left.isEmpty)
        }
    }

    @Test func anAliasMovesWithAReasonAndTellsListeners() async throws {
        try await World.with { world in
            try await world.registry.register(reward("a"))
            try await world.registry.register(reward("b"))
            try await world.registry.setAlias("reward-overall", alias: "champion", version: 1, reason: "the first")
            try await world.registry.setAlias("reward-overall", alias: "champion", version: 1, reason: "2 is no better: 0.79 against 0.80")
            try await world.registry.setAlias("reward-overall", alias: "champion", version: 2, reason: "better: 0.83 against 0.80")
            let history = try await world.registry.history("reward-overall", alias: "champion")
            #expect(history.map(\.to) == [1, 1, 2])
            #expect(history.map(\.from) == [nil, 1, 1])
            #expect(history.map(\.moved) == [true, false, true])
            #expect(history.last?.reason == "better: 0.83 against 0.80")
            for alias in ["latest", "Champion", ""] {
                await #expect(throws: RegistryError.badAlias(alias)) {
                    try await world.registry.setAlias("reward-overall", alias: alias, version: 1, reason: "")
                }
            }
            await #expect(throws: RegistryError.self) {
                try await world.registry.setAlias("reward-overall", alias: "champion", version: 9, reason: "")
            }
        }
    }

    @Test func theChampionOfADimensionIsFoundByTheBackbonesName() async throws {
        try await World.with { world in
            try await world.registry.register(reward("a"))
            #expect(try await world.registry.champion(dimension: "overall", backbone: "wan-demo") == nil)
            try await world.registry.setAlias("reward-overall", alias: "champion", version: 1, reason: "the first")
            #expect(try await world.registry.champion(dimension: "overall", backbone: "wan-demo")?.version == 1)
            #expect(try await world.registry.champion(dimension: "overall", backbone: "wan-demo@latest")?.version == 1)
            #expect(try await world.registry.champion(dimension: "mq", backbone: "wan-demo") == nil)
            #expect(try await world.registry.champion(dimension: "overall", backbone: "other") == nil)
        }
    }

    @Test func theListIsTheContractsJSON() async throws {
        struct Listed: Decodable, Equatable {
            let name: String
            let version: Int
            let kind: String
            let aliases: [String]
            let url: String
            let sha256: String
            let metrics: [String: Double]
        }
        try await World.with { world in
            try await world.registry.register(reward("a"))
            try await world.registry.setAlias("reward-overall", alias: "champion", version: 1, reason: "the \"first\"")
            let listed = try JSONDecoder().decode([Listed].self, from: Data(try await world.registry.list().json.utf8))
            #expect(
                listed == [
                    Listed(
                        name: "reward-overall", version: 1, kind: "reward", aliases: ["champion"], url: "file:///models/a",
                        sha256: String(repeating: "a", count: 64), metrics: ["accuracy": 0.8])
                ])
            #expect(try await world.registry.list(kind: .adapter).isEmpty)
        }
    }
}
