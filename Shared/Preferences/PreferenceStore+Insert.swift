import Foundation
import Postgres

/// How pairs become rows: a few by an INSERT, many by COPY. Both give each row its verification's job from the start, so that it is written
/// once, and both take rows in the order of their keys, so that two batches that overlap wait for each other and never in a circle.
extension PreferenceStore {
    /// From how many pairs on COPY is the faster way.
    static let copiedFrom = 24

    /// A pair on its way into the table.
    struct Posted {
        let line: Int
        let id: String
        let content: String
        let pair: NewPair
    }

    static func posted(_ pairs: [NewPair]) -> [Posted] {
        var digester = ContentDigester()
        var generator = SystemRandomNumberGenerator()
        return pairs.enumerated().map { line, pair in
            let id = (generator.next(), generator.next())
            let hex = withUnsafeBytes(of: id) { hexadecimal($0.assumingMemoryBound(to: UInt8.self)) }
            return Posted(line: line, id: "pair_" + hex, content: digester.digest(of: pair), pair: pair)
        }
    }

    /// Stores pairs with the jobs that will verify the new ones.
    func insertAndVerify(_ pairs: [NewPair], on connection: PostgresConnection) async throws -> [PostResult] {
        let posted = Self.posted(pairs)
        return pairs.count < Self.copiedFrom
            ? try await insert(posted, rankingID: nil, on: connection) : try await copyAndVerify(posted, on: connection)
    }

    /// Pairs of a ranking as rows, without their verification.
    func insert(_ pairs: [NewPair], rankingID: String, on connection: PostgresConnection) async throws -> [PostResult] {
        try await insert(Self.posted(pairs), rankingID: rankingID, on: connection)
    }

    /// A few pairs in one statement, which needs no transaction around it: the new ones, and with them their verification's job unless they
    /// are a ranking's.
    private func insert(_ posted: [Posted], rankingID: String?, on connection: PostgresConnection) async throws -> [PostResult] {
        var results = [PostResult?](repeating: nil, count: posted.count)
        let rows = try PostgresValue.json(encoding: posted.map(Row.init))
        var created = 0
        let kind = rankingID == nil ? VerificationArguments.kind : nil
        for row in try await connection.query(Self.insert, [rows, PostgresValue(rankingID), PostgresValue(kind)]) {
            results[try row["line"].int] = .created(id: try row["id"].string)
            created += 1
        }
        // A statement of its own: it sees rows that another transaction committed while the insert waited for them.
        if created < posted.count { try await compare(posted, &results, on: connection) }
        return try Self.complete(results)
    }

    /// Compares pairs with the stored ones that have their keys.
    func compare(_ pairs: [Posted], _ results: inout [PostResult?], on connection: PostgresConnection) async throws {
        guard !pairs.isEmpty else { return }
        let posted = try PostgresValue.json(encoding: pairs.map(Row.init))
        for row in try await connection.query(Self.compare, [posted]) { try Self.compared(row, &results) }
    }

    /// The jobs that verify rows to be, in their order.
    struct Verification {
        fileprivate let jobs: [Int64]
        /// The server's clock, in microseconds as `timestamptz` has them.
        let now: Int64

        func job(of place: Int) -> Int64 { jobs[place / PreferenceStore.verificationBatch] }
    }

    func enqueueVerification(ofNew ids: [String], on connection: PostgresConnection) async throws -> Verification {
        let batches = stride(from: 0, to: ids.count, by: Self.verificationBatch).map { start in
            VerificationArguments(pairs: Array(ids[start..<min(start + Self.verificationBatch, ids.count)]), try: 1)
        }
        let rows = try await connection.query(
            """
            select queue.enqueue($1, b.args) as id,
                   (extract(epoch from clock_timestamp() - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint as now
            from jsonb_array_elements($2::jsonb) with ordinality as b(args, place) order by b.place
            """, [.string(VerificationArguments.kind), try .json(encoding: batches)])
        return Verification(jobs: try rows.map { try $0["id"].int64 }, now: try rows[0]["now"].int64)
    }

