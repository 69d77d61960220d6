import Access
import Foundation
import HTTPTypes
import Hummingbird
import NIOCore
import Postgres
import Preferences
import ServiceKit

/// The HTTP side of ingest: pairs in, pairs out.
struct IngestRoutes: Sendable {
    let client: PostgresClient
    let store: PreferenceStore
    let configuration: IngestConfiguration
    private let changes: Changes
    private let reader: LabelReader
    private let memory: BodyMemory

    init(client: PostgresClient, changes: Changes, configuration: IngestConfiguration, reader: LabelReader) {
        self.client = client
        self.changes = changes
        self.reader = reader
        self.configuration = configuration
        store = PreferenceStore(client: client)
        memory = BodyMemory(limit: configuration.bodyMemory)
    }

    func add(to router: ServiceRouter) {
        router.post("/v1/preferences") { request, context in try await answering { try await post(request, context) } }
        router.get("/v1/preferences") { request, _ in try await answering { try await list(request) } }
        router.get("/v1/preferences/summary") { _, _ in
            try await answering {
                let (pairs, ratings) = (try await store.summary(), try await store.ratingSummary())
                return .json(try documentBytes(SummaryDocument(pairs: pairs, ratings: ratings)))
            }
        }
        router.get("/v1/preferences/{id}") { _, context in
            let id = try context.parameters.require("id")
            return try await answering { try await get(id) }
        }
        router.get("/openapi.json") { _, _ in Response.json(OpenAPI.document.utf8) }
    }

    private func post(_ request: Request, _ context: ServiceContext) async throws -> Response {
        let type = try request.requireMediaType("application/json", "application/x-ndjson")
        let query = try Query(request, known: PostOptions.known)
        let options = try PostOptions(query)
        let isKeyed = try IdempotentAnswers.key(of: request) != nil
        let share = memory.share()
        defer { share.giveBack() }
        if type == "application/json" {
            let body = try await request.body(upTo: configuration.bodyLimit, gzip: true, admit: share.take)
            let label: NewLabel
            switch try await reader.decode(body.readableBytesView) {
            case .errors(let errors): throw Problem.invalid(errors)
            case .label(let decoded): label = decoded
            }
            guard options.dryRun || isKeyed else { return try Self.answer(try await store.post([label])[0], dryRun: false) }
            return try await changes.carryOut(Changes.Request(request, context, query: query, content: body)) { connection in
                try Self.answer(try await store.post([label], on: connection)[0], dryRun: options.dryRun)
            }
        }
        guard options.atomic || options.dryRun || isKeyed else { return try await postLines(of: request, options, share) }
        let body = try await request.body(upTo: configuration.bulkLimit, gzip: true, admit: share.take)
        var post = bulk(options, share)
        try await post.add(body)
        try await post.end()
        return try await changes.carryOut(Changes.Request(request, context, query: query, content: body)) { connection in
            let document = try await post.finish { try await store.post($0, on: connection) }
            let response = Response.json(try document.json(), status: .init(code: document.status))
            if document.isRefusedWhole { throw Changes.RolledBack(response: response) }
            return response
        }
    }

    /// Lines are stored as they arrive: what is held does not grow with the body.
    private func postLines(of request: Request, _ options: PostOptions, _ share: BodyMemory.Share) async throws -> Response {
        let store = store
        var post = bulk(options, share) { try await store.post($0) }
        do {
            try await request.read(upTo: configuration.bulkLimit, gzip: true) { try await post.add($0) }
        } catch {
            let settled = await post.abandon()
            guard settled > 0, var problem = error as? Problem else { throw error }
            problem.document.detail =
                "\(problem.document.detail ?? "") Its first \(settled) lines have been dealt with; sending them again is safe."
            throw problem
        }
        let document = try await post.finish()
        return .json(try document.json(), status: .init(code: document.status))
    }

    private func bulk(_ options: PostOptions, _ share: BodyMemory.Share, _ store: BulkPost.Store? = nil) -> BulkPost {
        BulkPost(reader: reader, limit: configuration.chunk, share: share, options: options, store: store)
    }

    private static func answer(_ result: PostResult, dryRun: Bool) throws -> Response {
        switch result {
        case .created where dryRun:
            return .json(try documentBytes(PostedDocument(id: nil, state: .received, dryRun: true)))
        case .created(let id):
            return .json(
                try documentBytes(PostedDocument(id: id, state: .received)), status: .created, headers: [.location: "/v1/preferences/\(id)"]
            )
        case .replayed(let id, let state):
            return .json(try documentBytes(PostedDocument(id: id, state: state, dryRun: dryRun ? true : nil)))
        case .conflict(let id, let pointers):
            throw Problem(
                .conflict, "source and external_id name \(named(id)), which was posted with another content. Was the key used twice?",
                errors: conflictErrors(pointers, id: id))
        }
    }

    private func get(_ id: String) async throws -> Response {
        guard let document = try await LabelDocument.load(id, from: store) else { throw LabelDocument.notFound(id) }
        return .json(document)
    }

    private func list(_ request: Request) async throws -> Response {
        let query = try Query(request, known: ["type", "state", "dimension", "source", "limit", "cursor"])
        let filter = LabelFilter(
            state: try query.word("state", PairState.self), dimension: query["dimension"], source: query["source"])
        let limit = try query.integer("limit", in: 1...PreferenceStore.maximumPage) ?? 100
        do {
            switch try query.word("type", ListedType.self) ?? .pair {
            case .pair:
                let page = try await store.list(
                    state: filter.state, dimension: filter.dimension, source: filter.source, limit: limit, cursor: query["cursor"])
                return .json(try documentBytes(PageDocument(page: page, PairDocument.init)))
            case .rating:
                let page = try await store.ratings(filter, limit: limit, cursor: query["cursor"])
                return .json(try documentBytes(PageDocument(page: page, RatingDocument.init)))
            }
        } catch PreferencesError.cursor {
            throw Problem.badRequest("cursor is not one that a page of these labels had as its next.")
        }
    }

    /// What can be listed. Rankings are listed as their pairs.
    private enum ListedType: String, CaseIterable {
        case pair, rating
    }
}

/// A database that is away for a moment is the client's to wait for, not an internal error.
func answering(_ body: () async throws -> Response) async throws -> Response {
    do {
        return try await body()
    } catch let error as PostgresError where error.isRetryable {
        throw Problem.unavailable("The database does not answer now; nothing was lost, send the request again.")
    }
}
