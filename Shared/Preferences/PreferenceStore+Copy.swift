import Foundation
import Postgres

/// Many pairs at once: whose keys are known is looked up, and the others go into the table by COPY, which takes a fraction of what an INSERT
/// that looks for conflicts costs.
extension PreferenceStore {
    /// How often a batch begins again because others post the same keys meanwhile. Each time at least one more of them is known.
    private static let rounds = 100

    func copyAndVerify(_ posted: [Posted], on connection: PostgresConnection) async throws -> [PostResult] {
        var results = [PostResult?](repeating: nil, count: posted.count)
        // A key's first line is stored; what the others say is compared with it.
        var (firsts, unclear) = Self.byKey(posted)
        for round in 1... {
            firsts = try await withoutKnown(firsts, &results, &unclear, on: connection)
            guard !firsts.isEmpty else { break }
            try await connection.query("savepoint pairs")
            do {
                let verification = try await enqueueVerification(ofNew: firsts.map(\.id), on: connection)
                try await connection.copyIn("preferences.pair", Self.rows(firsts, verification))
                for pair in firsts { results[pair.line] = .created(id: pair.id) }
                break
            } catch let error as PostgresError where error.sqlState == "23505" && round < Self.rounds {
                // Another transaction was faster with one of the keys.
                try await connection.query("rollback to savepoint pairs")
            }
        }
        try await compare(unclear, &results, on: connection)
        return try Self.complete(results)
    }

    /// The pairs in the order of their keys, and apart from them those whose key another one has before them.
    private static func byKey(_ posted: [Posted]) -> (firsts: [Posted], repeated: [Posted]) {
        // By bytes, as the database compares them, and not by what Unicode holds to be the same.
        func precedes(_ one: Posted, _ other: Posted) -> Bool {
            let (a, b) = (one.pair, other.pair)
            guard a.source.utf8.elementsEqual(b.source.utf8) else { return a.source.utf8.lexicographicallyPrecedes(b.source.utf8) }
            guard a.externalID.utf8.elementsEqual(b.externalID.utf8) else {
                return a.externalID.utf8.lexicographicallyPrecedes(b.externalID.utf8)
            }
            return one.line < other.line
        }
        var firsts: [Posted] = []
        var repeated: [Posted] = []
        firsts.reserveCapacity(posted.count)
        for pair in posted.sorted(by: precedes) {
            if let last = firsts.last?.pair, last.externalID.utf8.elementsEqual(pair.pair.externalID.utf8),
                last.source.utf8.elementsEqual(pair.pair.source.utf8)
            {
                repeated.append(pair)
            } else {
                firsts.append(pair)
            }
        }
        return (firsts, repeated)
    }

    /// Notes replays, and leaves out every pair whose key is in the table.
    private func withoutKnown(
        _ pairs: [Posted], _ results: inout [PostResult?], _ unclear: inout [Posted], on connection: PostgresConnection
    ) async throws -> [Posted] {
        // One by one through the index, as in the INSERT.
        let known = try await connection.query(
            """
            select w.place - 1 as place, p.id, p.state, p.content
            from unnest($1::text[], $2::text[]) with ordinality as w(source, external_id, place)
            cross join lateral (
                select e.id, e.state, e.content from preferences.pair e
                where e.source = w.source and e.external_id = w.external_id offset 0) p
            """, [.array(pairs.map(\.pair.source)), .array(pairs.map(\.pair.externalID))])
        guard !known.isEmpty else { return pairs }
        var isKnown = [Bool](repeating: false, count: pairs.count)
        for row in known {
            let place = try row["place"].int
            let pair = pairs[place]
            isKnown[place] = true
            if try row["content"].string == pair.content {
                results[pair.line] = .replayed(id: try row["id"].string, state: try Self.state(row["state"]))
            } else {
                unclear.append(pair)
            }
        }
        return pairs.indices.filter { !isKnown[$0] }.map { pairs[$0] }
    }

    private static func rows(_ pairs: [Posted], _ verification: Verification) throws -> CopyRows {
        // The time of receipt among them: a default that the server works out row by row would keep it from writing pages at a time.
        var rows = CopyRows(columns: [
            "id", "verify_job", "source", "external_id", "prompt", "dimension", "outcome", "rater", "a_url", "a_sha256", "b_url",
            "b_sha256",
            "votes", "soft_label", "margin", "strength", "presentation", "content", "received_at",
        ])
        for (place, posted) in pairs.enumerated() {
            let (pair, label) = (posted.pair, posted.pair.label)
            rows.beginRow()
            rows.append(posted.id)
            rows.append(bigint: verification.job(of: place))
            rows.append(pair.source)
            rows.append(pair.externalID)
            rows.append(pair.prompt)
            rows.append(pair.dimension)
            rows.append(label.outcome.rawValue)
            rows.append(pair.rater)
            rows.append(pair.a.url)
            rows.append(pair.a.sha256)
            rows.append(pair.b.url)
            rows.append(pair.b.sha256)
            rows.append(json: try label.votes.map { String(decoding: try JSONEncoder().encode($0), as: UTF8.self) })
            rows.append(label.softLabel)
            rows.append(label.margin)
            rows.append(smallint: label.strength.map(Int16.init))
            rows.append(label.presentation?.rawValue)
            rows.append(posted.content)
            rows.append(bigint: verification.now)
        }
        return rows
    }
}
