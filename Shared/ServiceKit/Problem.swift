import Foundation
public import HTTPTypes
public import Hummingbird
import Logging
import NIOCore

/// The body of an error answer, RFC 9457 (`application/problem+json`).
public struct ProblemDocument: Codable, Sendable, Equatable {
    /// One thing that is wrong with a request's body.
    public struct FieldError: Codable, Sendable, Equatable {
        /// Where: an RFC 6901 JSON Pointer such as `/a/sha256`; empty for the whole document.
        public let pointer: String
        /// What was expected and what was found.
        public let detail: String

        /// An error at a place. Queries of URLs, which may hold signatures, are taken out of the detail.
        public init(pointer: String, detail: String) {
            self.pointer = pointer
            self.detail = Redaction.redact(detail)
        }
    }

    /// A reference that names the kind of problem and leads to its explanation, relative to the service (see ``ProblemKind``).
    public var type: String
    /// The kind of problem in a few words.
    public var title: String
    /// The HTTP status.
    public var status: Int
    /// This occurrence, with the likely cause.
    public var detail: String?
    /// The request's path.
    public var instance: String?
    /// The request's id, as in the answer's `X-Request-Id` and in the log.
    public var requestID: String?
    /// What is wrong, place by place; left out when empty.
    public var errors: [FieldError]?

    enum CodingKeys: String, CodingKey {
        case type, title, status, detail, instance, errors
        case requestID = "request_id"
    }

    /// The document as JSON, keys in alphabetical order.
    public func json() -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        // Strings and integers always encode.
        return Array(try! encoder.encode(self))
    }
}

/// An error that a client caused or has to know about. A handler throws it; `ProblemMiddleware` answers its document.
public struct Problem: Error, Sendable, HTTPResponseError, CustomStringConvertible {
    /// What the client reads.
    public var document: ProblemDocument
    /// Further header fields of the answer.
    public var headers: HTTPFields

    /// A problem. The kind is the status's usual one and the title its phrase when not given. Queries of URLs, which may hold signatures, are
    /// taken out of the detail.
    public init(
        _ status: HTTPResponse.Status, _ detail: String? = nil, title: String? = nil, kind: ProblemKind? = nil,
        errors: [ProblemDocument.FieldError] = [], headers: HTTPFields = [:]
    ) {
        document = ProblemDocument(
            type: (kind ?? ProblemKind.usual(status.code))?.type ?? "about:blank", title: title ?? status.reasonPhrase, status: status.code,
            detail: detail.map(Redaction.redact), errors: errors.isEmpty ? nil : errors)
        self.headers = headers
    }

    /// 400: the request cannot be understood.
    public static func badRequest(_ detail: String) -> Problem { Problem(.badRequest, detail) }

    /// 401: no key (`error` nil), or none that is valid.
    public static func unauthorized(_ detail: String, error: String? = nil) -> Problem {
        Problem(
            .unauthorized, detail, headers: [.wwwAuthenticate: "Bearer realm=\"foretaste\"" + (error.map { ", error=\"\($0)\"" } ?? "")])
    }

    /// 403: a valid key that lacks a scope.
    public static func missingScope(_ scope: Scope, key: String) -> Problem {
        Problem(
            .forbidden, "The key \(key) lacks the scope '\(scope.rawValue)', which this needs.",
            headers: [.wwwAuthenticate: "Bearer realm=\"foretaste\", error=\"insufficient_scope\", scope=\"\(scope.rawValue)\""])
    }

    /// 404: there is no such thing.
    public static func notFound(_ detail: String) -> Problem { Problem(.notFound, detail) }

    /// 409: it contradicts what is there.
    public static func conflict(_ detail: String) -> Problem { Problem(.conflict, detail) }

    /// 413: the body is over the limit.
    public static func tooLarge(limit: Int) -> Problem {
        Problem(.contentTooLarge, "The body is larger than the \(limit) bytes that are accepted here.")
    }

    /// 415: a content encoding that is not read here.
    public static func unsupportedEncoding(_ found: String, expected: [String]) -> Problem {
        Problem(
            .unsupportedMediaType,
            "The body is encoded as '\(found.prefix(40))'; expected \(expected.isEmpty ? "it as it is" : expected.joined(separator: " or ") + ", or no encoding").",
            kind: .contentEncoding, headers: [.acceptEncoding: expected.isEmpty ? "identity" : expected.joined(separator: ", ")])
    }