    /// A posted pair as a row of `jsonb_to_recordset`.
    private struct Row: Encodable {
        let line: Int
        let id: String
        let source, external_id, prompt, dimension, outcome, rater, a_url, a_sha256, b_url, b_sha256, content: String
        let votes: Votes?
        let soft_label, margin: Double?
        let strength: Int?
        let presentation: String?

        init(_ posted: Posted) {
            let pair = posted.pair
            line = posted.line
            id = posted.id
            content = posted.content
            source = pair.source
            external_id = pair.externalID
            prompt = pair.prompt
            dimension = pair.dimension
            outcome = pair.outcome.rawValue
            rater = pair.rater
            a_url = pair.a.url
            a_sha256 = pair.a.sha256
            b_url = pair.b.url
            b_sha256 = pair.b.sha256
            votes = pair.label.votes
            soft_label = pair.label.softLabel
            margin = pair.label.margin
            strength = pair.label.strength
            presentation = pair.label.presentation?.rawValue
        }
    }

    private static let fields = """
        source, external_id, prompt, dimension, outcome, rater, a_url, a_sha256, b_url, b_sha256, votes, soft_label, margin, strength, \
        presentation, content
        """

    private static let rows = """
        jsonb_to_recordset($1::jsonb) as p(line integer, id text, source text, external_id text, prompt text, dimension text, \
        outcome text, rater text, a_url text, a_sha256 text, b_url text, b_sha256 text, votes jsonb, soft_label double precision, \
        margin double precision, strength integer, presentation text, content text)
        """

    /// Keys are looked up one by one through the index (hence the offsets): the planner would rather read the whole of a table that it takes for
    /// small. A key's first line wins. A job that names a row which another transaction has meanwhile stored finds nothing to verify.
    private static let insert = """
        with posted as materialized (
            select * from \(rows)
            where (select e.id from preferences.pair e where e.source = p.source and e.external_id = p.external_id offset 0) is null),
        job as materialized (
            select queue.enqueue($3::text, jsonb_build_object('pairs', (select jsonb_agg(id order by line) from posted), 'try', 1)) as number
            where $3::text is not null and exists (select from posted)),
        created as (
            insert into preferences.pair (id, verify_job, \(fields), ranking_id)
            select id, (select number from job), \(fields), $2 from posted order by source collate "C", external_id collate "C", line
            on conflict (source, external_id) do nothing
            returning id)
        select c.id, p.line from created c join posted p using (id) order by p.line
        """

    /// What was posted first is a replay also after it was corrected or its rater erased, and so is what holds now.
    private static let compare = """
        select p.line, e.id, e.state, case when e.content = p.content then '{}' else
               array_remove(array[
                   case when e.prompt <> p.prompt then '/prompt' end, case when e.dimension <> p.dimension then '/dimension' end,
                   case when e.outcome <> p.outcome then '/outcome' end, case when e.rater <> p.rater then '/rater' end,
                   case when e.a_url <> p.a_url then '/a/url' end, case when e.a_sha256 <> p.a_sha256 then '/a/sha256' end,
                   case when e.b_url <> p.b_url then '/b/url' end, case when e.b_sha256 <> p.b_sha256 then '/b/sha256' end,
                   case when e.votes is distinct from p.votes then '/votes' end,
                   case when e.soft_label is distinct from p.soft_label then '/soft_label' end,
                   case when e.margin is distinct from p.margin then '/margin' end,
                   case when e.strength is distinct from p.strength then '/strength' end,
                   case when e.presentation is distinct from p.presentation then '/presentation' end], null) end as pointers
        from \(rows)
        cross join lateral (select * from preferences.pair e where e.source = p.source and e.external_id = p.external_id offset 0) e
        """
}
