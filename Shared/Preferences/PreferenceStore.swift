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
        try await post(pairs.map(NewLabel.pair))
    }

    /// Stores labels of any kind as ``post(_:)-([NewPair])`` does pairs.
    @discardableResult
    public func post(_ labels: [NewLabel]) async throws -> [PostResult] {
        guard !labels.isEmpty else { return [] }
        let pairs = labels.compactMap { label in if case .pair(let pair) = label { pair } else { nil } }
        if pairs.count == labels.count, pairs.count < Self.copiedFrom {
            // One statement is a transaction of its own.
            return try await client.withConnection { connection in try await insertAndVerify(pairs, on: connection) }
        }
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
    public func get(_ id: String, on connection: PostgresConnection? = nil) async throws -> PreferencePair? {
        try await client.query("select \(Self.columns) from preferences.pair p where id = $1", [.string(id)], on: connection).first.map(
            pair)
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
        try await page(
            "preferences.pair", Self.columns, LabelFilter(state: state, dimension: dimension, source: source), limit: limit, cursor: cursor,
            of: "1", pair)
    }

    /// A page of one of the tables of labels.
    /// - Parameter kind: what its cursors begin with, so that one table's are not taken for another's.
    func page<Item>(
        _ table: String, _ columns: String, _ filter: LabelFilter, limit: Int, cursor: String?, of kind: String,
        _ item: (PostgresRow) throws -> Item
    ) async throws -> LabelPage<Item> {
        let limit = max(1, min(limit, Self.maximumPage))
        let after = try cursor.map { try Cursor.decode($0, of: kind) } ?? 0
        let rows = try await client.query(
            """
            select seq, \(columns) from \(table) p
            where seq > $1 and ($2::text is null or state = $2) and ($3::text is null or dimension = $3) and ($4::text is null or source = $4)
            order by seq limit $5
            """,
            [
                .int(after), PostgresValue(filter.state?.rawValue), PostgresValue(filter.dimension), PostgresValue(filter.source),
                .int(limit + 1),
            ])
        let page = rows.prefix(limit)
        return LabelPage(
            items: try page.map(item), next: rows.count > limit ? Cursor.encode(try page.last!["seq"].int64, of: kind) : nil)
    }

    /// How many pairs are in each state.
    public func summary() async throws -> PairSummary { try await summary("preferences.pair") }

    func summary(_ table: String) async throws -> PairSummary {
        var summary = PairSummary()
        for row in try await client.query("select state, count(*) as labels from \(table) group by state") {
            let count = try row["labels"].int
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
    /// - Parameter kind: whose listing it is a place in.
    static func encode(_ seq: Int64, of kind: String = "1") -> String {
        Data("\(kind):\(seq)".utf8).base64EncodedString().replacing("=", with: "").replacing("+", with: "-").replacing("/", with: "_")
    }

    static func decode(_ text: String, of kind: String = "1") throws -> Int64 {
        var base = text.replacing("-", with: "+").replacing("_", with: "/")
        base += String(repeating: "=", count: (4 - base.utf8.count % 4) % 4)
        guard let data = Data(base64Encoded: base), let plain = String(data: data, encoding: .utf8), plain.hasPrefix(kind + ":"),
            let seq = Int64(plain.dropFirst(kind.count + 1)), seq >= 0
        else { throw PreferencesError.cursor }
        return seq
    }
}
