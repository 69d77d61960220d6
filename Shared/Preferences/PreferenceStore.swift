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
        let rows = pairs.enumerated().map { PostedRow(line: $0.offset, pair: $0.element) }
        let posted = try PostgresValue.json(encoding: rows)
        return try await client.transaction { connection in
            var results = [PostResult?](repeating: nil, count: pairs.count)
            var ids: [String] = []
            for row in try await connection.query(Self.insert, [posted]) {
                let id = try row["id"].string
                results[try row["line"].int] = .created(id: id)
                ids.append(id)
            }
            if ids.count < pairs.count {
                // A statement of its own: it sees rows that another transaction committed while the insert waited for them.
                for row in try await connection.query(Self.compare, [posted]) {
                    let line = try row["line"].int
                    if results[line] != nil { continue }
                    let id = try row["id"].string
                    let pointers = try row["pointers"].stringArray
                    results[line] =
                        pointers.isEmpty ? .replayed(id: id, state: try state(row["state"])) : .conflict(id: id, pointers: pointers)
                }
            }
            try await enqueueVerification(ids, try: 1, on: connection)
            return try results.map {
                guard let result = $0 else {
                    throw PostgresError(sqlState: "40001", message: "a pair vanished while it was posted again")
                }
                return result
            }
        }
    }

    /// One pair, nil when there is none.
    public func get(_ id: String) async throws -> PreferencePair? {
        try await client.query("select \(Self.columns) from preferences.pair where id = $1", [.string(id)]).first.map(pair)
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
            select seq, \(Self.columns) from preferences.pair
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
            switch try state(row["state"]) {
            case .received: summary.received = count
            case .usable: summary.usable = count
            case .quarantined: summary.quarantined = count
            }
        }
        return summary
    }

    static let columns = """
        id, source, external_id, prompt, dimension, outcome, rater, a_url, a_sha256, b_url, b_sha256, state, reason, backbone, \
        coalesce(shape, '{}') as shape, received_at
        """

    func pair(_ row: PostgresRow) throws -> PreferencePair {
        let outcome = try row["outcome"].string
        guard let outcome = Outcome(rawValue: outcome) else { throw PreferencesError.unknown("outcome", outcome) }
        return PreferencePair(
            id: try row["id"].string,
            pair: NewPair(
                source: try row["source"].string, externalID: try row["external_id"].string, prompt: try row["prompt"].string,
                dimension: try row["dimension"].string, outcome: outcome, rater: try row["rater"].string,
                a: PairSide(url: try row["a_url"].string, sha256: try row["a_sha256"].string),
                b: PairSide(url: try row["b_url"].string, sha256: try row["b_sha256"].string)),
            state: try state(row["state"]), reason: try row["reason"].optionalString, backbone: try row["backbone"].optionalString,
            shape: try row["shape"].intArray.map(Int.init), receivedAt: try row["received_at"].date)
    }

    private func state(_ cell: PostgresCell) throws -> PairState {
        let text = try cell.string
        guard let state = PairState(rawValue: text) else { throw PreferencesError.unknown("state", text) }
        return state
    }

    /// A posted pair as a row of `jsonb_to_recordset`.
    private struct PostedRow: Encodable {
        let line: Int
        let source, external_id, prompt, dimension, outcome, rater, a_url, a_sha256, b_url, b_sha256: String

        init(line: Int, pair: NewPair) {
            self.line = line
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
        }
    }

    private static let posted = """
        jsonb_to_recordset($1::jsonb) as p(line integer, source text, external_id text, prompt text, dimension text, outcome text, \
        rater text, a_url text, a_sha256 text, b_url text, b_sha256 text)
        """

    /// The order by key keeps two batches that overlap from waiting for each other, and lets a key's first line win.
    private static let insert = """
        with posted as (select * from \(posted)),
        created as (
            insert into preferences.pair (source, external_id, prompt, dimension, outcome, rater, a_url, a_sha256, b_url, b_sha256, content)
            select source, external_id, prompt, dimension, outcome, rater, a_url, a_sha256, b_url, b_sha256,
                   encode(sha256(convert_to(jsonb_build_array(source, external_id, prompt, dimension, outcome, rater, a_url, a_sha256,
                                                              b_url, b_sha256)::text, 'UTF8')), 'hex')
            from posted order by source, external_id, line
            on conflict (source, external_id) do nothing
            returning id, source, external_id)
        select c.id, min(p.line) as line from created c join posted p using (source, external_id) group by c.id order by 2
        """

    private static let compare = """
        select p.line, e.id, e.state, array_remove(array[
                   case when e.prompt <> p.prompt then '/prompt' end, case when e.dimension <> p.dimension then '/dimension' end,
                   case when e.outcome <> p.outcome then '/outcome' end, case when e.rater <> p.rater then '/rater' end,
                   case when e.a_url <> p.a_url then '/a/url' end, case when e.a_sha256 <> p.a_sha256 then '/a/sha256' end,
                   case when e.b_url <> p.b_url then '/b/url' end, case when e.b_sha256 <> p.b_sha256 then '/b/sha256' end], null) as pointers
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
