import Foundation
import Hummingbird
import Logging
import NIOCore
import NetworkTesting
import ServiceLifecycle
import Synchronization
import Testing

@testable import ServiceKit

/// A flag that a test throws and a handler reads.
final class Switch: Sendable {
    private let state = Mutex(false)
    var isOn: Bool { state.withLock { $0 } }
    func turn(on: Bool) { state.withLock { $0 = on } }
}

@Suite("A service", .serialized)
struct ServiceApplicationTests {
    private func configuration(_ more: [String: String] = [:]) throws -> ServiceConfiguration {
        try .fromEnvironment(
            service: "ingest",
            ServiceEnvironment(["FORETASTE_DATA": "/nowhere", "FORETASTE_SHUTDOWN_SECONDS": "5"].merging(more) { _, new in new }))
    }

    private func logger() -> Logger { Logger(label: "test") { _ in SwiftLogNoOpLogHandler() } }

    /// Runs the application, hands its address to `body`, shuts it down and waits for its end.
    private func serving(_ application: ServiceApplication, _ body: (Probe) async throws -> Void) async throws {
        let control = ServiceControl()
        let running = Task { try await application.run(handlingSignals: false, control: control) }
        try await body(Probe(url: try await control.listening()))
        await control.shutDown()
        try await running.value
    }

    @Test("health, version and metrics are there without a line of code")
    func health() async throws {
        MetricsRegistry.bootstrap()
        let healthy = Switch()
        var application = ServiceApplication(configuration: try configuration(), logger: logger())
        application.addReadinessCheck("database") {
            if !healthy.isOn { throw ConfigurationError(variable: "DATABASE_URL", problem: "postgresql://u:secret@h/d is down") }
        }
        application.addReadinessCheck("slow") {}
        application.addRoutes { router in router.get("/v1/things/:id") { _, _ in "x" } }
        try await serving(application) { probe in
            #expect(try await probe.get("/livez").status == 200)
            let unready = try await probe.get("/readyz")
            #expect(unready.status == 503 && unready.headers["content-type"] == "application/problem+json")
            #expect(unready.text.contains("/database") && !unready.text.contains("secret"))
            healthy.turn(on: true)
            #expect(try await probe.get("/readyz").status == 200)
            #expect(try await probe.get("/version").json()["service"] as? String == "ingest")
            #expect(try await probe.send("HEAD", "/livez").body == [])
            _ = try await probe.get("/v1/things/7?token=x")
            let values = try parseMetrics(try await probe.get("/metrics").text)
            let counted = values.filter { $0.key.hasPrefix("foretaste_requests_total{") && $0.key.contains("/v1/things/") }
            #expect(counted.count == 1 && counted.values.first == 1)
            #expect(!counted.keys.contains { $0.contains("/7") || $0.contains("token") })
            #expect(values["foretaste_build_info{service=\"ingest\",version=\"0.1.0\"}"] == 1)
        }
    }

    @Test("a readiness check that hangs counts as failed", .timeLimit(.minutes(1)))
    func hangingCheck() async throws {
        let application = ServiceApplication(configuration: try configuration(), logger: logger())
        application.addReadinessCheck("stuck") { try? await Task { try await Task.sleep(for: .seconds(20)) }.value }
        try await serving(application) { probe in
            let answer = try await probe.get("/readyz")
            #expect(answer.status == 503 && answer.text.contains("no answer within"))
        }
    }

