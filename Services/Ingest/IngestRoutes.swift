import Foundation
import HTTPTypes
import Hummingbird
import NIOCore
import Postgres
import Preferences
import ServiceKit

/// The HTTP side of ingest: pairs in, pairs out.
struct IngestRoutes: Sendable {
    let store: PreferenceStore
    let configuration: IngestConfiguration
    private let reader: LabelReader

    init(store: PreferenceStore, configuration: IngestConfiguration, reader: LabelReader) {
        self.store = store
        self.configuration = configuration
        self.reader = reader
    }

    func add(to router: ServiceRouter) {
        router.post("/v1/preferences") { request, _ in try await answering { try await post(request) } }
        router.get("/v1/preferences") { request, _ in try await answering { try await list(request) } }
        router.get("/v1/preferences/summary") { _, _ in
            try await answering { .json(try documentBytes(try await store.summary())) }
        }
        router.get("/v1/preferences/{id}") { _, context in
            let id = try context.parameters.require("id")
            return try await answering { try await get(id) }
        }
        router.get("/openapi.json") { _, _ in Response.json(OpenAPI.document.utf8) }
    }

    private func post(_ request: Request) async throws -> Response {
        let type = try request.requireMediaType("application/json", "application/x-ndjson")
        if let encoding = request.headers[.contentEncoding], encoding.lowercased() != "identity" {
            throw Problem(.unsupportedMediaType, "The body is compressed with '\(encoding.prefix(40))'; send it as it is.")
        }
        if type == "application/json" { return try await postOne(try await request.body(upTo: configuration.bodyLimit)) }
        return try await postBulk(try await request.body(upTo: configuration.bulkLimit))
    }

    private func postOne(_ body: ByteBuffer) async throws -> Response {
        let label: NewLabel
        switch try await reader.decode(body.readableBytesView) {
        case .errors(let errors): throw Problem.invalid(errors)
        case .label(let decoded): label = decoded
        }
        switch try await store.post([label])[0] {
        case .created(let id):
            return .json(
                try documentBytes(PostedDocument(id: id, state: .received)), status: .created, headers: [.location: "/v1/preferences/\(id)"]
            )
        case .replayed(let id, let state):
            return .json(try documentBytes(PostedDocument(id: id, state: state)))
        case .conflict(let id, let pointers):
            throw Problem(
                .conflict, "source and external_id name \(named(id)), which was posted with another content. Was the key used twice?",
                errors: conflictErrors(pointers, id: id))
        }
    }

    /// A line that is refused never keeps another from being stored. Each chunk is one transaction; posting the whole again after a
    /// connection broke in between is safe, because what was stored is a replay.
    private func postBulk(_ body: ByteBuffer) async throws -> Response {
        var answer = BulkDocument()
        var chunk: [(line: Int, label: NewLabel)] = []
        let began = ContinuousClock.now
        var refused: [BulkDocument.Line] = []

        func flush() async throws {
            let results = try await store.post(chunk.map(\.label))
            let posted = zip(chunk, results).map { entry, result in
                switch result {
                case .created(let id): BulkDocument.Line(line: entry.line, status: 201, id: id)
                case .replayed(let id, _): BulkDocument.Line(line: entry.line, status: 200, id: id)
                case .conflict(let id, let pointers):
                    BulkDocument.Line(line: entry.line, status: 409, id: id, errors: conflictErrors(pointers, id: id))
                }
            }
            for line in (posted + refused).sorted(by: { $0.line < $1.line }) { answer.add(line) }
            chunk.removeAll(keepingCapacity: true)
            refused.removeAll(keepingCapacity: true)
        }

        var number = 0
        for line in body.readableBytesView.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
            number += 1
            if line.allSatisfy({ $0 == 0x20 || $0 == 0x09 || $0 == 0x0d }) { continue }
            switch try await reader.decode(line, request: began) {
            case .label(let label): chunk.append((number, label))
            case .errors(let errors): refused.append(.init(line: number, status: 422, errors: errors))
            }
            if chunk.count >= configuration.chunk { try await flush() }
            // Timers of this process wait while a long body is decoded.
            if number % 256 == 0 { await Task.yield() }
        }
        try await flush()
        guard !answer.results.isEmpty else {
            throw Problem.invalid([.init(pointer: "", detail: "has no line; expected one JSON object a line")])
        }
        return .json(try documentBytes(answer), status: .init(code: answer.status))
    }

    private func get(_ id: String) async throws -> Response {
        guard let document = try await LabelDocument.load(id, from: store) else { throw LabelDocument.notFound(id) }
        return .json(document)
    }

    private func list(_ request: Request) async throws -> Response {
        let query = request.uri.queryParameters
        let known: Set<Substring> = ["state", "dimension", "source", "limit", "cursor"]
        if let stranger = query.map(\.key).first(where: { !known.contains($0) }) {
            throw Problem.badRequest("Unknown parameter '\(stranger.prefix(80))'; known are \(known.sorted().joined(separator: ", ")).")
        }
        func value(_ name: String) throws -> String? {
            guard let text = query[name[...]].map(String.init) else { return nil }
            guard !text.utf8.contains(0) else { throw Problem.badRequest("The parameter \(name) has a NUL character.") }
            return text
        }
        let state = try value("state").map { text in
            guard let state = PairState(rawValue: text) else {
                throw Problem.badRequest("state is '\(text.prefix(80))'; expected received, usable or quarantined.")
            }
            return state
        }
        let limit = try value("limit").map { text in
            guard let limit = Int(text), (1...PreferenceStore.maximumPage).contains(limit) else {
                throw Problem.badRequest("limit is '\(text.prefix(80))'; expected a whole number from 1 to \(PreferenceStore.maximumPage).")
            }
            return limit
        }
        do {
            let page = try await store.list(
                state: state, dimension: try value("dimension"), source: try value("source"), limit: limit ?? 100,
                cursor: try value("cursor"))
            return .json(try documentBytes(PageDocument(page: page)))
        } catch PreferencesError.cursor {
            throw Problem.badRequest("cursor is not one that a page had as its next.")
        }
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
