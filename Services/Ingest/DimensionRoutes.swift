import Foundation
import Hummingbird
import NIOCore
import Preferences
import Safetensors
import ServiceKit

/// What can be judged, listed and added to.
struct DimensionRoutes: Sendable {
    private static let descriptionLimit = 2000

    let registry: DimensionRegistry
    let reader: LabelReader
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
            return try await answering { try await define(name, request) }
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
    private func define(_ name: String, _ request: Request) async throws -> Response {
        try request.requireMediaType("application/json")
        let body = try await request.body(upTo: configuration.bodyLimit)
        var fields = try FieldReader(body)
        let description = fields.text("description", limit: Self.descriptionLimit)
        fields.unknown(besides: ["description"])
        guard let description, fields.errors.isEmpty else { throw Problem.invalid(fields.errors) }
        guard DimensionRegistry.isName(name) else {
            throw Problem.badRequest(
                "'\(name.prefix(80))' cannot be a dimension's name: up to \(DimensionRegistry.nameLimit) letters, digits, '_', '.' and '-'."
            )
        }
        let isNew = try await registry.define(name, description: description)
        reader.forget()
        let known = try await registry.list().first { $0.name == name }
        guard let known else { throw Problem.unavailable("The dimension was taken away at the same moment.") }
        return .json(try documentBytes(Document(known)), status: isNew ? .created : .ok)
    }
}
