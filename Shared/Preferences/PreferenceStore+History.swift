public import Postgres

/// Why a label cannot be changed as asked.
public enum LabelChangeError: Error, Sendable, Equatable {
    /// There is no such label.
    case notFound
    /// It is retracted; it has to be restored first.
    case retracted
}

extension PreferenceStore {
    /// Replaces what a pair says. Saying what it says already changes nothing.
    /// - Parameters:
    ///   - actor: who changes it.
    ///   - reason: why; not empty.
    /// - Returns: the revision that holds now.
    /// - Throws: ``LabelChangeError``.
    @discardableResult
    public func correct(
        _ id: String, to label: PairLabel, actor: String, reason: String, on connection: PostgresConnection? = nil
    ) async throws -> Int {
        try await change(
            "select preferences.correct($1, $2::jsonb, $3, $4) as n",
            [.string(id), .json(encoding: label), .string(actor), .string(reason)], on: connection)
    }

    /// Replaces a rating, on the scale that it has.
    /// - Throws: ``LabelChangeError``.
    @discardableResult
    public func correct(
        _ id: String, toRating rating: Double, actor: String, reason: String, on connection: PostgresConnection? = nil
    ) async throws -> Int {
        try await change(
            "select preferences.correct($1, $2::jsonb, $3, $4) as n",
            [.string(id), .json(encoding: ["rating": rating]), .string(actor), .string(reason)], on: connection)
    }

    /// Takes a pair, a rating or a ranking out of later snapshots, or brings it back.
    /// - Returns: how many labels changed; none when it was so before.
    /// - Throws: ``LabelChangeError/notFound``.
    @discardableResult
    public func setRetracted(
        _ id: String, _ retracted: Bool, actor: String, reason: String, on connection: PostgresConnection? = nil
    ) async throws -> Int {
        try await change(
            "select preferences.set_retracted($1, $2, $3, $4) as n", [.string(id), .bool(retracted), .string(actor), .string(reason)],
            on: connection)
    }

    /// What a pair or a rating said, oldest first; of one that was never changed, what was posted. Empty when there is none.
    public func history(_ id: String) async throws -> [LabelRevision] {
        try await client.query(
            """
            select revision, action, label, actor, reason, at from preferences.revision where subject = $1
            union all
            select 0, 'posted', preferences.label(p), p.rater, null, p.received_at from preferences.pair p where p.id = $1 and p.revision = 0
            union all
            select 0, 'posted', preferences.label(r), r.rater, null, r.received_at from preferences.rating r where r.id = $1 and r.revision = 0
            order by 1
            """, [.string(id)]
        ).map { row in
            LabelRevision(
                number: try row["revision"].int, action: try row["action"].string, label: try row["label"].string,
                actor: try row["actor"].string, reason: try row["reason"].optionalString, at: try row["at"].date)
        }
    }

    /// Replaces a rater's name in every label and its history by a tombstone, and answers the tombstone.
    public func eraseRater(_ rater: String, reason: String) async throws -> (tombstone: String, labels: Int) {
        let row = try await client.query(
            "select tombstone, labels from preferences.erase_rater($1, $2)", [.string(rater), .string(reason)])
        return (try row[0]["tombstone"].string, try row[0]["labels"].int)
    }

    private func change(_ sql: String, _ parameters: [PostgresValue], on connection: PostgresConnection?) async throws -> Int {
        do {
            return try await client.query(sql, parameters, on: connection)[0]["n"].int
        } catch let error as PostgresError where error.sqlState == "02000" || error.sqlState == "P0002" {
            throw LabelChangeError.notFound
        } catch let error as PostgresError where error.sqlState == "55000" {
            throw LabelChangeError.retracted
        }
    }
}
