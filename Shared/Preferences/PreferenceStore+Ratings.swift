public import Postgres

extension PreferenceStore {
    /// Ratings as rows, without their verification.
    func insert(_ ratings: [NewRating], on connection: PostgresConnection) async throws -> [PostResult] {
        var results = [PostResult?](repeating: nil, count: ratings.count)
        let posted = try PostgresValue.json(encoding: ratings.enumerated().map { PostedRating(line: $0.offset, rating: $0.element) })
        for row in try await connection.query(Self.insertRatings, [posted]) {
            results[try row["line"].int] = .created(id: try row["id"].string)
        }
        if results.contains(where: { $0 == nil }) {
            for row in try await connection.query(Self.compareRatings, [posted]) { try Self.compared(row, &results) }
        }
        return try Self.complete(results)
    }

    /// A rating, nil when there is none.
    public func rating(_ id: String, on connection: PostgresConnection? = nil) async throws -> StoredRating? {
        try await client.query(
            "select \(Self.ratingColumns) from preferences.rating p where id = $1", [.string(id)], on: connection
        ).first.map(Self.rating)
    }

    /// Ratings oldest first, a page at a time, as ``list(state:dimension:source:limit:cursor:)`` lists pairs.
    /// - Throws: ``PreferencesError/cursor`` for a cursor that is not one.
    public func ratings(_ filter: LabelFilter = LabelFilter(), limit: Int = 100, cursor: String? = nil) async throws -> LabelPage<
        StoredRating
    > {
        try await page("preferences.rating", Self.ratingColumns, filter, limit: limit, cursor: cursor, of: "r1", Self.rating)
    }

    /// How many ratings are in each state.
    public func ratingSummary() async throws -> PairSummary { try await summary("preferences.rating") }

    private static let ratingColumns =
        "id, source, external_id, prompt, dimension, rater, url, sha256, value, low, high, state, reason, revision, retracted_at"

    private static func rating(_ row: PostgresRow) throws -> StoredRating {
        StoredRating(
            id: try row["id"].string,
            rating: NewRating(
                source: try row["source"].string, externalID: try row["external_id"].string, prompt: try row["prompt"].string,
                dimension: try row["dimension"].string, rater: try row["rater"].string,
                latent: PairSide(url: try row["url"].string, sha256: try row["sha256"].string), rating: try row["value"].double,
                scale: .init(min: try row["low"].double, max: try row["high"].double)),
            state: try state(row["state"]), reason: try row["reason"].optionalString, revision: try row["revision"].int,
            retractedAt: try row["retracted_at"].optionalDate)
    }

    private struct PostedRating: Encodable {
        let line: Int
        let source, external_id, prompt, dimension, rater, url, sha256: String
        let value, low, high: Double

        init(line: Int, rating: NewRating) {
            self.line = line
            source = rating.source
            external_id = rating.externalID
            prompt = rating.prompt
            dimension = rating.dimension
            rater = rating.rater
            url = rating.latent.url
            sha256 = rating.latent.sha256
            value = rating.rating
            low = rating.scale.min
            high = rating.scale.max
        }
    }

    private static let postedRatings = """
        (select p.*, encode(sha256(convert_to(jsonb_build_array(p.source, p.external_id, p.prompt, p.dimension, p.rater, p.url, p.sha256, p.value,
                                                                p.low, p.high)::text, 'UTF8')), 'hex') as content
         from jsonb_to_recordset($1::jsonb) as p(line integer, source text, external_id text, prompt text, dimension text, rater text, url text,
                                                 sha256 text, value double precision, low double precision, high double precision)) p
        """

    private static let insertRatings = """
        with posted as (select * from \(postedRatings)),
        created as (
            insert into preferences.rating (source, external_id, prompt, dimension, rater, url, sha256, value, low, high, content)
            select source, external_id, prompt, dimension, rater, url, sha256, value, low, high, content
            from posted order by source, external_id, line
            on conflict (source, external_id) do nothing
            returning id, source, external_id)
        select c.id, min(p.line) as line from created c join posted p using (source, external_id) group by c.id order by 2
        """

    private static let compareRatings = """
        select p.line, e.id, e.state, case when e.content = p.content then '{}' else array_remove(array[
                   case when e.prompt <> p.prompt then '/prompt' end, case when e.dimension <> p.dimension then '/dimension' end,
                   case when e.rater <> p.rater then '/rater' end, case when e.url <> p.url then '/latent/url' end,
                   case when e.sha256 <> p.sha256 then '/latent/sha256' end, case when e.value <> p.value then '/rating' end,
                   case when (e.low, e.high) <> (p.low, p.high) then '/scale' end], null) end as pointers
        from \(postedRatings) join preferences.rating e on e.source = p.source and e.external_id = p.external_id
        """
}
