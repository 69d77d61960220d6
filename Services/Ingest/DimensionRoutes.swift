import Access
import Hummingbird
import Preferences
import ServiceKit

/// What can be judged, listed and added to.
struct DimensionRoutes: Sendable {
    private static let descriptionLimit = 2000

    let registry: DimensionRegistry
    let reader: LabelReader
    let changes: Changes
    let configuration: IngestConfiguration

    func add(to router: ServiceRouter) {
        router.get("/v1/dimensions") { _, _ in
            try await answering {
                let items = try await registry.list().map(Document.init)
                return .json(try documentBytes(["items": items]))
            }
        }
        router.put("/v1/dimensions/{name}") { request, context in
            let name = try context.parameters.require("name")
            return try await answering { try await define(name, request, context) }
        }
    }

    private struct Document: Encodable {
        let name: String
        let description: String
        let created_at: String

        init(_ dimension: JudgedDimension) {
            name = dimension.name
            description = dimension.description
            created_at = timestampText(dimension.createdAt)
        }
    }

    /// 201 when it is new, 200 when it was known; the description is then the new one.
    private func define(_ name: String, _ request: Request, _ context: ServiceContext) async throws -> Response {
        let (change, read) = try await Changes.Request.json(request, context, upTo: configuration.bodyLimit)
        var fields = read
        let description = fields.text("description", limit: Self.descriptionLimit)
        fields.unknown(besides: ["description"])
        guard let description, fields.errors.isEmpty else { throw Problem.invalid(fields.errors) }
        guard DimensionRegistry.isName(name) else {
            throw Problem.badRequest(
                "'\(name.prefix(80))' cannot be a dimension's name: up to \(DimensionRegistry.nameLimit) letters, digits, '_', '.' and '-'."
            )
        }
        defer { reader.forget() }
        return try await changes.carryOut(change) { connection in
            let isNew = try await registry.define(name, description: description, on: connection)
            try await AuditLog.record("dimension.defined", name, by: .init(context), on: connection)
            guard let known = try await registry.list(on: connection).first(where: { $0.name == name }) else {
                throw Problem.unavailable("The dimension was taken away at the same moment.")
            }
            return .json(
                try documentBytes(Document(known), isTrial: change.isTrial), status: isNew && !change.isTrial ? .created : .ok)
        }
    }
}
