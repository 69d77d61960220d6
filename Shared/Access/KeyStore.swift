public import Foundation
public import Postgres
public import ServiceKit

/// What is known of an API key; never the key itself.
public struct KeyRecord: Sendable, Codable, Equatable {
    /// Its id.
    public let id: String
    /// What people call it.
    public let name: String
    /// What it may do.
    public let scopes: [Scope]
    /// Whether `foretaste up` minted it for a run.
    public let run: Bool
    /// When it was made, and by which user of the database.
    public let createdAt: Date
    /// By whom.
    public let createdBy: String
    /// When it ends by itself.
    public let expiresAt: Date?
    /// When it was ended.
    public let revokedAt: Date?
    /// When it was used last, to the minute or so.
    public let lastUsedAt: Date?

    enum CodingKeys: String, CodingKey {
        case id, name, scopes, run
        case createdAt = "created_at"
        case createdBy = "created_by"
        case expiresAt = "expires_at"
        case revokedAt = "revoked_at"
        case lastUsedAt = "last_used_at"
    }

    /// `active`, `expired` or `revoked`.
    public func state(at now: Date = .now) -> String {
        if revokedAt != nil { return "revoked" }
        return (expiresAt ?? .distantFuture) <= now ? "expired" : "active"
    }
}

/// API keys in the database.
public struct KeyStore: Sendable {
    let client: PostgresClient

    /// Keys of a database whose migrations have run.
    public init(client: PostgresClient) {
        self.client = client
    }

    /// Makes a key. What it answers is shown once: only its hash is stored.
    public func create(name: String, scopes: Set<Scope>, expiresAt: Date? = nil, run: Bool = false) async throws -> APIKey {
        let key = APIKey.generate()
        try await client.query(
            "select access.create_key($1, $2, $3, $4::text[], $5::timestamptz, $6)",
            [
                .string(key.id), .string(name), .bytes(key.hash), .array(scopes.map(\.rawValue).sorted()), PostgresValue(expiresAt),
                .bool(run),
            ])
        return key
    }

    /// What became of two keys when one took the other's place.
    public struct Rotation: Sendable, Equatable {
        /// The new one, shown once.
        public let key: APIKey
        /// What both are called.
        public let name: String
        /// What both may do.
        public let scopes: Set<Scope>
        /// When the new one ends.
        public let expiresAt: Date?
        /// When the old one ends.
        public let oldExpiresAt: Date
    }

    /// Makes a key with the name and scopes of another, which goes on for `overlap` so that its users can change over.
    /// - Parameter expiresAt: the new key's end; when not given it lasts as long as the old one was made to last.
    /// - Returns: nil when there is no key with this id that is in use.
    public func rotate(_ id: String, overlap: TimeInterval, expiresAt: Date? = nil) async throws -> Rotation? {
        let key = APIKey.generate()
        return try await client.query(
            """
            select name, scopes, expires_at, old_expires_at
            from access.rotate_key($1, $2, $3, make_interval(secs => $4::double precision), $5::timestamptz)
            """, [.string(id), .string(key.id), .bytes(key.hash), .double(overlap), PostgresValue(expiresAt)]
        ).first.map { row in
            Rotation(
                key: key, name: try row["name"].string, scopes: Set(try row["scopes"].stringArray.compactMap(Scope.init)),
                expiresAt: try row["expires_at"].optionalDate, oldExpiresAt: try row["old_expires_at"].date)
        }
    }

    /// Ends a key everywhere. False when there is none with this id, or it was revoked before.
    public func revoke(_ id: String, reason: String) async throws -> Bool {
        try await client.query("select access.revoke_key($1, $2) as revoked", [.string(id), .string(reason)])[0]["revoked"].bool
    }

    /// Moves the end of a run's key.
    public func renew(_ id: String, until: Date) async throws {
        try await client.query("select access.renew_key($1, $2::timestamptz)", [.string(id), .date(until)])
    }

    /// Keys, newest first; those that can no longer be used only on demand.
    public func list(all: Bool = false) async throws -> [KeyRecord] {
        try await client.query(
            """
            select id, name, scopes, run, created_at, created_by, expires_at, revoked_at, last_used_at from access.key
            where $1 or (revoked_at is null and (expires_at is null or expires_at > clock_timestamp())) order by created_at desc, id
            """, [.bool(all)]
        ).map { row in
            KeyRecord(
                id: try row["id"].string, name: try row["name"].string,
                scopes: try row["scopes"].stringArray.compactMap(Scope.init), run: try row["run"].bool,
                createdAt: try row["created_at"].date, createdBy: try row["created_by"].string,
                expiresAt: try row["expires_at"].optionalDate, revokedAt: try row["revoked_at"].optionalDate,
                lastUsedAt: try row["last_used_at"].optionalDate)
        }
    }
}