    @Test("errors are problem documents, each with its status")
    func problems() async throws {
        struct Surprise: Error {}
        var application = ServiceApplication(configuration: try configuration(), logger: logger())
        application.addRoutes { router in
            router.post("/v1/things") { request, _ in
                try request.requireMediaType("application/json", "application/x-ndjson")
                return Response.json(try await request.body(upTo: 10).readableBytesView, status: .created)
            }
            router.get("/v1/wrong") { _, _ -> Response in throw Problem.invalid([.init(pointer: "/a/sha256", detail: "expected 64 digits")])
            }
            router.get("/v1/broken") { _, _ -> Response in throw Surprise() }
            router.get("/v1/busy") { _, _ -> Response in throw Problem.unavailable("The queue is full.", retryAfter: 7) }
        }
        try await serving(application) { probe in
            func check(_ answer: Probe.Answer, _ status: Int) throws -> [String: Any] {
                #expect(answer.status == status)
                #expect(answer.headers["content-type"] == "application/problem+json")
                #expect(answer.headers["x-request-id"]?.isEmpty == false)
                let document = try answer.json()
                #expect(document["status"] as? Int == status && document["title"] as? String != nil)
                return document
            }
            _ = try check(try await probe.get("/nowhere"), 404)
            let method = try await probe.get("/v1/things")
            _ = try check(method, 405)
            #expect(method.headers["allow"] == "POST")
            let json = ["Content-Type: application/json; charset=utf-8"]
            _ = try check(try await probe.send("POST", "/v1/things", headers: json, body: Array(repeating: 65, count: 11)), 413)
            // More than the socket's buffers hold, from a client that sends everything before it reads.
            _ = try check(try await probe.send("POST", "/v1/things", headers: json, body: Array(repeating: 65, count: 32 << 20)), 413)
            _ = try check(
                try await probe.send(
                    "POST", "/v1/things", headers: json + ["Transfer-Encoding: chunked"],
                    body: Array(String(repeating: "5\r\nAAAAA\r\n", count: 1000).utf8) + Array("0\r\n\r\n".utf8)), 413)
            _ = try check(try await probe.send("POST", "/v1/things", headers: ["Content-Type: text/plain"], body: [65]), 415)
            _ = try check(try await probe.send("POST", "/v1/things", body: [65]), 415)
            let invalid = try check(try await probe.get("/v1/wrong"), 422)
            let errors = try #require(invalid["errors"] as? [[String: String]])
            #expect(errors == [["pointer": "/a/sha256", "detail": "expected 64 digits"]])
            #expect(invalid["instance"] as? String == "/v1/wrong")
            let broken = try check(try await probe.get("/v1/broken", headers: ["X-Request-Id: abc-1"]), 500)
            #expect(!"\(broken)".contains("Surprise"))
            let busy = try await probe.get("/v1/busy")
            #expect(busy.status == 503 && busy.headers["retry-after"] == "7")
            let ok = try await probe.send("POST", "/v1/things", headers: json, body: Array("{}".utf8))
            #expect(ok.status == 201 && ok.text == "{}")
            #expect(try await probe.get("/v1/wrong", headers: ["X-Request-Id: my-id"]).headers["x-request-id"] == "my-id")
            #expect(try await probe.get("/v1/wrong", headers: ["X-Request-Id: a\"b"]).headers["x-request-id"] != "a\"b")
        }
    }

    @Test("the ready file tells the bound port and the process, and goes with it")
    func readyFile() async throws {
        let file = FileManager.default.temporaryDirectory.path + "/foretaste-ready-\(UInt64.random(in: 0...UInt64.max))"
        let application = ServiceApplication(configuration: try configuration(["FORETASTE_INGEST_READY_FILE": file]), logger: logger())
        try await serving(application) { probe in
            let data = try #require(FileManager.default.contents(atPath: file))
            let object = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
            #expect(object["url"] as? String == "http://127.0.0.1:\(probe.port)" && probe.port != 0)
            #expect(object["pid"] as? Int == Int(getpid()))
            let mode = try FileManager.default.attributesOfItem(atPath: file)[.posixPermissions] as? Int
            #expect(mode == 0o600)
        }
        #expect(!FileManager.default.fileExists(atPath: file))
    }

