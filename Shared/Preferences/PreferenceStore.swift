import Foundation
import JobQueue
public import Postgres

/// The pairs: posted, verified, listed.
public struct PreferenceStore: Sendable {
    /// The largest page of a listing.
    public static let maximumPage = 1000
    /// How many pairs one verification job takes at most.
    public static let verificationBatch = 200

    let client: PostgresClient

    /// A store in the client's database, whose migrations have run.
    public init(client: PostgresClient) {
        self.client = client
    }

    /// Stores pairs and queues the verification of the new ones, all in one transaction. Results stand in the order of `pairs`.
    ///
    /// A key that occurs twice among `pairs` is created by its first occurrence; the others are replays or conflicts.
    @discardableResult
    public func post(_ pairs: [NewPair]) async throws -> [PostResult] {
        guard !pairs.isEmpty else { return [] }
        return try await client.transaction { connection in try await insertAndVerify(pairs, on: connection) }
    }

    /// Stores labels of any kind as ``post(_:)-([NewPair])`` does pairs.
    @discardableResult
    public func post(_ labels: [NewLabel]) async throws -> [PostResult] {
        guard !labels.isEmpty else { return [] }
        return try await client.transaction { connection in try await post(labels, on: connection) }
    }

    /// Stores labels as part of the connection's transaction.
    @discardableResult
    public func post(_ labels: [NewLabel], on connection: PostgresConnection) async throws -> [PostResult] {
        var results = [PostResult?](repeating: nil, count: labels.count)
        var fresh: [String] = []
        func take(_ found: [PostResult], _ lines: [Int]) {
            for (line, result) in zip(lines, found) { results[line] = result }
        }
        let pairs = labels.enumerated().compactMap { line, label in if case .pair(let pair) = label { (line, pair) } else { nil } }
        let ratings = labels.enumerated().compactMap { line, label in if case .rating(let rating) = label { (line, rating) } else { nil } }
        let rankings = labels.enumerated().compactMap { line, label in
            if case .ranking(let ranking) = label { (line, ranking) } else { nil }
        }
        if !pairs.isEmpty {
            let found = try await insertAndVerify(pairs.map(\.1), on: connection)
            take(found, pairs.map(\.0))
        }
        if !ratings.isEmpty {
            let found = try await insert(ratings.map(\.1), on: connection)
            fresh += found.compactMap(\.createdID)
            take(found, ratings.map(\.0))
        }
        for (line, ranking) in rankings {
            let (result, ids) = try await insert(ranking, on: connection)
            fresh += ids
            results[line] = result
        }
        try await enqueueVerification(fresh, try: 1, on: connection)
        return try Self.complete(results)
    }

    /// Pairs as rows that know their verification's job from the start: a row is written once, which is half the work of a bulk insert.
    /// The jobs come first and name rows to be; of those that turn out to be replays no verification finds anything.
    private func insertAndVerify(_ pairs: [NewPair], on connection: PostgresConnection) async throws -> [PostResult] {
        let ids = pairs.map { _ in Self.freshID() }
        let batches = stride(from: 0, to: ids.count, by: Self.verificationBatch).map { start in
            VerificationArguments(pairs: Array(ids[start..<min(start + Self.verificationBatch, ids.count)]), try: 1)
        }
        try await connection.query("savepoint verification")
        let jobs = try await connection.query(
            "select queue.enqueue($1, b.args) as id from jsonb_array_elements($2::jsonb) with ordinality as b(args, place) order by b.place",
            [.string(VerificationArguments.kind), try .json(encoding: batches)])
        let numbers = try jobs.map { try $0["id"].int64 }
        let rows = zip(pairs, ids).enumerated().map { line, entry in
            PostedRow(line: line, id: entry.1, verify_job: numbers[line / Self.verificationBatch], pair: entry.0)
        }
        return try await insert(rows, rankingID: nil, on: connection) {
            // All of them were known: there is nothing to verify.
            try await connection.query("rollback to savepoint verification")
        }
    }

    private static func freshID() -> String {
        func half() -> String {
            let digits = String(UInt64.random(in: 0...UInt64.max), radix: 16)
            return String(repeating: "0", count: 16 - digits.utf8.count) + digits
        }
        return "pair_" + half() + half()
    }

