public import Postgres

extension PreferenceStore {
    /// A ranking and its pairs, without their verification; the ids of its new pairs beside the result.
    func insert(_ ranking: NewRanking, on connection: PostgresConnection) async throws -> (result: PostResult, pairs: [String]) {
        let posted = try PostgresValue.json(encoding: ranking)
        try await connection.query("savepoint ranking")
        let key: [PostgresValue] = [.string(ranking.source), .string(ranking.externalID)]
        let rows = try await connection.query(
            """
            insert into preferences.ranking (source, external_id, prompt, dimension, rater, items, content)
            select p.source, p.external_id, p.prompt, p.dimension, p.rater, p.items, encode(sha256(convert_to($1::jsonb::text, 'UTF8')), 'hex')
            from jsonb_to_record($1::jsonb) as p(source text, external_id text, prompt text, dimension text, rater text, items jsonb)
            on conflict (source, external_id) do nothing returning id
            """, [posted])
        guard let id = try rows.first?["id"].string else { return (try await compare(posted, key, on: connection), []) }
        let results = try await insert(ranking.pairs, rankingID: id, on: connection)
        let pairs = results.compactMap(\.createdID)
        guard pairs.count == results.count else {
            // A pair of another origin has the key of one of this ranking's: nothing of the ranking is kept.
            try await connection.query("rollback to savepoint ranking")
            return (.conflict(id: Self.stranger(results), pointers: ["/external_id"]), [])
        }
        return (.created(id: id), pairs)
    }

    /// The pair that has a key which a ranking's would need.
    private static func stranger(_ results: [PostResult]) -> String {
        for result in results {
            switch result {
            case .replayed(let id, _), .conflict(let id, _): return id
            case .created: continue
            }
        }
        return ""
    }

    /// A ranking whose key is taken: a replay or a conflict.
    private func compare(_ posted: PostgresValue, _ key: [PostgresValue], on connection: PostgresConnection) async throws -> PostResult {
        var results: [PostResult?] = [nil]
        let rows = try await connection.query(
            """
            select 0 as line, e.id, preferences.ranking_state(e.id) as state,
                   case when e.content = encode(sha256(convert_to($1::jsonb::text, 'UTF8')), 'hex') then '{}' else array_remove(array[
                       case when e.prompt <> p.prompt then '/prompt' end, case when e.dimension <> p.dimension then '/dimension' end,
                       case when e.rater <> p.rater then '/rater' end, case when e.items <> p.items then '/items' end], null) end as pointers
            from preferences.ranking e, jsonb_to_record($1::jsonb) as p(prompt text, dimension text, rater text, items jsonb)
            where e.source = $2 and e.external_id = $3
            """, [posted] + key)
        for row in rows { try Self.compared(row, &results) }
        return try Self.complete(results)[0]
    }

    /// A ranking, nil when there is none.
    public func ranking(_ id: String, on connection: PostgresConnection? = nil) async throws -> StoredRanking? {
        try await client.query(
            """
            select id, source, external_id, prompt, dimension, rater, items, preferences.ranking_state(id) as state, received_at, retracted_at,
                   array(select p.id from preferences.pair p where p.ranking_id = ranking.id order by p.seq) as pairs
            from preferences.ranking where id = $1
            """, [.string(id)], on: connection
        ).first.map { row in
            StoredRanking(
                id: try row["id"].string,
                ranking: NewRanking(
                    source: try row["source"].string, externalID: try row["external_id"].string, prompt: try row["prompt"].string,
                    dimension: try row["dimension"].string, rater: try row["rater"].string,
                    items: try row["items"].decode([NewRanking.Item].self)),
                state: try Self.state(row["state"]), pairs: try row["pairs"].stringArray, retractedAt: try row["retracted_at"].optionalDate)
        }
    }
}
