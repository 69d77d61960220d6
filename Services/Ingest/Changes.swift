import Access
import Foundation
import Hummingbird
import NIOCore
import Postgres
import ServiceKit

/// What all requests that change something have in common: one transaction, whole or not at all; the same answer again to the same request
/// with the same `Idempotency-Key`; everything but the effect in a dry run.
struct Changes: Sendable {
    /// The parameter that asks for a dry run.
    static let dryRun = "dry_run"

    private let client: PostgresClient
    private let answers: IdempotentAnswers

    init(client: PostgresClient) {
        self.client = client
        answers = IdempotentAnswers(client: client)
    }

    /// A request that would change something, with its whole body.
    struct Request: Sendable {
        let request: Hummingbird.Request
        let context: ServiceContext
        let content: ByteBuffer
        /// Whether the client only wants to know what would become of it.
        let isTrial: Bool
        /// What makes it once only. A dry run has no effect that could be repeated.
        let key: String?

        /// - Throws: 400 for a key or a query that cannot be used.
        init(_ request: Hummingbird.Request, _ context: ServiceContext, query: Query, content: ByteBuffer = ByteBuffer()) throws {
            self.request = request
            self.context = context
            self.content = content
            isTrial = try query.flag(Changes.dryRun)
            let sent = try IdempotentAnswers.key(of: request)
            key = isTrial ? nil : sent
        }

        /// A request whose body is one small JSON object, packed or not, and that takes no other parameter.
        /// - Throws: 400, 413, 415, and 422 for what is no JSON object.
        static func json(
            _ request: Hummingbird.Request, _ context: ServiceContext, upTo limit: Int
        ) async throws -> (request: Request, fields: FieldReader) {
            let query = try Query(request, known: [Changes.dryRun])
            try request.requireMediaType("application/json")
            let content = try await request.body(upTo: limit, gzip: true)
            return (try Request(request, context, query: query, content: content), try FieldReader(content))
        }
    }

    /// An answer whose transaction must leave nothing behind.
    struct RolledBack: Error {
        let response: Response
    }

    /// Runs `work` in one transaction: kept with its answer under the client's key, or rolled back after a dry run.
    func carryOut(_ request: Request, _ work: (PostgresConnection) async throws -> Response) async throws -> Response {
        do {
            if let key = request.key {
                return try await answers.answer(
                    key: key, request: request.request, content: request.content, context: request.context, work)
            }
            return try await client.transaction { connection in
                let response = try await work(connection)
                if request.isTrial { throw RolledBack(response: response) }
                return response
            }
        } catch let rolledBack as RolledBack {
            return rolledBack.response
        }
    }
}

/// A document of a dry run: what would have been answered, and that it did not happen.
struct TrialDocument<Document: Encodable>: Encodable {
    let document: Document

    private enum Keys: String, CodingKey { case dryRun = "dry_run" }

    func encode(to encoder: any Encoder) throws {
        try document.encode(to: encoder)
        var container = encoder.container(keyedBy: Keys.self)
        try container.encode(true, forKey: .dryRun)
    }
}

/// JSON as it goes out, marked where it is that of a dry run.
func documentBytes(_ document: some Encodable, isTrial: Bool) throws -> Data {
    isTrial ? try documentBytes(TrialDocument(document: document)) : try documentBytes(document)
}
