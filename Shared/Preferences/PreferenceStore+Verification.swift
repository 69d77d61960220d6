public import Postgres

/// What a `verify_preference` job is told.
public struct VerificationArguments: Codable, Sendable, Equatable {
    /// The kind of the jobs.
    public static let kind = "verify_preference"

    /// The ids of the pairs to verify.
    public var pairs: [String]
    /// Which try this is, from 1: artifacts that could not be reached are tried again by a later job.
    public var `try`: Int

    /// The arguments of one try.
    public init(pairs: [String], try: Int) {
        self.pairs = pairs
        self.try = `try`
    }
}

extension PreferenceStore {
    /// The topic of which every pair that becomes usable is an event; schedules count them.
    public static let usableTopic = "pairs.usable"
    /// How many verification jobs of a pair may end without an answer before it is quarantined.
    static let maximumLostJobs = 3

    /// Queues the verification of received pairs, in jobs of at most ``verificationBatch`` pairs, as part of the connection's transaction.
    public func enqueueVerification(_ ids: [String], try: Int, after delay: Duration = .zero, on connection: PostgresConnection)
        async throws
    {
        for start in stride(from: 0, to: ids.count, by: Self.verificationBatch) {
            let batch = Array(ids[start..<min(start + Self.verificationBatch, ids.count)])
            try await connection.query(
                """
                with job as materialized (
                    select queue.enqueue($1, $2::jsonb, run_at => clock_timestamp() + make_interval(secs => $3::double precision)) as id)
                update preferences.pair p set verify_job = job.id from job where p.id = any ($4::text[])
                """,
                [
                    .string(VerificationArguments.kind), try .json(encoding: VerificationArguments(pairs: batch, try: `try`)),
                    .double(delay / .seconds(1)), .array(batch),
                ])
        }
    }

    /// Those of the pairs that still wait for a verdict, in the order of `ids`.
    public func unsettled(_ ids: [String]) async throws -> [PreferencePair] {
        try await client.query(
            """
            select \(Self.columns) from preferences.pair p join unnest($1::text[]) with ordinality as w(wanted, place) on p.id = w.wanted
            where p.state = 'received' order by w.place
            """, [.array(ids)]
        ).map(pair)
    }

    /// Writes verdicts, and counts the pairs that became usable for the schedules that wait for new ones. A pair that was settled already
    /// keeps its verdict and is not counted again.
    /// - Parameter connection: the transaction that completes the verification job.
    /// - Returns: how many pairs became usable.
    @discardableResult
    public func settle(_ verdicts: [PairVerdict], on connection: PostgresConnection) async throws -> Int {
        guard !verdicts.isEmpty else { return 0 }
        let rows = try await connection.query(
            """
            update preferences.pair p
            set state = case when v.reason is null then 'usable' else 'quarantined' end, reason = v.reason, settled_at = clock_timestamp(),
                backbone = v.backbone, vae = v.vae, layout = v.layout, noise_kind = v.noise_kind, shape = v.shape,
                descriptor = jsonb_build_object('tensors', v.tensors)
            from jsonb_to_recordset($1::jsonb) as v(id text, reason text, backbone text, vae text, layout text, noise_kind text,
                                                    shape integer[], tensors jsonb)
            where p.id = v.id and p.state = 'received'
            returning p.state
            """, [try .json(encoding: verdicts.map(VerdictRow.init))])
        let usable = try rows.count { try $0["state"].string == PairState.usable.rawValue }
        if usable > 0 {
            try await connection.query("select queue.count_event($1, $2)", [.string(Self.usableTopic), .int(usable)])
        }
        return usable
    }

    /// Marks one pair usable.
    public func markUsable(_ id: String, _ descriptor: PairDescriptor, on connection: PostgresConnection) async throws {
        try await settle([.usable(id, descriptor)], on: connection)
    }

    /// Quarantines one pair.
    public func quarantine(_ id: String, reason: String, on connection: PostgresConnection) async throws {
        try await settle([.quarantined(id, reason)], on: connection)
    }

    /// Finds pairs that wait for a verdict although their job is gone (it died, or an operator cancelled it), and queues each one alone, so
    /// that one that kills its verifier does not take others with it. After a few such ends the pair itself is quarantined.
    /// - Returns: how many pairs were found.
    @discardableResult
    public func rescueLostVerifications() async throws -> Int {
        try await client.transaction { connection in
            let rows = try await connection.query(
                """
                update preferences.pair p set verify_tries = p.verify_tries + 1
                from (select q.id from preferences.pair q
                      where q.state = 'received' and not exists (select from queue.job j where j.id = q.verify_job)
                      order by q.seq limit 1000 for update skip locked) lost
                where p.id = lost.id returning p.id, p.verify_tries
                """)
            for row in rows {
                let id = try row["id"].string
                if try row["verify_tries"].int >= Self.maximumLostJobs {
                    try await quarantine(
                        id,
                        reason:
                            "verification ended \(Self.maximumLostJobs) times without an answer; the service's log and ops.jobs say how",
                        on: connection)
                } else {
                    try await enqueueVerification([id], try: 1, on: connection)
                }
            }
            return rows.count
        }
    }

    private struct VerdictRow: Encodable {
        let id: String
        let reason, backbone, vae, layout, noise_kind: String?
        let shape: [Int]?
        let tensors: [String: [Int]]?

        init(_ verdict: PairVerdict) {
            id = verdict.id
            reason = verdict.reason
            backbone = verdict.descriptor?.backbone
            vae = verdict.descriptor?.vae
            layout = verdict.descriptor?.layout
            noise_kind = verdict.descriptor?.noiseKind
            shape = verdict.descriptor?.shape
            tensors = verdict.descriptor?.tensors
        }
    }
}
