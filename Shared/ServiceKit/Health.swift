import Foundation
import Hummingbird
import Synchronization

/// Whether the service can do its work now: its checks, and whether it is shutting down.
final class Readiness: Sendable {
    typealias Check = @Sendable () async throws -> Void

    /// How long one check may take before it counts as failed.
    static let checkLimit: Duration = .seconds(2)

    private struct State {
        var draining = false
        var refusing = false
        var checks: [(name: String, check: Check)] = []
    }

    private let state = Mutex(State())

    func add(_ name: String, _ check: @escaping Check) { state.withLock { $0.checks.append((name, check)) } }

    /// From now on `/readyz` fails.
    func drain() { state.withLock { $0.draining = true } }

    /// From now on other requests are turned away too.
    func refuseRequests() { state.withLock { $0.refusing = true } }

    var refusesRequests: Bool { state.withLock { $0.refusing } }

    /// What is wrong, by check; empty when the service is ready.
    func failures() async -> [(name: String, reason: String)] {
        let (draining, checks) = state.withLock { ($0.draining, $0.checks) }
        if draining { return [("shutdown", "the service is shutting down")] }
        return await withTaskGroup(of: (Int, String?).self) { group in
            for (index, (_, check)) in checks.enumerated() {
                group.addTask {
                    do {
                        try await withDeadline(Self.checkLimit, check)
                        return (index, nil)
                    } catch {
                        return (index, Redaction.redact("\(error)"))
                    }
                }
            }
            var reasons: [(Int, String)] = []
            for await (index, reason) in group { if let reason { reasons.append((index, reason)) } }
            return reasons.sorted { $0.0 < $1.0 }.map { (checks[$0.0].name, $0.1) }
        }
    }
}

/// Something took longer than it may.
struct DeadlineExceeded: Error, CustomStringConvertible {
    let limit: Duration
    var description: String { "no answer within \(limit)" }
}

/// Runs `body`, but answers after `limit` at the latest, even when `body` does not notice that it was cancelled.
func withDeadline(_ limit: Duration, _ body: @escaping @Sendable () async throws -> Void) async throws {
    let (stream, continuation) = AsyncThrowingStream<Void, any Error>.makeStream()
    let work = Task {
        do {
            try await body()
            continuation.yield()
            continuation.finish()
        } catch {
            continuation.finish(throwing: error)
        }
    }
    let clock = Task {
        try await Task.sleep(for: limit)
        continuation.finish(throwing: DeadlineExceeded(limit: limit))
    }
    defer {
        work.cancel()
        clock.cancel()
    }
    for try await _ in stream { return }
    throw CancellationError()
}

/// `/livez`, `/readyz`, `/metrics`, `/problems` and `/version`, which every service has.
enum HealthRoutes {
    static func add(to router: ServiceRouter, configuration: ServiceConfiguration, readiness: Readiness, registry: MetricsRegistry) {
        router.get("/livez") { _, _ in Response.json(#"{"status":"alive"}"#.utf8) }
        router.get("/readyz") { _, _ in
            let failures = await readiness.failures()
            guard failures.isEmpty else {
                throw Problem(
                    .serviceUnavailable, failures.map { "\($0.name): \($0.reason)" }.joined(separator: "; "), title: "Not ready",
                    errors: failures.map { .init(pointer: "/" + $0.name, detail: $0.reason) })
            }
            return Response.json(#"{"status":"ready"}"#.utf8)
        }
        router.get("/metrics") { _, _ in
            let build =
                "# TYPE foretaste_build_info gauge\nforetaste_build_info{service=\"\(configuration.service)\",version=\"\(BuildInformation.version)\"} 1\n"
            let body = ByteBuffer(string: registry.render() + build + ProcessMetrics.render())
            return Response(
                status: .ok, headers: [.contentType: "text/plain; version=0.0.4; charset=utf-8", .contentLength: "\(body.readableBytes)"],
                body: .init(byteBuffer: body))
        }
        router.get("/problems") { _, _ in
            let body = ByteBuffer(string: ProblemKind.html)
            return Response(
                status: .ok, headers: [.contentType: "text/html; charset=utf-8", .contentLength: "\(body.readableBytes)"],
                body: .init(byteBuffer: body))
        }
        router.get("/version") { _, _ in
            Response.json("{\"service\":\(JSONText.quoted(configuration.service)),\"version\":\"\(BuildInformation.version)\"}".utf8)
        }
    }
}

/// What this build is.
public enum BuildInformation {
    /// The product's version.
    public static let version = "0.1.0"
}
