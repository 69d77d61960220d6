public import Postgres

/// What a `verify_preference` job is told.
public struct VerificationArguments: Codable, Sendable, Equatable {
    /// The kind of the jobs.
    public static let kind = "verify_preference"

    /// The ids of the pairs and ratings to verify.
    public var pairs: [String]
    /// Which try this is, from 1: artifacts that could not be reached are tried again by a later job.
    public var `try`: Int

    /// The arguments of one try.
    public init(pairs: [String], try: Int) {
        self.pairs = pairs
        self.try = `try`
    }
}

/// A label whose artifacts are to be checked.
public struct VerificationSubject: Sendable, Equatable {
    /// The pair's or the rating's.
    public let id: String
    /// Its artifacts by the names of their fields: `a` and `b`, or `latent`.
    public let sides: [Side]

    /// An artifact.
    public struct Side: Sendable, Equatable {
        /// The field's name.
        public let name: String
        /// Where it lies, and its digest.
        public let artifact: PairSide
    }
}

extension PreferenceStore {
    /// The topic of which every pair or rating that becomes usable is an event; schedules count them.
    public static let usableTopic = "pairs.usable"
    /// How many verification jobs of a pair may end without an answer before it is quarantined.
    static let maximumLostJobs = 3

    /// Queues the verification of received labels, in jobs of at most ``verificationBatch``, as part of the connection's transaction.
    public func enqueueVerification(_ ids: [String], try: Int, after delay: Duration = .zero, on connection: PostgresConnection)
        async throws
    {
        for start in stride(from: 0, to: ids.count, by: Self.verificationBatch) {
            let batch = Array(ids[start..<min(start + Self.verificationBatch, ids.count)])
            try await connection.query(
                """
                with job as materialized (
                    select queue.enqueue($1, $2::jsonb, run_at => clock_timestamp() + make_interval(secs => $3::double precision)) as id),
                ratings as (update preferences.rating r set verify_job = job.id from job where r.id = any ($4::text[]))
                update preferences.pair p set verify_job = job.id from job where p.id = any ($4::text[])
                """,
                [
                    .string(VerificationArguments.kind), try .json(encoding: VerificationArguments(pairs: batch, try: `try`)),
                    .double(delay / .seconds(1)), .array(batch),
                ])
        }
    }

    /// Those of the labels that still wait for a verdict, in the order of `ids`.
    public func unsettled(_ ids: [String]) async throws -> [VerificationSubject] {
        try await client.query(
            """
            select w.wanted as id, p.a_url, p.a_sha256, p.b_url, p.b_sha256, r.url, r.sha256
            from unnest($1::text[]) with ordinality as w(wanted, place)
            left join preferences.pair p on p.id = w.wanted and p.state = 'received'
            left join preferences.rating r on r.id = w.wanted and r.state = 'received'
            where p.id is not null or r.id is not null order by w.place
            """, [.array(ids)]
        ).map { row in
            func side(_ name: String, _ url: String, _ digest: String) throws -> VerificationSubject.Side? {
                guard let url = try row[url].optionalString else { return nil }
                return .init(name: name, artifact: PairSide(url: url, sha256: try row[digest].string))
            }
            return VerificationSubject(
                id: try row["id"].string,
                sides: try [side("a", "a_url", "a_sha256"), side("b", "b_url", "b_sha256"), side("latent", "url", "sha256")].compactMap {
                    $0
                })
        }
    }

    /// Writes verdicts, and counts the labels that became usable for the schedules that wait for new ones. One that was settled already
    /// keeps its verdict and is not counted again.
    /// - Parameter connection: the transaction that completes the verification job.
    /// - Returns: how many became usable.
    @discardableResult
    public func settle(_ verdicts: [PairVerdict], on connection: PostgresConnection) async throws -> Int {
        guard !verdicts.isEmpty else { return 0 }
        let rows = try await connection.query(
            """
            with verdict as materialized (
                select v.id, case when v.reason is null then 'usable' else 'quarantined' end as state, v.reason, v.backbone, v.vae, v.layout,
                       v.noise_kind, v.shape, jsonb_build_object('tensors', v.tensors) as descriptor
                from jsonb_to_recordset($1::jsonb) as v(id text, reason text, backbone text, vae text, layout text, noise_kind text,
                                                        shape integer[], tensors jsonb)),
            settled as (
                update preferences.pair p
                set (state, reason, backbone, vae, layout, noise_kind, shape, descriptor, settled_at)
                    = (v.state, v.reason, v.backbone, v.vae, v.layout, v.noise_kind, v.shape, v.descriptor, clock_timestamp())
                from verdict v where p.id = v.id and p.state = 'received' returning p.state),
            rated as (
                update preferences.rating r
                set (state, reason, backbone, vae, layout, noise_kind, shape, descriptor, settled_at)
                    = (v.state, v.reason, v.backbone, v.vae, v.layout, v.noise_kind, v.shape, v.descriptor, clock_timestamp())
                from verdict v where r.id = v.id and r.state = 'received' returning r.state)
            select state from settled union all select state from rated
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

    /// Finds labels that wait for a verdict although their job is gone (it died, or an operator cancelled it), and queues each one alone, so
    /// that one that kills its verifier does not take others with it. After a few such ends the label itself is quarantined.
    /// - Returns: how many were found.
    @discardableResult
    public func rescueLostVerifications() async throws -> Int {
        try await client.transaction { connection in
            let rows = try await connection.query(
                """
                with pairs as (
                    update preferences.pair p set verify_tries = p.verify_tries + 1
                    from (select q.id from preferences.pair q
                          where q.state = 'received' and not exists (select from queue.job j where j.id = q.verify_job)
                          order by q.seq limit 1000 for update skip locked) lost
                    where p.id = lost.id returning p.id, p.verify_tries),
                ratings as (
                    update preferences.rating r set verify_tries = r.verify_tries + 1
                    from (select q.id from preferences.rating q
                          where q.state = 'received' and not exists (select from queue.job j where j.id = q.verify_job)
                          order by q.seq limit 1000 for update skip locked) lost
                    where r.id = lost.id returning r.id, r.verify_tries)
                select id, verify_tries from pairs union all select id, verify_tries from ratings
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
