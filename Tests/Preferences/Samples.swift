import Migrations
import Postgres
import PostgresTesting
import Preferences

/// A fresh, migrated database with a store and a registry over it.
struct World: Sendable {
    let database: TestDatabase
    var client: PostgresClient { database.client }
    var store: PreferenceStore { PreferenceStore(client: client) }
    var registry: ModelRegistry { ModelRegistry(client: client) }

    static func with(_ body: (World) async throws -> Void) async throws {
        try await TestDatabase.with(migrations: BundledMigrations.all()) { try await body(World(database: $0)) }
    }

    /// Posts pairs and lets verification find them usable.
    @discardableResult
    func makeUsable(_ pairs: [NewPair], backbone: String = "wan-demo") async throws -> [String] {
        let ids = try await store.post(pairs).map(\.id)
        let store = store
        try await client.transaction { connection in
            try await store.settle(ids.map { .usable($0, descriptor(backbone)) }, on: connection)
        }
        return ids
    }
}

func descriptor(_ backbone: String = "wan-demo") -> PairDescriptor {
    PairDescriptor(
        backbone: backbone, vae: "codec", layout: "CFHW", noiseKind: "flow", shape: [12, 6, 8, 8], tensors: ["prompt_embeds": [4, 64]])
}

func sample(
    _ key: Int, source: String = "studio", prompt: String = "red diamond moving right", dimension: String = "overall", outcome: Outcome = .a
) -> NewPair {
    NewPair(
        source: source, externalID: String(key), prompt: prompt, dimension: dimension, outcome: outcome, rater: "r1",
        a: PairSide(url: "http://store/\(key)a", sha256: String(repeating: "a", count: 64)),
        b: PairSide(url: "http://store/\(key)b", sha256: String(repeating: "b", count: 64)))
}

extension PostResult {
    var id: String {
        switch self {
        case .created(let id), .replayed(let id, _), .conflict(let id, _): id
        }
    }
}
