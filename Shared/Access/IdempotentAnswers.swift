import Foundation
import HTTPTypes
public import Hummingbird
public import NIOCore
public import Postgres
public import ServiceKit

extension HTTPField.Name {
    static let idempotencyKey = Self("Idempotency-Key")!
    static let idempotencyReplayed = Self("Idempotency-Replayed")!
}

/// The promise of an `Idempotency-Key`: the request is carried out once, and sent again it gets the same answer. The answer is kept by the
/// transaction of the request's effects, so that there is never one without the other.
///
/// Only answers below 400 are kept. A request that was refused changed nothing, and its key is free for the corrected one.
public struct IdempotentAnswers: Sendable {
    /// The longest answer that is kept.
    static let longestAnswer = 8 << 20

    let client: PostgresClient

    /// Answers kept in the client's database.
    public init(client: PostgresClient) {
        self.client = client
    }

    /// The request's key; nil without one, 400 for one that cannot be used.
    public static func key(of request: Request) throws -> String? {
        let fields = request.headers[values: .idempotencyKey]
        guard let field = fields.first else { return nil }
        var key = field[...]
        // The draft writes it as a structured string, most clients do not.
        if key.count >= 2, key.hasPrefix("\""), key.hasSuffix("\"") { key = key.dropFirst().dropLast() }
        guard fields.count == 1, (1...255).contains(key.utf8.count), key.utf8.allSatisfy({ (0x21...0x7e).contains($0) }) else {
            throw Problem.badRequest("Idempotency-Key must be one text of 1 to 255 visible ASCII characters.")
        }
        return String(key)
    }

    /// Runs `body` in a transaction and keeps its answer under the request's key, or answers what was kept. Whatever `body` throws rolls back,
    /// and so does an answer of 400 and above.
    public func answer(
        key: String, request: Request, content: ByteBuffer, context: ServiceContext, _ body: (PostgresConnection) async throws -> Response
    ) async throws -> Response {
        let owner = context.caller.key ?? ""
        let digest = SHA256.digest(
            "\(request.method.rawValue) \(request.uri.string) \(request.mediaType ?? "")\n".utf8, content.readableBytesView)
        struct Refused: Error { let response: Response }
        do {
            return try await client.transaction { connection in
                let begun = try await connection.query(
                    "select verdict, status, headers::text, body from access.begin_request($1, $2, $3)",
                    [.string(owner), .string(key), .bytes(digest)])[0]
                switch try begun["verdict"].string {
                case "busy":
                    throw Problem(
                        .conflict, "Another request with this Idempotency-Key is being worked on.", kind: .keyInUse,
                        headers: [.retryAfter: "1"])
                case "mismatch":
                    throw Problem(
                        .unprocessableContent, "This Idempotency-Key came with another request before; a key belongs to one request.",
                        title: "The Idempotency-Key was used before", kind: .keyReused)
                case "replay":
                    var headers = HTTPFields()
                    for (name, value) in try begun["headers"].decode([String: String].self) {
                        if let name = HTTPField.Name(name) { headers[name] = value }
                    }
                    headers[.idempotencyReplayed] = "true"
                    let bytes = try begun["body"].bytes
                    return Response(
                        status: .init(code: try begun["status"].int), headers: headers, body: .init(byteBuffer: ByteBuffer(bytes: bytes)))
                default: break
                }
                let response = try await body(connection)
                guard response.status.code < 400 else { throw Refused(response: response) }
                let bytes = try await Self.bytes(of: response)
                guard bytes.readableBytes <= Self.longestAnswer else {
                    throw Problem(
                        .contentTooLarge,
                        "The answer would be longer than the \(Self.longestAnswer) bytes that are kept for an Idempotency-Key. Send the body in parts, or without the key: source and external_id make a repeat safe as well."
                    )
                }
                var headers: [String: String] = [:]
                for field in response.headers { headers[field.name.canonicalName] = field.value }
                try await connection.query(
                    "select access.keep_answer($1, $2, $3, $4, $5::jsonb, $6)",
                    [
                        .string(owner), .string(key), .bytes(digest), .int(response.status.code), try .json(encoding: headers),
                        .bytes([UInt8](bytes.readableBytesView)),
                    ])
                return Response(status: response.status, headers: response.headers, body: .init(byteBuffer: bytes))
            }
        } catch let refused as Refused {
            return refused.response
        }
    }

    private static func bytes(of response: Response) async throws -> ByteBuffer {
        let collector = Collector()
        try await response.body.write(collector)
        return collector.buffer
    }

    /// Keeps what a response writes.
    private final class Collector: ResponseBodyWriter {
        var buffer = ByteBuffer()
        func write(_ part: ByteBuffer) async throws { buffer.writeImmutableBuffer(part) }
        func finish(_ trailingHeaders: HTTPFields?) async throws {}
    }
}
