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
            let query = try Query(request, known: ["action", "object", "limit", "cursor"])
            let limit = try query.integer("limit", in: 1...AuditLog.longestPage)
            let cursor = try query["cursor"].map { text in
                guard let id = Int64(text), id >= 0 else { throw Problem.badRequest("cursor is not one that a page had as its next.") }
                return id
            }
            return try await answering {
                let page = try await AuditLog.list(
                    after: cursor ?? 0, limit: limit ?? 100, action: query["action"], object: query["object"], on: client)
                return .json(try documentBytes(page))
            }
        }
    }
}
