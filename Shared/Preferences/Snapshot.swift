public import Foundation
public import Postgres

/// A frozen data set: the usable labels of one dimension as they were, ordered by `(source, external_id)` and split by prompt. It never changes.
public struct Snapshot: Sendable, Equatable {
    /// On which side of the split a pair is.
    public enum Split: String, Sendable, Codable {
        case train
        case heldOut = "held_out"
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
    /// The labels of pairs, one by one, in order.
    public let members: [FrozenPair]
    /// What raters say together on each pair of latents: what is learnt from.
    public let comparisons: [Comparison]
    /// What raters say together on each latent that they rated by itself.
    public let ratedLatents: [RatedLatent]

    /// The labels to train on.
    public var train: [FrozenPair] { members.filter { $0.split == .train } }
    /// The labels to evaluate on.
    public var heldOut: [FrozenPair] { members.filter { $0.split == .heldOut } }

    /// Freezes the usable labels as they are now.
    ///
    /// A prompt keeps the side that it got first, for a dimension and a share. That side follows from the prompt alone; only where few prompts
    /// fell nearly all on one side at the first time do some cross over (see `preferences.assign_sides` in the migration).
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
        let members = try await query(
            "select \(FrozenPair.columns) from preferences.frozen_pair where snapshot_id = $1 order by position")
        let comparisons = try await query("select \(Comparison.columns) from preferences.comparisons($1)")
        let ratings = try await query("select \(RatedLatent.columns) from preferences.rated_latents($1)")
        return Snapshot(
            id: id, digest: try row["digest"].string, dimension: try row["dimension"].string, backbone: try row["backbone"].optionalString,
            frozenAt: try row["frozen_at"].date, members: try members.map(FrozenPair.init),
            comparisons: try comparisons.map(Comparison.init),
            ratedLatents: try ratings.map(RatedLatent.init))
    }
}
