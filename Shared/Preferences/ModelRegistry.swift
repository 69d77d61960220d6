import Foundation
public import Postgres

/// The models: immutable versions of a name, and aliases that move from one to another with a reason.
public struct ModelRegistry: Sendable {
    /// The channel on which an alias's move is announced, payload `NAME@ALIAS`.
    public static let channel = "registry"

    let client: PostgresClient

    /// A registry in the client's database, whose migrations have run.
    public init(client: PostgresClient) {
        self.client = client
    }

    /// Registers the next version of a name.
    ///
    /// - Parameters:
    ///   - model: what to register.
    ///   - job: the job that made it. A job registers a name once: doing it again answers the version that is there.
    ///   - reuseIdentical: answer the newest version instead when its weights and configuration are the same.
    ///   - connection: the transaction that completes the job, so that version and completion are one; nil for one of its own.
    @discardableResult
    public func register(
        _ model: NewModel, job: (id: Int64, token: Int64)? = nil, reuseIdentical: Bool = false, on connection: PostgresConnection? = nil
    ) async throws -> ModelVersion {
        guard let connection else {
            return try await client.transaction { try await register(model, job: job, reuseIdentical: reuseIdentical, on: $0) }
        }
        guard Self.isName(model.name) else { throw RegistryError.badName(model.name) }
        try await connection.query("select pg_advisory_xact_lock(hashtextextended('registry ' || $1, 0))", [.string(model.name)])
        let newest = try await connection.query(
            """
            select \(Self.columns), m.sha256 = $2 and m.config = $3::jsonb as identical from registry.model m
            where m.name = $1 order by m.version desc limit 1
            """, [.string(model.name), .string(model.sha256), .json(model.config)]
        ).first
        if let newest {
            let version = try Self.version(newest)
            guard version.kind == model.kind else { throw RegistryError.nameTaken(name: model.name, kind: version.kind) }
            if reuseIdentical, try newest["identical"].bool { return version }
        }
        if let job {
            let before = try await connection.query(
                "select \(Self.columns) from registry.model m where m.job_id = $1 and m.name = $2", [.int(job.id), .string(model.name)])
            if let row = before.first { return try Self.version(row) }
        }
        let rows = try await connection.query(
            """
            insert into registry.model as m (name, version, kind, url, sha256, bytes, media_type, files, config, metrics, lineage, dimension,
                                             backbone, job_id, job_token)
            select $1, coalesce(max(n.version), 0) + 1, $2, $3, $4, $5::bigint, $6, $7::jsonb, $8::jsonb, $9::jsonb, $10::jsonb, $11, $12,
                   $13::bigint, $14::bigint
            from registry.model n where n.name = $1
            returning \(Self.columns)
            """,
            [
                .string(model.name), .string(model.kind.rawValue), .string(model.url), .string(model.sha256), .int(model.bytes),
                .string(model.mediaType), try .json(encoding: model.files), .json(model.config), .json(model.metrics), .json(model.lineage),
                PostgresValue(model.dimension), PostgresValue(model.backbone), PostgresValue(job?.id), PostgresValue(job?.token),
            ])
        return try Self.version(rows[0])
    }

    /// Finds `NAME:VERSION`, `NAME@ALIAS`, `NAME@latest` or plain `NAME`, which is the newest.
    /// - Throws: ``RegistryError`` when there is none, or it is not of the kind.
    public func resolve(_ reference: String, kind: ModelKind? = nil, on connection: PostgresConnection? = nil) async throws -> ModelVersion
    {
        guard let version = try await find(reference, on: connection) else {
            guard Self.isText(reference) else { throw RegistryError.notFound(reference: reference, known: []) }
            let name = String(reference.prefix { $0 != ":" && $0 != "@" })
            let known = try await client.query(
                """
                select name || ':' || version as reference from (select name, version from registry.model where name = $1
                    order by version desc limit 5) m
                union all select name || '@' || alias from registry.alias where name = $1
                """, [.string(name)], on: connection)
            throw RegistryError.notFound(reference: reference, known: try known.map { try $0["reference"].string })
        }
        if let kind, version.kind != kind { throw RegistryError.wrongKind(reference: reference, found: version.kind, expected: kind) }
        return version
    }

    /// As ``resolve(_:kind:on:)``, nil when there is none.
    public func find(_ reference: String, on connection: PostgresConnection? = nil) async throws -> ModelVersion? {
        guard Self.isText(reference) else { return nil }
        return try await client.query("select \(Self.columns) from registry.resolve($1) m", [.string(reference)], on: connection).first
            .map(Self.version)
    }

    /// The champion among rewards for a dimension on a backbone (compared by its name alone), the newest when several names have one.
    public func champion(dimension: String, backbone: String, on connection: PostgresConnection? = nil) async throws -> ModelVersion? {
        guard Self.isText(dimension), Self.isText(backbone) else { return nil }
        return try await client.query(
            """
            select \(Self.columns) from registry.model m join registry.alias a on a.name = m.name and a.version = m.version
            where a.alias = 'champion' and m.kind = 'reward' and m.dimension = $1
              and split_part(split_part(m.backbone, '@', 1), ':', 1) = split_part(split_part($2, '@', 1), ':', 1)
            order by m.created_at desc, m.name limit 1
            """, [.string(dimension), .string(backbone)], on: connection
        ).first.map(Self.version)
    }

