import Foundation
public import HTTPTypes
public import Hummingbird
public import Logging
public import Postgres
public import ServiceKit
import Synchronization

/// Checks the API key of each request and what it may do.
///
/// What the database says of a key is kept for some seconds; a key that is revoked is forgotten as soon as its NOTIFY arrives.
public final class Authenticator: RequestGuard {
    /// What a request needs, by method and path.
    public typealias Policy = @Sendable (HTTPRequest.Method, String) -> Admission

    /// How long an answer of the database is believed when no notification says otherwise.
    static let trust: Duration = .seconds(10)
    /// How often uses and failures are written down.
    static let flushInterval: Duration = .seconds(20)
    /// How often answers and keys past their time are removed.
    static let sweepInterval: Duration = .seconds(600)
    /// How many keys are remembered; more than anybody has, fewer than guesses could fill.
    static let capacity = 10_000
    /// How many different failures are remembered between two flushes.
    static let failureCapacity = 50

    private struct Known {
        let hash: [UInt8]
        let scopes: Set<Scope>
        let expiresAt: Date?
        let revokedAt: Date?
    }

    private struct Entry {
        /// Nil: there is no such key.
        let known: Known?
        let since: ContinuousClock.Instant
    }

    private struct Failure: Hashable {
        let reason: String
        let key: String
        let ip: String
    }

    private struct State {
        var entries: [String: Entry] = [:]
        /// Counts forgettings, so that an answer that was under way meanwhile is not believed for long.
        var generation = 0
        var used: Set<String> = []
        var failures: [Failure: (count: Int, firstRequest: String)] = [:]
        var unlistedFailures = 0
    }

    private let client: PostgresClient
    private let policy: Policy
    private let configuration: AccessConfiguration
    private let limiter: RateLimiter?
    private let logger: Logger
    private let state = Mutex(State())

    /// A guard over the keys in the client's database.
    public init(client: PostgresClient, configuration: AccessConfiguration, logger: Logger, policy: @escaping Policy) {
        self.client = client
        self.configuration = configuration
        self.policy = policy
        self.logger = logger
        limiter = configuration.requestsPerSecond.map { RateLimiter(rate: $0, burst: configuration.burst) }
    }

    public func admit(_ request: Request, _ context: ServiceContext) async throws -> (caller: Caller, fields: HTTPFields) {
        let path = request.uri.path
        if Self.openPaths.contains(path) { return (.anonymous, [:]) }
        let admission = policy(request.method, path)
        if admission == .open { return (.anonymous, [:]) }
        func limit(_ caller: String) throws -> HTTPFields { try limiter?.admit(caller) ?? [:] }
        guard configuration.authenticates else { return (.anonymous, try limit(context.remoteAddress ?? "")) }
        let caller: Caller
        do {
            caller = try await authenticate(request)
        } catch let problem as Problem {
            _ = try limit(context.remoteAddress ?? "")
            throw problem
        } catch let refusal as Refusal {
            note(refusal, context)
            _ = try limit(context.remoteAddress ?? "")
            throw refusal.problem
        }
        let fields = try limit(caller.actor)
        if case .scope(let scope) = admission, !caller.may(scope) {
            note(Refusal(reason: "missing scope \(scope.rawValue)", key: caller.key ?? "", problem: .notFound("")), context)
            throw Problem.missingScope(scope, key: caller.key ?? "")
        }
        return (caller, fields)
    }

    private struct Refusal: Error {
        let reason: String
        let key: String
        let problem: Problem
    }

    private func authenticate(_ request: Request) async throws -> Caller {
        let fields = request.headers[values: .authorization]
        guard let field = fields.first else {
            throw Problem.unauthorized(
                "No API key was sent. Send 'Authorization: Bearer ft_…'; `foretaste keys create` makes keys, `foretaste up` writes one for its run into the ready file."
            )
        }
        func refuse(_ reason: String, _ detail: String, key: String = "") -> Refusal {
            Refusal(reason: reason, key: key, problem: .unauthorized(detail, error: "invalid_token"))
        }
        guard fields.count == 1 else { throw refuse("malformed", "Authorization was sent \(fields.count) times.") }
        let parts = field.split(separator: " ", omittingEmptySubsequences: true)
        guard parts.count == 2, parts[0].lowercased() == "bearer" else {
            throw refuse("malformed", "Authorization has another form than 'Bearer ft_…'.")
        }
        guard let key = APIKey(String(parts[1])) else {
            throw refuse(
                "malformed", "This is no whole API key: those begin with ft_ and end with a checksum. Was it cut off when it was copied?")
        }
        let id = key.id
        guard let known = try await find(id), equalInConstantTime(known.hash, key.hash) else {
            throw refuse("unknown", "This API key is not known here.", key: id)
        }
        if let revoked = known.revokedAt {
            throw refuse("revoked", "The API key \(id) was revoked at \(revoked.formatted(.iso8601)).", key: id)
        }
        if let end = known.expiresAt, end <= .now {
            throw refuse("expired", "The API key \(id) expired at \(end.formatted(.iso8601)).", key: id)
        }
        state.withLock { _ = $0.used.insert(id) }
        return Caller(key: id, scopes: known.scopes)
    }

