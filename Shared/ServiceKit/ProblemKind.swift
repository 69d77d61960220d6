/// The kinds of problems that services answer with; the URI in a problem document's `type` leads to their explanation, which every service
/// serves at `/problems`.
public enum ProblemKind: String, CaseIterable, Sendable {
    case badRequest = "bad-request"
    case unauthorized
    case missingScope = "missing-scope"
    case notFound = "not-found"
    case methodNotAllowed = "method-not-allowed"
    case tooSlow = "too-slow"
    case conflict
    case keyInUse = "idempotency-key-in-use"
    case tooLarge = "too-large"
    case mediaType = "media-type"
    case contentEncoding = "content-encoding"
    case expectation
    case invalid = "invalid-content"
    case keyReused = "idempotency-key-reused"
    case tooManyRequests = "too-many-requests"
    case internalError = "internal-error"
    case upstream
    case unavailable
    case draining

    /// The reference in `type`, relative to the service.
    public var type: String { "/problems#\(rawValue)" }

    /// The statuses that it comes with.
    var statuses: [Int] {
        switch self {
        case .badRequest: [400]
        case .unauthorized: [401]
        case .missingScope: [403]
        case .notFound: [404]
        case .methodNotAllowed: [405]
        case .tooSlow: [408]
        case .conflict, .keyInUse: [409]
        case .tooLarge: [413]
        case .mediaType, .contentEncoding: [415]
        case .expectation: [417]
        case .invalid, .keyReused: [422]
        case .tooManyRequests: [429]
        case .internalError: [500]
        case .upstream: [502]
        case .unavailable, .draining: [503]
        }
    }

    /// The kind that a status stands for when nothing more is said.
    static func usual(_ status: Int) -> ProblemKind? { allCases.first { $0.statuses.contains(status) } }

    /// What it means and what to do.
    var explanation: String {
        switch self {
        case .badRequest:
            "The request cannot be understood; `detail` names the parameter or header field. Sent again as it is, it fails again."
        case .unauthorized:
            "No API key was sent, or one that is unknown, expired or revoked. Send `Authorization: Bearer ft_…`; `foretaste keys create` makes keys, `foretaste up` writes one for its run into the ready file."
        case .missingScope: "The key is valid but lacks the scope that `detail` names. Scopes do not change: make another key."
        case .notFound: "There is nothing at this path, or no such thing with this id."
        case .methodNotAllowed: "The path exists for other methods; the `Allow` header names them."
        case .tooSlow: "The request did not arrive in time. The connection was closed and nothing was stored; send it again."
        case .conflict: "The request contradicts what is stored; `errors` names the fields that differ. Was a key used twice?"
        case .keyInUse:
            "Another request with the same Idempotency-Key is being worked on. Wait as long as `Retry-After` says and send it again."
        case .tooLarge: "The body, as it is or unpacked, is larger than the limit in `detail`. Send it in parts."
        case .mediaType: "The body's `Content-Type` is not one that is read here; `detail` names those."
        case .contentEncoding: "The body's `Content-Encoding` is not one that is read here; `Accept-Encoding` in the answer names those."
        case .expectation: "`Expect` asks for something other than `100-continue`."
        case .invalid:
            "The content is wrong. `errors` has every place, as an RFC 6901 JSON Pointer, with what was expected and what was found."
        case .keyReused: "The Idempotency-Key came with another request before. A key belongs to one request, byte for byte."
        case .tooManyRequests: "More requests than are served at a time. Wait as long as `Retry-After` says."
        case .internalError: "Something failed on our side. The service's log has the details under the answer's `request_id`."
        case .upstream: "Another server, an artifact store say, did not give what was needed; `detail` says which and why."
        case .unavailable: "Not now: the database is away for a moment, say. Nothing was stored; send it again after `Retry-After`."
        case .draining: "The service is shutting down. Nothing was stored; send it again, another one may answer."
        }
    }

    /// docs/problems.md.
    static var markdown: String {
        var text = """
            # Problems

            Errors are answered as RFC 9457 problem documents (`application/problem+json`): `type`, `title`, `status`, `detail`, `instance` (the path),
            `request_id` (also in `X-Request-Id` and in every log line of the request) and, where places in the content are at fault, `errors`.
            `type` is a reference to this list, which every service serves at `/problems`. Types are stable; `detail` is for people and is not.

            """
        for kind in allCases {
            text += "\n## \(kind.rawValue)\n\n\(kind.statuses.map(String.init).joined(separator: ", ")). \(kind.explanation)\n"
        }
        return text
    }

    /// The same for a browser.
    static var html: String {
        func escaped(_ text: String) -> String {
            var result = ""
            var isCode = false
            for character in text {
                switch character {
                case "`":
                    result += isCode ? "</code>" : "<code>"
                    isCode.toggle()
                case "<": result += "&lt;"
                case ">": result += "&gt;"
                case "&": result += "&amp;"
                default: result.append(character)
                }
            }
            return result
        }
        var text = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Problems</title>"
        text += "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:46em;margin:2em auto;padding:0 1em}</style><h1>Problems</h1>"
        for kind in allCases {
            text += "<h2 id=\"\(kind.rawValue)\">\(kind.rawValue)</h2>"
            text += "<p>\(kind.statuses.map(String.init).joined(separator: ", ")). \(escaped(kind.explanation))</p>"
        }
        return text + "</html>\n"
    }
}