    @Test("SIGTERM fails readiness at once, lets work hand back, finishes requests, and ends well", .timeLimit(.minutes(1)))
    func sigterm() async throws {
        let order = Mutex<[String]>([])
        let (cancelled, release) = (Switch(), Switch())
        var application = ServiceApplication(configuration: try configuration(), logger: logger())
        application.addRoutes { router in
            router.get("/v1/slow") { _, _ in
                while !release.isOn { try await Task.sleep(for: .milliseconds(5)) }
                return "finished"
            }
        }
        application.addTask("worker") {
            do { try await Task.sleep(for: .seconds(100)) } catch {
                cancelled.turn(on: true)
                while !release.isOn { await Task.yield() }
                order.withLock { $0.append("worker") }
                throw error
            }
        }
        application.onShutdown { order.withLock { $0.append("pool") } }
        application.onShutdown { order.withLock { $0.append("listener") } }
        let control = ServiceControl()
        let running = Task { [application] in try await application.run(control: control) }
        let probe = Probe(url: try await control.listening())
        #expect(try await probe.get("/readyz").status == 200)
        async let slow = probe.get("/v1/slow")
        // The handler must be reached before the shutdown.
        try await Task.sleep(for: .milliseconds(200))
        kill(getpid(), SIGTERM)
        while !cancelled.isOn { try await Task.sleep(for: .milliseconds(2)) }
        let unready = try await probe.get("/readyz")
        #expect(unready.status == 503 && unready.text.contains("shutting down"))
        #expect(try await probe.get("/livez").status == 200)
        let turnedAway = try await probe.get("/v1/slow")
        #expect(turnedAway.status == 503 && turnedAway.headers["retry-after"] == "1" && turnedAway.text.contains("/problems#draining"))
        release.turn(on: true)
        #expect(try await slow.text == "finished")
        try await running.value
        #expect(order.withLock { $0 } == ["worker", "listener", "pool"])
        await #expect(throws: POSIXError.self) { _ = try await probe.get("/livez") }
        // Programs that other tests start must not inherit a deaf ear for it.
        signal(SIGTERM, SIG_DFL)
    }

    @Test("work that does not hand back in time is cancelled", .timeLimit(.minutes(1)))
    func deadline() async throws {
        var application = ServiceApplication(configuration: try configuration(["FORETASTE_SHUTDOWN_SECONDS": "0.3"]), logger: logger())
        application.addService(Stubborn(), name: "stubborn")
        try await serving(application) { _ in }
    }

    @Test("a task that fails while it is being stopped does not turn the stop into a failure")
    func failureDuringShutdown() async throws {
        struct Broken: Error {}
        var application = ServiceApplication(configuration: try configuration(), logger: logger())
        application.addTask("worker") { do { try await Task.sleep(for: .seconds(100)) } catch { throw Broken() } }
        application.addTask("once", mayEnd: true) {}
        try await serving(application) { (probe: Probe) async throws in #expect(try await probe.get("/livez").status == 200) }
    }

    @Test("help names every variable by the service's own prefix")
    func help() {
        let text = ServiceMain.help(
            program: "foretaste-reward-trainer", service: "reward-trainer", summary: "Trains.", variables: [("FORETASTE_X", "x", "1")])
        for part in ["Trains.", "FORETASTE_REWARD_TRAINER_LISTEN", "DATABASE_URL", "FORETASTE_X", "FORETASTE_ARTIFACTS_ALLOW"] {
            #expect(text.contains(part))
        }
    }

    @Test("a part that fails ends the service with its error, and so does a port that is taken")
    func failure() async throws {
        struct Broken: Error {}
        var application = ServiceApplication(configuration: try configuration(), logger: logger())
        application.addTask("worker") { throw Broken() }
        let failing = application
        await #expect(throws: Broken.self) { try await failing.run(handlingSignals: false) }
        let control = ServiceControl()
        let first = ServiceApplication(configuration: try configuration(), logger: logger())
        let running = Task { try await first.run(handlingSignals: false, control: control) }
        let port = Probe(url: try await control.listening()).port
        let second = ServiceApplication(
            configuration: try configuration(["FORETASTE_INGEST_LISTEN": "127.0.0.1:\(port)"]), logger: logger())
        await #expect(throws: (any Error).self) { _ = try await second.run(handlingSignals: false) }
        await control.shutDown()
        try await running.value
    }
}

/// Hears of the shutdown only by cancellation.
private struct Stubborn: Service {
    func run() async throws { try? await Task.sleep(for: .seconds(1000)) }
}
