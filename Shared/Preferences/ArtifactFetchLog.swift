public import Postgres

/// What each service fetched, for the demo's report and for whoever asks where bytes came from.
public struct ArtifactFetchLog: Sendable {
    /// One artifact that a service fetched.
    public struct Fetch: Sendable, Equatable {
        /// Without its query.
        public let url: String
        /// What its bytes hashed to.
        public let sha256: String
        /// Its size.
        public let bytes: Int64
        /// Who fetched it.
        public let service: String
        /// How often.
        public let times: Int

        /// A fetch of one artifact. The query and fragment of the URL are left out: they may hold a signature.
        public init(url: String, sha256: String, bytes: Int64, service: String, times: Int = 1) {
            self.url = PairSide.shown(url)
            self.sha256 = sha256
            self.bytes = bytes
            self.service = service
            self.times = times
        }
    }

    let client: PostgresClient

    /// A log in the client's database, whose migrations have run.
    public init(client: PostgresClient) {
        self.client = client
    }

    /// Writes fetches down; the same artifact again counts up.
    public func record(_ fetches: [Fetch], on connection: PostgresConnection? = nil) async throws {
        guard !fetches.isEmpty else { return }
        // In one order everywhere, so that two services never wait for each other; and each row once, as ON CONFLICT demands.
        let sql = """
            insert into registry.artifact_fetch as f (service, url, sha256, bytes, times)
            select p.service, p.url, p.sha256, max(p.bytes), sum(p.times)
            from jsonb_to_recordset($1::jsonb) as p(service text, url text, sha256 text, bytes bigint, times integer)
            group by p.service, p.url, p.sha256 order by p.service, p.sha256, p.url
            on conflict (service, sha256, url) do update set times = f.times + excluded.times, last_at = clock_timestamp()
            """
        let rows = try PostgresValue.json(encoding: fetches.map(Row.init))
        try await client.query(sql, [rows], on: connection)
    }

    /// Everything fetched so far, by service and in the order of the first fetch.
    public func list() async throws -> [Fetch] {
        try await client.query("select service, url, sha256, bytes, times from registry.artifact_fetch order by service, first_at, url").map
        {
            Fetch(
                url: try $0["url"].string, sha256: try $0["sha256"].string, bytes: try $0["bytes"].int64, service: try $0["service"].string,
                times: try $0["times"].int)
        }
    }

    private struct Row: Encodable {
        let service, url, sha256: String
        let bytes: Int64
        let times: Int

        init(_ fetch: Fetch) {
            service = fetch.service
            url = fetch.url
            sha256 = fetch.sha256
            bytes = fetch.bytes
            times = fetch.times
        }
    }
}
