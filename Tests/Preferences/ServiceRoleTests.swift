import Foundation
import Postgres
import PostgresTesting
import Preferences
import Testing

/// The stores under the roles that the services log in with: their whole normal work is allowed.
@Suite(.serialized) struct ServiceRoleTests {
    private func asMember(of group: String, _ world: World, _ body: (PostgresClient) async throws -> Void) async throws {
        let login = "\(group)_\(getpid())"
        try await world.client.query("create role \(login) login in role \(group)")
        let url = world.database.url.replacing("user=\(EmbeddedPostgres.databaseName)", with: "user=\(login)")
        let client = PostgresClient(configuration: PostgresConfiguration(url: url), maximumConnections: 4, applicationName: group)
        do {
            try await body(client)
        } catch {
            await client.close()
            try await world.client.query("drop role \(login)")
            throw error
        }
        await client.close()
        try await world.client.query("drop role \(login)")
    }

    /// For want of a right, and for nothing else.
    private func expectRefused(_ body: () async throws -> Void) async {
        do {
            try await body()
            Issue.record("it was allowed")
        } catch {
            #expect((error as? PostgresError)?.sqlState == "42501", "\(error)")
        }
    }

    @Test func ingestTakesVerifiesCorrectsAndRetracts() async throws {
        try await World.with { world in
            try await asMember(of: "foretaste_ingest", world) { client in
                let store = PreferenceStore(client: client)
                let ids = try await store.post([sample(1), sample(2)]).map(\.id)
                #expect(try await store.post([sample(1)]) == [.replayed(id: ids[0], state: .received)])
                #expect(try await store.unsettled(ids).count == 2)
                try await client.transaction { connection in
                    try await store.settle([.usable(ids[0], descriptor())], on: connection)
                    try await store.quarantine(ids[1], reason: "unreachable", on: connection)
                }
                #expect(try await store.summary() == PairSummary(received: 0, usable: 1, quarantined: 1))
                #expect(try await store.get(ids[0])?.state == .usable)
                #expect(try await store.setRetracted(ids[0], true, actor: "key:1", reason: "a mistake") == 1)
                let history = try await store.history(ids[0])
                #expect(!history.isEmpty)
                #expect(try await store.rescueLostVerifications() == 0)
                await #expect(throws: RegistryError.self) { try await ModelRegistry(client: client).resolve("nothing") }
                await expectRefused { _ = try await client.query("delete from preferences.pair") }
                await expectRefused { _ = try await client.query("select registry.set_alias('m', 'champion', 1, '')") }
            }
        }
    }

    @Test func theTrainerFreezesRegistersAndPromotes() async throws {
        try await World.with { world in
            try await world.makeUsable((0..<8).map { sample($0, prompt: "prompt \($0)") })
            try await asMember(of: "foretaste_trainer", world) { client in
                let snapshot = try await Snapshot.freeze(dimension: "overall", backbone: "wan-demo", client: client)
                #expect(snapshot.members.count == 8)
                let registry = ModelRegistry(client: client)
                let model = NewModel(
                    name: "reward-overall", kind: .reward, url: "file:///m", sha256: String(repeating: "a", count: 64), bytes: 1,
                    config: "{}", metrics: "{}", lineage: "{}", dimension: "overall", backbone: "wan-demo:1")
                #expect(try await registry.register(model).version == 1)
                try await registry.setAlias("reward-overall", alias: "champion", version: 1, reason: "the first")
                #expect(try await registry.resolve("reward-overall@champion").version == 1)
            }
            // The scorer reads what the trainer wrote, and can do nothing to it.
            try await asMember(of: "foretaste_scorer", world) { client in
                let registry = ModelRegistry(client: client)
                let champion = try await registry.champion(dimension: "overall", backbone: "wan-demo:1")
                #expect(champion?.version == 1)
                await expectRefused { try await registry.setAlias("reward-overall", alias: "mine", version: 1, reason: "") }
            }
        }
    }
}