    /// Pairs of a ranking as rows, without their verification.
    func insert(_ pairs: [NewPair], rankingID: String, on connection: PostgresConnection) async throws -> [PostResult] {
        let rows = pairs.enumerated().map { PostedRow(line: $0.offset, id: Self.freshID(), verify_job: nil, pair: $0.element) }
        return try await insert(rows, rankingID: rankingID, on: connection) {}
    }

    /// - Parameter nothingNew: called when no row was new, before they are compared with what is there.
    private func insert(
        _ rows: [PostedRow], rankingID: String?, on connection: PostgresConnection, nothingNew: () async throws -> Void
    ) async throws -> [PostResult] {
        var results = [PostResult?](repeating: nil, count: rows.count)
        let posted = try PostgresValue.json(encoding: rows)
        var created = 0
        for row in try await connection.query(Self.insert, [posted, PostgresValue(rankingID)]) {
            results[try row["line"].int] = .created(id: try row["id"].string)
            created += 1
        }
        if created == 0 { try await nothingNew() }
        if created < rows.count {
            // A statement of its own: it sees rows that another transaction committed while the insert waited for them.
            for row in try await connection.query(Self.compare, [posted]) { try Self.compared(row, &results) }
        }
        return try Self.complete(results)
    }

    /// Notes what a statement that compares posted rows with stored ones found: `line`, `id`, `state`, `pointers`.
    static func compared(_ row: PostgresRow, _ results: inout [PostResult?]) throws {
        let line = try row["line"].int
        if results[line] != nil { return }
        let id = try row["id"].string
        let pointers = try row["pointers"].stringArray
        results[line] = pointers.isEmpty ? .replayed(id: id, state: try state(row["state"])) : .conflict(id: id, pointers: pointers)
    }

    static func complete(_ results: [PostResult?]) throws -> [PostResult] {
        try results.map {
            guard let result = $0 else { throw PostgresError(sqlState: "40001", message: "a label vanished while it was posted again") }
            return result
        }
    }

    /// One pair, nil when there is none.
    public func get(_ id: String) async throws -> PreferencePair? {
        try await client.query("select \(Self.columns) from preferences.pair p where id = $1", [.string(id)]).first.map(pair)
    }

    /// Pairs oldest first, a page at a time.
    ///
    /// - Parameters:
    ///   - state: only those in this state.
    ///   - dimension: only those that judge this.
    ///   - source: only those from this tool.
    ///   - limit: how many at most, up to ``maximumPage``.
    ///   - cursor: ``PairPage/next`` of the page before.
    /// - Throws: ``PreferencesError/cursor`` for a cursor that is not one.
    public func list(
        state: PairState? = nil, dimension: String? = nil, source: String? = nil, limit: Int = 100, cursor: String? = nil
    ) async throws -> PairPage {
        let limit = max(1, min(limit, Self.maximumPage))
        let after = try cursor.map(Cursor.decode) ?? 0
        let rows = try await client.query(
            """
            select seq, \(Self.columns) from preferences.pair p
            where seq > $1 and ($2::text is null or state = $2) and ($3::text is null or dimension = $3) and ($4::text is null or source = $4)
            order by seq limit $5
            """,
            [.int(after), PostgresValue(state?.rawValue), PostgresValue(dimension), PostgresValue(source), .int(limit + 1)])
        let page = rows.prefix(limit)
        return PairPage(
            items: try page.map(pair), next: rows.count > limit ? Cursor.encode(try page.last!["seq"].int64) : nil)
    }

    /// How many pairs are in each state.
    public func summary() async throws -> PairSummary {
        var summary = PairSummary()
        for row in try await client.query("select state, count(*) as pairs from preferences.pair group by state") {
            let count = try row["pairs"].int
            switch try Self.state(row["state"]) {
            case .received: summary.received = count
            case .usable: summary.usable = count
            case .quarantined: summary.quarantined = count
            }
        }
        return summary
    }

    static let columns = """
        id, source, external_id, prompt, dimension, preferences.label(p) as label, rater, a_url, a_sha256, b_url, b_sha256, state, reason, \
        backbone, coalesce(shape, '{}') as shape, received_at, ranking_id, p.revision, retracted_at
        """

