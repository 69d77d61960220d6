import Access
import Foundation
import Hummingbird
import Postgres
import ServiceKit

/// The audit log over HTTP, for keys with the scope `admin`.
struct AuditRoutes: Sendable {
    let client: PostgresClient

    func add(to router: ServiceRouter) {
        router.get("/v1/audit") { request, _ in
            let query = request.uri.queryParameters
            let known: Set<Substring> = ["action", "object", "limit", "cursor"]
            if let stranger = query.map(\.key).first(where: { !known.contains($0) }) {
                throw Problem.badRequest("Unknown parameter '\(stranger.prefix(80))'; known are \(known.sorted().joined(separator: ", ")).")
            }
            func text(_ name: Substring) throws -> String? {
                guard let value = query[name].map(String.init) else { return nil }
                guard !value.utf8.contains(0) else { throw Problem.badRequest("The parameter \(name) has a NUL character.") }
                return value
            }
            let limit = try text("limit").map { text in
                guard let limit = Int(text), (1...AuditLog.longestPage).contains(limit) else {
                    throw Problem.badRequest("limit is '\(text.prefix(80))'; expected a whole number from 1 to \(AuditLog.longestPage).")
                }
                return limit
            }
            let cursor = try text("cursor").map { text in
                guard let id = Int64(text), id >= 0 else { throw Problem.badRequest("cursor is not one that a page had as its next.") }
                return id
            }
            do {
                let page = try await AuditLog.list(
                    after: cursor ?? 0, limit: limit ?? 100, action: try text("action"), object: try text("object"), on: client)
                return Response.json(try documentBytes(page))
            } catch let error as PostgresError where error.isRetryable {
                throw Problem.unavailable("The database does not answer now; send the request again.")
            }
        }
    }
}