    /// 415: another media type was expected.
    public static func unsupportedMediaType(found: String?, expected: [String]) -> Problem {
        Problem(
            .unsupportedMediaType,
            "The body is declared as \(found.map { "'\($0)'" } ?? "nothing (there is no Content-Type)"); expected \(expected.joined(separator: " or "))."
        )
    }

    /// 422: the content is wrong, place by place.
    public static func invalid(_ errors: [ProblemDocument.FieldError], detail: String? = nil) -> Problem {
        let summary = errors.first.map { "\($0.pointer.isEmpty ? "The document" : $0.pointer): \($0.detail)" }
        return Problem(.unprocessableContent, detail ?? summary, title: "The content is not valid", errors: errors)
    }

    /// 429: more than is served at a time. `retryAfter` in seconds.
    public static func tooManyRequests(_ detail: String, retryAfter: Int = 1) -> Problem {
        Problem(.tooManyRequests, detail, headers: [.retryAfter: "\(retryAfter)"])
    }

    /// 503: not now. `retryAfter` in seconds.
    public static func unavailable(_ detail: String, retryAfter: Int = 1) -> Problem {
        Problem(.serviceUnavailable, detail, headers: [.retryAfter: "\(retryAfter)"])
    }

    /// 500: our fault; the details are in the log, not in the answer.
    public static func internalError() -> Problem {
        Problem(.internalServerError, "Something failed on our side. The service's log has the details under this answer's X-Request-Id.")
    }

    public var status: HTTPResponse.Status { HTTPResponse.Status(code: document.status) }

    public var description: String {
        "\(document.status) \(document.title)\(document.detail.map { ": \($0)" } ?? "")"
    }

    public func response(from request: Request, context: some RequestContext) throws -> Response {
        var document = document
        if document.instance == nil { document.instance = request.uri.path }
        if document.requestID == nil { document.requestID = (context as? ServiceContext)?.requestID }
        var fields = headers
        fields[.contentType] = "application/problem+json"
        let body = document.json()
        fields[.contentLength] = "\(body.count)"
        return Response(status: status, headers: fields, body: .init(byteBuffer: ByteBuffer(bytes: body)))
    }
}

/// Turns whatever a handler throws into a problem document, and says 405 with `Allow` where a path exists under another method.
struct ProblemMiddleware: RouterMiddleware {
    typealias Context = ServiceContext
    let routes: RouteTable

    func handle(
        _ request: Request, context: ServiceContext, next: (Request, ServiceContext) async throws -> Response
    ) async throws -> Response {
        let problem: Problem
        do {
            return try await next(request, context)
        } catch let thrown as Problem {
            problem = thrown
        } catch is ConnectionWatch.BodyCutOff {
            problem = Problem(.requestTimeout, "The connection ended in the middle of the body; nothing of it was stored.")
        } catch is NIOTooManyBytesError {
            problem = Problem(.contentTooLarge, "The body is larger than what is accepted here.")
        } catch let error as any HTTPResponseError {
            problem = translated(error, request)
        } catch is CancellationError {
            problem = .unavailable("The service is shutting down; ask again.")
        } catch {
            context.logger.error("A request failed", metadata: ["error": "\(error)", "path": .string(request.uri.path)])
            problem = .internalError()
        }
        return try problem.response(from: request, context: context)
    }

    private func translated(_ error: any HTTPResponseError, _ request: Request) -> Problem {
        if error.status == .notFound, !routes.match(request.method, request.uri.path) {
            let allowed = routes.methods(for: request.uri.path)
            guard !allowed.isEmpty else { return .notFound("There is nothing at \(request.uri.path).") }
            let list = allowed.joined(separator: ", ")
            return Problem(.methodNotAllowed, "\(request.method.rawValue) is not possible here; \(list) is.", headers: [.allow: list])
        }
        if let error = error as? HTTPError { return Problem(error.status, error.body, headers: error.headers) }
        return Problem(error.status)
    }
}