    func pair(_ row: PostgresRow) throws -> PreferencePair {
        PreferencePair(
            id: try row["id"].string,
            pair: NewPair(
                source: try row["source"].string, externalID: try row["external_id"].string, prompt: try row["prompt"].string,
                dimension: try row["dimension"].string, label: try row["label"].decode(PairLabel.self), rater: try row["rater"].string,
                a: PairSide(url: try row["a_url"].string, sha256: try row["a_sha256"].string),
                b: PairSide(url: try row["b_url"].string, sha256: try row["b_sha256"].string)),
            state: try Self.state(row["state"]), reason: try row["reason"].optionalString, backbone: try row["backbone"].optionalString,
            shape: try row["shape"].intArray.map(Int.init), receivedAt: try row["received_at"].date,
            rankingID: try row["ranking_id"].optionalString, revision: try row["revision"].int,
            retractedAt: try row["retracted_at"].optionalDate)
    }

    static func state(_ cell: PostgresCell) throws -> PairState {
        let text = try cell.string
        guard let state = PairState(rawValue: text) else { throw PreferencesError.unknown("state", text) }
        return state
    }

    /// A posted pair as a row of `jsonb_to_recordset`.
    private struct PostedRow: Encodable {
        let line: Int
        let id: String
        let verify_job: Int64?
        let source, external_id, prompt, dimension, outcome, rater, a_url, a_sha256, b_url, b_sha256: String
        let votes: Votes?
        let soft_label, margin: Double?
        let strength: Int?
        let presentation: String?

        init(line: Int, id: String, verify_job: Int64?, pair: NewPair) {
            self.line = line
            self.id = id
            self.verify_job = verify_job
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
        presentation
        """

    private static let posted = """
        jsonb_to_recordset($1::jsonb) as p(line integer, id text, verify_job bigint, source text, external_id text, prompt text, dimension text, outcome text, \
        rater text, a_url text, a_sha256 text, b_url text, b_sha256 text, votes jsonb, soft_label double precision, \
        margin double precision, strength integer, presentation text)
        """

    /// The order by key keeps two batches that overlap from waiting for each other, and lets a key's first line win.
    private static let insert = """
        with posted as (select * from \(posted)),
        created as (
            insert into preferences.pair (id, verify_job, \(fields), ranking_id, content)
            select id, verify_job, \(fields), $2, preferences.content(\(fields))
            from posted order by source, external_id, line
            on conflict (source, external_id) do nothing
            returning id)
        select c.id, p.line from created c join posted p using (id) order by p.line
        """

    /// What was posted first is a replay also after it was corrected or its rater erased, and so is what holds now.
    private static let compare = """
        select p.line, e.id, e.state, case when e.content = preferences.content(p.\(fields.replacing(", ", with: ", p."))) then '{}' else
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
        from \(posted) join preferences.pair e on e.source = p.source and e.external_id = p.external_id
        """
}

/// A request about preferences that cannot be answered.
public enum PreferencesError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The cursor was not made by a listing.
    case cursor
    /// The database holds a word that this version does not know.
    case unknown(String, String)

    public var description: String {
        switch self {
        case .cursor: "the cursor is not one that a listing returned"
        case .unknown(let what, let found): "the database holds the \(what) '\(found)', which this version does not know"
        }
    }
}

/// A place in a listing, opaque to clients.
enum Cursor {
    static func encode(_ seq: Int64) -> String {
        Data("1:\(seq)".utf8).base64EncodedString().replacing("=", with: "").replacing("+", with: "-").replacing("/", with: "_")
    }

    static func decode(_ text: String) throws -> Int64 {
        var base = text.replacing("-", with: "+").replacing("_", with: "/")
        base += String(repeating: "=", count: (4 - base.utf8.count % 4) % 4)
        guard let data = Data(base64Encoded: base), let plain = String(data: data, encoding: .utf8), plain.hasPrefix("1:"),
            let seq = Int64(plain.dropFirst(2)), seq >= 0
        else { throw PreferencesError.cursor }
        return seq
    }
}
