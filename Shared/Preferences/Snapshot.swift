public import Foundation
public import Postgres

/// A frozen data set: usable pairs of one dimension, ordered by `(source, external_id)` and split by prompt. It never changes.
public struct Snapshot: Sendable, Equatable {
    /// On which side of the split a pair is.
    public enum Split: String, Sendable, Codable {
        case train
        case heldOut = "held_out"
    }

    /// A pair in the snapshot.
    public struct Member: Sendable, Equatable {
        /// Where it stands, from 0.
        public let position: Int
        /// The pair.
        public let pair: PreferencePair
        /// Its side. Pairs of one prompt are on one side.
        public let split: Split
    }

    /// The snapshot's number.
    public let id: Int64
    /// SHA-256 over its members, their order and split: the same pairs in another database have the same digest.
    public let digest: String
    /// What the pairs judge.
    public let dimension: String
    /// The backbone that their latents belong to, nil for any.
    public let backbone: String?
    /// When it was frozen.
    public let frozenAt: Date
    /// The pairs in order.
    public let members: [Member]

    /// The pairs to train on.
    public var train: [Member] { members.filter { $0.split == .train } }
    /// The pairs to evaluate on.
    public var heldOut: [Member] { members.filter { $0.split == .heldOut } }

    /// Freezes the usable pairs as they are now.
    ///
    /// A prompt's side follows from the prompt alone, so that it does not change when pairs arrive; only where few prompts fell nearly all
    /// on one side do some cross over (see `preferences.freeze_snapshot` in the migration).
    /// - Parameters:
    ///   - dimension: what the pairs judge.
    ///   - backbone: a name, with or without version or alias; pairs match by the name alone. Nil for any.
    ///   - heldOut: the share of prompts to evaluate on.
    ///   - jobID: a job that calls this again, after a crash say, gets the snapshot that it froze first.
    ///   - connection: nil for a transaction of its own.
    public static func freeze(
        dimension: String, backbone: String?, heldOut: Double = 0.25, jobID: Int64? = nil, client: PostgresClient,
        on connection: PostgresConnection? = nil
    ) async throws -> Snapshot {
        let sql = "select preferences.freeze_snapshot($1, $2, $3, $4) as id"
        let parameters: [PostgresValue] = [PostgresValue(jobID), .string(dimension), PostgresValue(backbone), .double(heldOut)]
        let rows = try await client.query(sql, parameters, on: connection)
        let id = try rows[0]["id"].int64
        guard let snapshot = try await load(id, client: client, on: connection) else {
            throw PostgresError(sqlState: "02000", message: "snapshot \(id) vanished")
        }
        return snapshot
    }

    /// A snapshot that was frozen before, nil when there is none.
    public static func load(_ id: Int64, client: PostgresClient, on connection: PostgresConnection? = nil) async throws -> Snapshot? {
        func query(_ sql: String) async throws -> [PostgresRow] {
            try await client.query(sql, [.int(id)], on: connection)
        }
        guard let row = try await query("select digest, dimension, backbone, frozen_at from preferences.snapshot where id = $1").first
        else {
            return nil
        }
        let store = PreferenceStore(client: client)
        let members = try await query(
            """
            select m.position, m.split, \(PreferenceStore.columns)
            from preferences.snapshot_member m join preferences.pair p on p.id = m.pair_id where m.snapshot_id = $1 order by m.position
            """)
        return Snapshot(
            id: id, digest: try row["digest"].string, dimension: try row["dimension"].string, backbone: try row["backbone"].optionalString,
            frozenAt: try row["frozen_at"].date,
            members: try members.map { row in
                let word = try row["split"].string
                guard let split = Split(rawValue: word) else { throw PreferencesError.unknown("split", word) }
                return Member(position: try row["position"].int, pair: try store.pair(row), split: split)
            })
    }
}
