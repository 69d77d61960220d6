import Access
import Foundation
import HTTPTypes
import Hummingbird
import NIOCore
import Postgres
import Preferences
import ServiceKit

/// Frozen data sets: listed, described, frozen anew, and read out as lines.
struct SnapshotRoutes: Sendable {
    private let client: PostgresClient
    private let changes: Changes
    private let catalog: SnapshotCatalog
    private let dimensions: DimensionRegistry
    private let configuration: IngestConfiguration

    init(client: PostgresClient, changes: Changes, configuration: IngestConfiguration) {
        self.client = client
        self.changes = changes
        catalog = SnapshotCatalog(client: client)
        dimensions = DimensionRegistry(client: client)
        self.configuration = configuration
    }

    func add(to router: ServiceRouter) {
        router.get("/v1/snapshots") { request, _ in try await answering { try await list(request) } }
        router.post("/v1/snapshots") { request, context in try await answering { try await freeze(request, context) } }
        router.get("/v1/snapshots/{id}") { _, context in
            let id = try context.parameters.require("id")
            return try await answering { .json(try documentBytes(SnapshotDocument(try await snapshot(id)))) }
        }
        for part in SnapshotCatalog.Part.allCases {
            router.get("/v1/snapshots/{id}/\(part.rawValue)") { _, context in
                let id = try context.parameters.require("id")
                return try await answering {
                    let response = try await lines(part, of: id)
                    // Before the first line goes out.
                    try await AuditLog.record("snapshot.exported", id, details: ["part": part.rawValue], by: .init(context), on: client)
                    return response
                }
            }
        }
    }

    private struct SnapshotDocument: Encodable {
        /// Nil in a dry run.
        var id: Int64?
        let digest, dimension: String
        let backbone: String?
        let held_out: Double
        let pairs, train, ratings, prompts: Int
        let job_id: Int64?
        let frozen_at: String

        init(_ snapshot: SnapshotSummary) {
            id = snapshot.id
            digest = snapshot.digest
            dimension = snapshot.dimension
            backbone = snapshot.backbone
            held_out = snapshot.heldOut
            pairs = snapshot.pairs
            train = snapshot.train
            ratings = snapshot.ratings
            prompts = snapshot.prompts
            job_id = snapshot.jobID
            frozen_at = timestampText(snapshot.frozenAt)
        }
    }

    private struct ListDocument: Encodable {
        let page: SnapshotPage

        enum Keys: CodingKey { case items, next }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: Keys.self)
            try container.encode(page.items.map(SnapshotDocument.init), forKey: .items)
            try container.encode(page.next, forKey: .next)
        }
    }

    private func list(_ request: Request) async throws -> Response {
        let query = try Query(request, known: ["dimension", "limit", "cursor"])
        let limit = try query.integer("limit", in: 1...PreferenceStore.maximumPage)
        do {
            let page = try await catalog.list(dimension: query["dimension"], limit: limit ?? 100, cursor: query["cursor"])
            return .json(try documentBytes(ListDocument(page: page)))
        } catch PreferencesError.cursor {
            throw Problem.badRequest("cursor is not one that a page had as its next.")
        }
    }

    private func freeze(_ request: Request, _ context: ServiceContext) async throws -> Response {
        let (change, read) = try await Changes.Request.json(request, context, upTo: configuration.bodyLimit)
        var fields = read
        let dimension = fields.text("dimension", limit: PairDecoder.dimensionLimit)
        if let dimension {
            let known = try await dimensions.list().map(\.name)
            if !known.contains(dimension) {
                fields.add(
                    "/dimension",
                    "is not a known dimension: \(FieldReader.shown(dimension)); known are \(known.prefix(30).joined(separator: ", "))")
            }
        }
        let backbone = fields["backbone"] == nil ? nil : fields.name("backbone", limit: 200)
        let heldOut = fields.number("held_out", in: 0.01...0.9)
        fields.unknown(besides: ["dimension", "backbone", "held_out"])
        guard fields.errors.isEmpty, let dimension else { throw Problem.invalid(fields.errors) }
        return try await changes.carryOut(change) { connection in
            let snapshot = try await catalog.freeze(
                dimension: dimension, backbone: backbone, heldOut: heldOut ?? 0.25, on: connection)
            var document = SnapshotDocument(snapshot)
            guard !change.isTrial else {
                document.id = nil
                return .json(try documentBytes(document, isTrial: true))
            }
            try await AuditLog.record(
                "snapshot.frozen", "\(snapshot.id)", details: ["dimension": dimension, "digest": snapshot.digest], by: .init(context),
                on: connection)
            return .json(try documentBytes(document), status: .created, headers: [.location: "/v1/snapshots/\(snapshot.id)"])
        }
    }

    private func snapshot(_ id: String) async throws -> SnapshotSummary {
        guard let number = Int64(id), let snapshot = try await catalog.get(number) else {
            throw Problem.notFound("There is no snapshot '\(id.prefix(80))'.")
        }
        return snapshot
    }

    /// The lines go out as they are read: however many there are, a thousand are in memory. A connection that breaks off in the middle ends
    /// without the last chunk, so that a client can tell.
    private func lines(_ part: SnapshotCatalog.Part, of id: String) async throws -> Response {
        let snapshot = try await snapshot(id)
        let catalog = catalog
        let body = ResponseBody { writer in
            var writer = writer
            try await catalog.export(snapshot.id, part) { try await writer.write(ByteBuffer(string: $0)) }
            try await writer.finish(nil)
        }
        var headers: HTTPFields = [.contentType: "application/x-ndjson"]
        // What is frozen never changes, so that a copy is as good as the original.
        headers[.eTag] = "\"\(snapshot.digest)-\(part.rawValue)\""
        return Response(status: .ok, headers: headers, body: body)
    }
}
