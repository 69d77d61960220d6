public import HTTPTypes
public import Hummingbird

/// What an API key may do.
public enum Scope: String, CaseIterable, Codable, Sendable, Hashable {
    /// Post, correct and retract labels.
    case ingest
    /// Read labels, snapshots and what became of them.
    case read
    /// Ask for scores.
    case score
    /// Everything, and the audit log.
    case admin
}

/// Who sends a request.
public struct Caller: Sendable, Equatable {
    /// The API key's id; nil for a caller without one, where that is allowed.
    public let key: String?
    /// What the caller may do.
    public let scopes: Set<Scope>

    /// A caller with a key.
    public init(key: String, scopes: Set<Scope>) {
        self.key = key
        self.scopes = scopes
    }

    private init(everything: Void) {
        key = nil
        scopes = Set(Scope.allCases)
    }

    /// Whoever asks, where the operator switched authentication off.
    public static let anonymous = Caller(everything: ())

    /// As the audit log names it.
    public var actor: String { key.map { "key:\($0)" } ?? "anonymous" }

    /// Whether this caller may do what needs `scope`. An `admin` may do everything.
    public func may(_ scope: Scope) -> Bool { scopes.contains(scope) || scopes.contains(.admin) }
}

/// What a request has to show before it reaches its handler.
public enum Admission: Sendable, Equatable {
    /// Nothing.
    case open
    /// A valid key, whatever its scopes.
    case key
    /// A valid key with this scope.
    case scope(Scope)
}

/// Decides who may send a request; see ``ServiceApplication/guardRequests(with:)``.
public protocol RequestGuard: Sendable {
    /// Who sends the request, and header fields that its answer gets, whatever it is: how much more this caller may ask, say. Throws the
    /// `Problem` that turns it away.
    func admit(_ request: Request, _ context: ServiceContext) async throws -> (caller: Caller, fields: HTTPFields)
}

extension RequestGuard {
    /// Paths that never ask for a key: probes, metrics and descriptions.
    public static var openPaths: Set<String> { ["/livez", "/readyz", "/metrics", "/openapi.json", "/problems"] }
}

/// Asks the guard, and turns everything but probes away while the service shuts down.
struct AdmissionMiddleware: RouterMiddleware {
    typealias Context = ServiceContext
    let requestGuard: (any RequestGuard)?
    let readiness: Readiness

    func handle(
        _ request: Request, context: ServiceContext, next: (Request, ServiceContext) async throws -> Response
    ) async throws -> Response {
        var context = context
        if readiness.refusesRequests, !Probes.paths.contains(request.uri.path) {
            var problem = Problem(.serviceUnavailable, "The service is shutting down; ask again, another one may answer.", kind: .draining)
            problem.headers = [.retryAfter: "1", .connection: "close"]
            throw problem
        }
        var fields = HTTPFields()
        if let requestGuard { (context.caller, fields) = try await requestGuard.admit(request, context) }
        do {
            var response = try await handle(request, context, next)
            response.headers.append(contentsOf: fields)
            return response
        } catch var problem as Problem {
            problem.headers.append(contentsOf: fields)
            throw problem
        }
    }

    private func handle(
        _ request: Request, _ context: ServiceContext, _ next: (Request, ServiceContext) async throws -> Response
    ) async throws -> Response {
        var request = request
        if let expectation = request.headers[.expect] {
            guard expectation.lowercased() == "100-continue" else {
                throw Problem(.expectationFailed, "Expect is '\(expectation.prefix(40))'; 100-continue is what is understood here.")
            }
            // The client waits for this word before it sends its body; who is turned away above or by the handler need not send it.
            let channel = context.channel
            request.body = RequestBody(
                asyncSequence: AnnouncedBody(body: request.body) {
                    channel?.triggerUserOutboundEvent(ConnectionWatch.Continue(), promise: nil)
                })
        }
        return try await next(request, context)
    }
}

/// The paths that answer until the end.
enum Probes {
    static let paths: Set<String> = ["/livez", "/readyz", "/metrics"]
}