    /// Points `NAME@ALIAS` at a version and writes the reason into the history. Pointing it where it points already writes the reason too:
    /// the gate looked, and kept it.
    /// - Parameter connection: the transaction that completes a job; nil for one of its own.
    public func setAlias(
        _ name: String, alias: String, version: Int, reason: String, jobID: Int64? = nil, on connection: PostgresConnection? = nil
    ) async throws {
        guard alias != "latest", alias.wholeMatch(of: /[a-z][a-z0-9._-]{0,63}/) != nil else { throw RegistryError.badAlias(alias) }
        _ = try await resolve("\(name):\(version)", on: connection)
        try await client.query(
            "select registry.set_alias($1, $2, $3, $4, $5)",
            [.string(name), .string(alias), .int(version), .string(reason), PostgresValue(jobID)], on: connection)
    }

    /// How an alias came to point where it does, oldest first.
    public func history(_ name: String, alias: String) async throws -> [AliasChange] {
        try await client.query(
            "select from_version, to_version, moved, reason, at from registry.alias_history where name = $1 and alias = $2 order by id",
            [.string(name), .string(alias)]
        ).map {
            AliasChange(
                from: try $0["from_version"].optionalInt, to: try $0["to_version"].int, moved: try $0["moved"].bool,
                reason: try $0["reason"].string, at: try $0["at"].date)
        }
    }

    /// Every version, by name and then oldest first.
    public func list(kind: ModelKind? = nil, name: String? = nil) async throws -> [ModelVersion] {
        try await client.query(
            """
            select \(Self.columns) from registry.model m where ($1::text is null or m.kind = $1) and ($2::text is null or m.name = $2)
            order by m.name collate "C", m.version
            """, [PostgresValue(kind?.rawValue), PostgresValue(name)]
        ).map(Self.version)
    }

    /// Whether PostgreSQL can be asked for it: its texts have no NUL, and a hostile one would be an error there that sounds like ours.
    private static func isText(_ text: String) -> Bool { !text.utf8.contains(0) }

    /// Whether a text may be a model's name.
    public static func isName(_ name: String) -> Bool {
        name.wholeMatch(of: /[A-Za-z0-9][A-Za-z0-9._-]{0,99}/) != nil
    }

    private static let columns = """
        m.name, m.version, m.kind, m.url, m.sha256, m.bytes, m.media_type, m.files, m.config, m.metrics, m.lineage, m.dimension, m.backbone, \
        m.job_id, m.created_at, \
        array(select x.alias from registry.alias x where x.name = m.name and x.version = m.version order by x.alias) as aliases
        """

    private static func version(_ row: PostgresRow) throws -> ModelVersion {
        let word = try row["kind"].string
        guard let kind = ModelKind(rawValue: word) else { throw PreferencesError.unknown("kind", word) }
        return ModelVersion(
            model: NewModel(
                name: try row["name"].string, kind: kind, url: try row["url"].string, sha256: try row["sha256"].string,
                bytes: try row["bytes"].int64, mediaType: try row["media_type"].string, files: try row["files"].decode([ModelFile].self),
                config: try row["config"].string, metrics: try row["metrics"].string, lineage: try row["lineage"].string,
                dimension: try row["dimension"].optionalString, backbone: try row["backbone"].optionalString),
            version: try row["version"].int, aliases: try row["aliases"].stringArray, jobID: try row["job_id"].optionalInt64,
            createdAt: try row["created_at"].date)
    }
}

extension ModelVersion {
    /// The contract's JSON: `{"name","version","kind","aliases","url","sha256","metrics"}`, and what else is known.
    public var json: String {
        func quoted(_ text: String?) -> String {
            guard let text else { return "null" }
            let encoder = JSONEncoder()
            encoder.outputFormatting = .withoutEscapingSlashes
            // A string always encodes.
            return String(decoding: try! encoder.encode(text), as: UTF8.self)
        }
        return """
            {"name":\(quoted(name)),"version":\(version),"kind":"\(kind.rawValue)","aliases":[\(aliases.map(quoted).joined(separator: ","))],\
            "url":\(quoted(model.url)),"sha256":"\(model.sha256)","bytes":\(model.bytes),"dimension":\(quoted(model.dimension)),\
            "backbone":\(quoted(model.backbone)),"created_at":\(quoted(createdAt.formatted(.iso8601))),"job":\(jobID.map(String.init) ?? "null"),\
            "metrics":\(model.metrics),"lineage":\(model.lineage),"config":\(model.config)}
            """
    }
}

extension [ModelVersion] {
    /// The contract's `models list --json`.
    public var json: String { "[" + map(\.json).joined(separator: ",\n ") + "]" }
}
