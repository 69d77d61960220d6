import Foundation
public import Postgres
public import ServiceKit

/// The append-only log of what was done and by whom, `access.audit`.
public enum AuditLog {
    /// Who did something, over which request.
    public struct Actor: Sendable {
        let actor: String
        let requestID: String
        let ip: String

        init(actor: String, requestID: String, ip: String) {
            self.actor = actor
            self.requestID = requestID
            self.ip = ip
        }

        /// The sender of a request.
        public init(_ context: ServiceContext) {
            self.init(actor: context.caller.actor, requestID: context.requestID, ip: context.remoteAddress ?? "")
        }
    }

    /// Names the actor for the rest of the connection's transaction: whatever calls `access.record` in it, SQL functions included, names it too.
    public static func act(as actor: Actor, on connection: PostgresConnection) async throws {
        try await connection.query(
            "select set_config('foretaste.actor', $1, true), set_config('foretaste.request_id', $2, true), set_config('foretaste.ip', $3, true)",
            [.string(actor.actor), .string(actor.requestID), .string(actor.ip)])
    }

    /// Adds a row as part of the connection's transaction.
    public static func record(
        _ action: String, _ object: String, details: [String: String] = [:], by actor: Actor, on connection: PostgresConnection
    ) async throws {
        try await act(as: actor, on: connection)
        try await connection.query(
            "select access.record($1, $2, $3::jsonb)", [.string(action), .string(object), try .json(encoding: details)])
    }

    /// Adds a row in a transaction of its own.
    public static func record(
        _ action: String, _ object: String, details: [String: String] = [:], by actor: Actor, on client: PostgresClient
    ) async throws {
        try await client.transaction { try await record(action, object, details: details, by: actor, on: $0) }
    }
}

extension AuditLog {
    /// The longest page of a listing.
    public static let longestPage = 1000

    /// A row of the log.
    public struct Entry: Sendable, Encodable {
        let id: String
        let at: Date
        let actor, action, object: String
        let requestID, ip: String?
        let details: [String: String]

        enum CodingKeys: String, CodingKey {
            case id, at, actor, action, object, ip, details
            case requestID = "request_id"
        }

        /// Null is said, not left out.
        public func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(id, forKey: .id)
            try container.encode(at.formatted(.iso8601.year().month().day().time(includingFractionalSeconds: true)) + "Z", forKey: .at)
            try container.encode(actor, forKey: .actor)
            try container.encode(action, forKey: .action)
            try container.encode(object, forKey: .object)
            try container.encode(requestID, forKey: .requestID)
            try container.encode(ip, forKey: .ip)
            try container.encode(details, forKey: .details)
        }
    }

    /// Rows, oldest first, and the cursor of the next page.
    public struct Page: Sendable, Encodable {
        let items: [Entry]
        let next: String?

        enum CodingKeys: String, CodingKey { case items, next }

        /// Null is said, not left out.
        public func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(items, forKey: .items)
            try container.encode(next, forKey: .next)
        }
    }

    /// A page of the log, oldest first.
    public static func list(after: Int64, limit: Int, action: String?, object: String?, on client: PostgresClient) async throws -> Page {
        let rows = try await client.query(
            """
            select id, at, actor, action, object, request_id, host(ip) as ip,
                   (select coalesce(jsonb_object_agg(d.key, d.value), '{}') from jsonb_each_text(details) d where d.value is not null)::text as details
            from access.list_audit($1, $2, $3, $4) order by id
            """, [.int(after), .int(limit + 1), PostgresValue(action), PostgresValue(object)])
        let items = try rows.prefix(limit).map { row in
            Entry(
                id: try row["id"].string, at: try row["at"].date, actor: try row["actor"].string, action: try row["action"].string,
                object: try row["object"].string, requestID: try row["request_id"].optionalString, ip: try row["ip"].optionalString,
                details: try row["details"].decode([String: String].self))
        }
        return Page(items: items, next: rows.count > limit ? items.last?.id : nil)
    }
}
