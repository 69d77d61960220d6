public import Foundation
public import Postgres

/// A frozen data set without its labels.
public struct SnapshotSummary: Codable, Sendable, Equatable {
    /// The snapshot's number.
    public let id: Int64
    /// SHA-256 over its labels, their order and split.
    public let digest: String
    /// What the labels judge.
    public let dimension: String
    /// The backbone that the latents belong to, nil for any.
    public let backbone: String?
    /// The share of prompts that is held out.
    public let heldOut: Double
    /// How many labels of pairs there are, one a rater.
    public let pairs: Int
    /// How many of them are for training.
    public let train: Int
    /// How many ratings there are.
    public let ratings: Int
    /// How many prompts.
    public let prompts: Int
    /// The job that froze it.
    public let jobID: Int64?
    /// When it was frozen.
    public let frozenAt: Date

    static let columns = "id, digest, dimension, backbone, held_out, pairs, train, ratings, prompts, job_id, frozen_at"

    init(_ row: PostgresRow) throws {
        id = try row["id"].int64
        digest = try row["digest"].string
        dimension = try row["dimension"].string
        backbone = try row["backbone"].optionalString
        heldOut = try row["held_out"].double
        pairs = try row["pairs"].int
        train = try row["train"].int
        ratings = try row["ratings"].int
        prompts = try row["prompts"].int
        jobID = try row["job_id"].optionalInt64
        frozenAt = try row["frozen_at"].date
    }
}

/// A page of snapshots.
public struct SnapshotPage: Sendable {
    /// The newest first.
    public let items: [SnapshotSummary]
    /// The cursor of the next page; nil at the end.
    public let next: String?
}

/// The frozen data sets: listed, and read out without holding one in memory.
public struct SnapshotCatalog: Sendable {
    /// What can be read out of a snapshot.
    public enum Part: String, Sendable, CaseIterable {
        /// The labels of pairs, one a rater.
        case pairs
        /// What raters say together on each two latents.
        case comparisons
        /// The ratings, one a rater.
        case ratings
    }

    /// How many lines are held at a time.
    static let lines = 1000

    private let client: PostgresClient

    /// The snapshots in the client's database.
    public init(client: PostgresClient) {
        self.client = client
    }

    /// Snapshots, newest first.
    /// - Throws: ``PreferencesError/cursor`` for a cursor that is not one.
    public func list(dimension: String? = nil, limit: Int = 100, cursor: String? = nil) async throws -> SnapshotPage {
        let limit = max(1, min(limit, PreferenceStore.maximumPage))
        let before = try cursor.map { try Cursor.decode($0) } ?? Int64.max
        let rows = try await client.query(
            """
            select \(SnapshotSummary.columns) from preferences.snapshot where id < $1 and ($2::text is null or dimension = $2)
            order by id desc limit $3
            """, [.int(before), PostgresValue(dimension), .int(limit + 1)])
        let items = try rows.prefix(limit).map(SnapshotSummary.init)
        return SnapshotPage(items: items, next: rows.count > limit ? items.last.map { Cursor.encode($0.id) } : nil)
    }

    /// One snapshot, nil when there is none.
    public func get(_ id: Int64, on connection: PostgresConnection? = nil) async throws -> SnapshotSummary? {
        try await client.query("select \(SnapshotSummary.columns) from preferences.snapshot where id = $1", [.int(id)], on: connection)
            .first
            .map(SnapshotSummary.init)
    }

    /// Freezes the usable labels as they are now.
    public func freeze(
        dimension: String, backbone: String? = nil, heldOut: Double = 0.25, on connection: PostgresConnection? = nil
    ) async throws -> SnapshotSummary {
        let id = try await client.query(
            "select preferences.freeze_snapshot(null, $1, $2, $3) as id",
            [.string(dimension), PostgresValue(backbone), .double(heldOut)], on: connection)[0]["id"].int64
        guard let summary = try await get(id, on: connection) else {
            throw PostgresError(sqlState: "02000", message: "snapshot \(id) vanished")
        }
        return summary
    }

    /// Reads a part of a snapshot as lines of JSON in their order, some at a time: `write` is given whole lines, each with its line feed, and
    /// is waited for. URLs come without their queries, which may hold signatures.
    ///
    /// The labels of a snapshot are read page by page, and block nothing; comparisons are worked out once, at the beginning.
    public func export(_ id: Int64, _ part: Part, write: (String) async throws -> Void) async throws {
        switch part {
        case .pairs, .ratings:
            var after = -1
            while true {
                let rows = try await client.query(
                    part == .pairs ? Self.pairLines : Self.ratingLines, [.int(id), .int(after), .int(Self.lines)])
                guard let last = rows.last else { return }
                after = try last["position"].int
                try await write(try rows.map { try $0["line"].string + "\n" }.joined())
            }
        case .comparisons:
            try await client.transaction { connection in
                try await connection.query("declare lines no scroll cursor for \(Self.comparisonLines(id))")
                while true {
                    let rows = try await connection.query("fetch \(Self.lines) from lines")
                    guard !rows.isEmpty else { return }
                    try await write(try rows.map { try $0["line"].string + "\n" }.joined())
                }
            }
        }
    }

    private static let pairLines = """
        select position, (jsonb_build_object(
            'id', id, 'source', source, 'external_id', external_id, 'prompt', prompt, 'dimension', dimension, 'rater', rater, 'split', split,
            'a', jsonb_build_object('url', split_part(a_url, '?', 1), 'sha256', a_sha256),
            'b', jsonb_build_object('url', split_part(b_url, '?', 1), 'sha256', b_sha256))
            || label || case when ranking_id is null then '{}' else jsonb_build_object('ranking_id', ranking_id) end
            || case when revision = 0 then '{}' else jsonb_build_object('revision', revision) end)::text as line
        from preferences.frozen_pair where snapshot_id = $1 and position > $2 order by position limit $3
        """

    private static let ratingLines = """
        select position, (jsonb_build_object(
            'id', id, 'source', source, 'external_id', external_id, 'prompt', prompt, 'dimension', dimension, 'rater', rater, 'split', split,
            'latent', jsonb_build_object('url', split_part(url, '?', 1), 'sha256', sha256),
            'rating', value, 'scale', jsonb_build_object('min', low, 'max', high))
            || case when revision = 0 then '{}' else jsonb_build_object('revision', revision) end)::text as line
        from preferences.frozen_rating where snapshot_id = $1 and position > $2 order by position limit $3
        """

    private static func comparisonLines(_ id: Int64) -> String {
        """
        select jsonb_build_object(
            'prompt', prompt, 'dimension', dimension, 'split', split,
            'a', jsonb_build_object('url', split_part(a_url, '?', 1), 'sha256', a_sha256),
            'b', jsonb_build_object('url', split_part(b_url, '?', 1), 'sha256', b_sha256),
            'voices', jsonb_build_object('a', a, 'b', b, 'tie', tie, 'both_bad', both_bad),
            'soft_label', case when a + b > 0 then a / (a + b) end, 'margin', margin, 'raters', raters, 'labels', labels, 'rated', rated
        )::text as line
        from preferences.comparisons(\(id))
        """
    }
}
