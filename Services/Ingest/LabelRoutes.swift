import Access
import Hummingbird
import NIOCore
import Postgres
import Preferences
import Safetensors
import ServiceKit

/// Labels that change: corrections, retractions, and what was said before.
struct LabelRoutes: Sendable {
    /// Limits in bytes of UTF-8.
    static let reasonLimit = 2000
    static let actorLimit = 200

    let store: PreferenceStore
    let changes: Changes
    let configuration: IngestConfiguration

    func add(to router: ServiceRouter) {
        router.delete("/v1/preferences/{id}") { request, context in
            let id = try context.parameters.require("id")
            return try await answering { try await retract(id, request, context) }
        }
        router.post("/v1/preferences/{id}/corrections") { request, context in
            let id = try context.parameters.require("id")
            return try await answering { try await correct(id, request, context) }
        }
        router.get("/v1/preferences/{id}/history") { _, context in
            let id = try context.parameters.require("id")
            return try await answering { try await history(id) }
        }
    }

    /// Why, and who, are query parameters: many clients and proxies drop the body of a DELETE.
    private func retract(_ id: String, _ request: Request, _ context: ServiceContext) async throws -> Response {
        let query = try Query(request, known: ["reason", "by", Changes.dryRun])
        guard let reason = query["reason"], !reason.isEmpty else {
            throw Problem.badRequest("The parameter reason is required: DELETE …?reason=misread%20the%20guideline&by=ada")
        }
        guard reason.utf8.count <= Self.reasonLimit, (query["by"] ?? "").utf8.count <= Self.actorLimit else {
            throw Problem.badRequest("reason takes at most \(Self.reasonLimit) bytes, by at most \(Self.actorLimit).")
        }
        let change = try Changes.Request(request, context, query: query)
        return try await changing(id, change) {
            try await store.setRetracted(id, true, actor: query["by"] ?? context.caller.actor, reason: reason, on: $0)
        }
    }

    private func correct(_ id: String, _ request: Request, _ context: ServiceContext) async throws -> Response {
        let (change, read) = try await Changes.Request.json(request, context, upTo: configuration.bodyLimit)
        var fields = read
        let reason = fields.text("reason", limit: Self.reasonLimit)
        let actor = fields["by"] == nil ? context.caller.actor : fields.name("by", limit: Self.actorLimit)
        if fields["retracted"] != nil { return try await restore(id, change, &fields, actor, reason) }
        if id.hasPrefix("ranking_") {
            throw Problem.conflict(
                "A ranking is corrected as a whole: retract it (DELETE) and post the right one under another external_id; or correct one of its pairs."
            )
        }
        if id.hasPrefix("rating_") {
            guard let stored = try await known(id, { try await store.rating(id) }) else { throw LabelDocument.notFound(id) }
            let scale = stored.rating.scale
            if fields["rating"] == nil { fields.add("/rating", "is required") }
            let value: Double?
            if case .string(let word)? = fields["rating"], scale == .goodBad, ["good", "bad"].contains(word) {
                value = word == "good" ? 1 : 0
            } else {
                value = fields.number("rating", in: scale.min...scale.max)
            }
            fields.unknown(besides: ["rating", "reason", "by"])
            guard fields.errors.isEmpty, let value, let reason, let actor else { throw Problem.invalid(fields.errors) }
            return try await changing(id, change) { try await store.correct(id, toRating: value, actor: actor, reason: reason, on: $0) }
        }
        let label = LabelFields.decode(&fields)
        fields.unknown(besides: LabelFields.names + ["reason", "by"])
        guard fields.errors.isEmpty, let label, let reason, let actor else { throw Problem.invalid(fields.errors) }
        return try await changing(id, change) { try await store.correct(id, to: label, actor: actor, reason: reason, on: $0) }
    }

    /// `{"retracted":false,"reason":"…"}`: a retraction was the mistake.
    private func restore(
        _ id: String, _ change: Changes.Request, _ fields: inout FieldReader, _ actor: String?, _ reason: String?
    ) async throws -> Response {
        if fields["retracted"] != .bool(false) { fields.add("/retracted", "expected false, which restores; DELETE retracts") }
        fields.unknown(besides: ["retracted", "reason", "by"])
        guard fields.errors.isEmpty, let reason, let actor else { throw Problem.invalid(fields.errors) }
        return try await changing(id, change) { try await store.setRetracted(id, false, actor: actor, reason: reason, on: $0) }
    }

    private func history(_ id: String) async throws -> Response {
        let revisions = try await known(id) { try await store.history(id) }
        guard let revisions, !revisions.isEmpty else {
            if id.hasPrefix("ranking_"), try await known(id, { try await store.ranking(id) }) != nil {
                throw Problem.notFound("A ranking has no history of its own; its pairs have, and GET /v1/preferences/\(id) names them.")
            }
            throw LabelDocument.notFound(id)
        }
        return .json(try documentBytes(HistoryDocument(id: id, revisions: revisions)))
    }

    /// PostgreSQL's texts have no NUL; an id with one is nobody's.
    private func known<Value>(_ id: String, _ body: () async throws -> Value?) async throws -> Value? {
        id.utf8.contains(0) ? nil : try await body()
    }

    /// Answers the label as it is after a change.
    private func changing(
        _ id: String, _ request: Changes.Request, _ change: (PostgresConnection) async throws -> Int
    ) async throws -> Response {
        try await changes.carryOut(request) { connection in
            do {
                guard !id.utf8.contains(0) else { throw LabelChangeError.notFound }
                try await AuditLog.act(as: .init(request.context), on: connection)
                _ = try await change(connection)
            } catch LabelChangeError.notFound {
                throw LabelDocument.notFound(id)
            } catch LabelChangeError.retracted {
                throw Problem.conflict("\(id) is retracted. Restore it first, with {\"retracted\":false,\"reason\":\"…\"}.")
            }
            guard let document = try await LabelDocument.load(id, from: store, on: connection, isTrial: request.isTrial) else {
                throw LabelDocument.notFound(id)
            }
            return .json(document)
        }
    }
}