    private func find(_ id: String) async throws -> Known? {
        let (entry, generation) = state.withLock { ($0.entries[id], $0.generation) }
        if let entry, entry.since.duration(to: .now) < Self.trust { return entry.known }
        let asked = ContinuousClock.now
        let row: PostgresRow?
        do {
            row = try await client.query("select hash, scopes, expires_at, revoked_at from access.find_key($1)", [.string(id)]).first
        } catch let error as PostgresError where error.isRetryable {
            throw Problem.unavailable("The database that knows the API keys does not answer now; send the request again.")
        }
        let known = try row.map {
            Known(
                hash: try $0["hash"].bytes, scopes: Set(try $0["scopes"].stringArray.compactMap(Scope.init)),
                expiresAt: try $0["expires_at"].optionalDate, revokedAt: try $0["revoked_at"].optionalDate)
        }
        state.withLock { state in
            guard state.generation == generation else { return }
            if state.entries.count >= Self.capacity { state.entries.removeAll() }
            state.entries[id] = Entry(known: known, since: asked)
        }
        return known
    }

    private func note(_ refusal: Refusal, _ context: ServiceContext) {
        let failure = Failure(reason: refusal.reason, key: refusal.key, ip: context.remoteAddress ?? "")
        state.withLock { state in
            if state.failures[failure] != nil {
                state.failures[failure]!.count += 1
            } else if state.failures.count < Self.failureCapacity {
                state.failures[failure] = (1, context.requestID)
            } else {
                state.unlistedFailures += 1
            }
        }
    }

    // MARK: - Beside the requests

    /// Hears of keys that change, and writes down uses and failed attempts, few rows however many there were. Runs until it is cancelled.
    public func run() async throws {
        if !configuration.authenticates {
            logger.warning("Authentication is OFF (FORETASTE_AUTHENTICATION=off): whoever reaches this port may do everything")
        }
        await withTaskGroup(of: Void.self) { group in
            group.addTask { [self] in
                for await notification in client.listen(["access"]) {
                    state.withLock { state in
                        state.generation += 1
                        // After a new connection anything may have been missed.
                        if let id = notification.payload { state.entries[id] = nil } else { state.entries.removeAll() }
                    }
                }
            }
            group.addTask { [self] in
                while !Task.isCancelled {
                    try? await Task.sleep(for: Self.flushInterval)
                    await flush()
                }
            }
            group.addTask { [self] in
                while !Task.isCancelled {
                    // Not all processes at once.
                    try? await Task.sleep(for: Self.sweepInterval * Double.random(in: 0.5...1.5))
                    do {
                        try await client.query("select access.sweep()")
                    } catch  where !Task.isCancelled {
                        logger.warning("Old answers and keys could not be removed", metadata: ["error": "\(error)"])
                    } catch {}
                }
            }
        }
        try Task.checkCancellation()
    }

    /// Writes down what was noted. What cannot be written now is dropped: it is no reason to stop.
    func flush() async {
        let (used, failures, unlisted) = state.withLock { state in
            defer { (state.used, state.failures, state.unlistedFailures) = ([], [:], 0) }
            return (state.used, state.failures, state.unlistedFailures)
        }
        guard !used.isEmpty || !failures.isEmpty else { return }
        // Of a task of its own, because the last flush comes when ours is cancelled.
        await Task { [client, logger] in
            do {
                if !used.isEmpty { try await client.query("select access.touch_keys($1::text[])", [.array(used.sorted())]) }
                for (failure, found) in failures {
                    var details: [String: String] = ["reason": failure.reason, "times": "\(found.count)"]
                    if unlisted > 0 { details["others_not_listed"] = "\(unlisted)" }
                    try await AuditLog.record(
                        "authentication.failed", failure.key, details: details,
                        by: .init(actor: "anonymous", requestID: found.firstRequest, ip: failure.ip), on: client)
                }
            } catch {
                logger.warning("Uses of API keys could not be written down", metadata: ["error": "\(error)"])
            }
        }.value
    }
}

extension ServiceApplication {
    /// Asks every request for an API key of the client's database, as `policy` says what it needs and the environment says whether at all.
    /// To be called after the client's closing was added to the application, because the last uses of keys are written down before it.
    public mutating func requireKeys(client: PostgresClient, policy: @escaping Authenticator.Policy) throws {
        let authenticator = Authenticator(
            client: client, configuration: try AccessConfiguration(configuration.environment), logger: logger, policy: policy)
        guardRequests(with: authenticator)
        addTask("access") { try await authenticator.run() }
        onShutdown { await authenticator.flush() }
    }
}
