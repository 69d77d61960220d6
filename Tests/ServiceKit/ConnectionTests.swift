import Foundation
import Hummingbird
import Logging
import NIOCore
import NetworkTesting
import Synchronization
import Testing

@testable import ServiceKit

/// What a connection does with clients that wait, dawdle or break off. By raw sockets, because a client library would be polite.
@Suite("A connection", .serialized, .timeLimit(.minutes(1)))
struct ConnectionTests {
    /// A socket that sends and reads what it is told to, on a thread of its own.
    final class Wire: Sendable {
        let descriptor: CInt

        init(port: Int) throws {
            descriptor = try Loopback.connect(to: port)
        }

        deinit { close(descriptor) }

        func send(_ text: String) {
            Loopback.send(text.utf8, on: descriptor)
        }

        /// What comes until `words` are there, the other side closes, or `seconds` passed.
        func read(until words: String? = nil, seconds: Double = 10) async -> (text: String, closed: Bool) {
            await withCheckedContinuation { continuation in
                Thread.detachNewThread { [self] in
                    var (received, closed) = ("", false)
                    let deadline = Date.now + seconds
                    var buffer = [UInt8](repeating: 0, count: 65536)
                    while Date.now < deadline, words.map({ !received.contains($0) }) ?? true {
                        var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
                        guard poll(&poller, 1, 50) > 0 else { continue }
                        let count = recv(descriptor, &buffer, buffer.count, 0)
                        guard count > 0 else {
                            closed = true
                            break
                        }
                        received += String(decoding: buffer[..<count], as: UTF8.self)
                    }
                    continuation.resume(returning: (received, closed))
                }
            }
        }
    }

    /// A service with a route that reads up to 1000 bytes and one that reads nothing; `reached` counts bodies that arrived whole.
    private func serving(
        _ variables: [String: String] = [:], _ body: (Int, _ reached: @Sendable () -> [Int]) async throws -> Void
    ) async throws {
        let configuration = try ServiceConfiguration.fromEnvironment(
            service: "ingest",
            ServiceEnvironment(["FORETASTE_DATA": "/nowhere", "FORETASTE_SHUTDOWN_SECONDS": "3"].merging(variables) { $1 }))
        var application = ServiceApplication(configuration: configuration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        let sizes = Mutex<[Int]>([])
        application.addRoutes { router in
            router.post("/v1/things") { request, _ in
                let size = try await request.body(upTo: 1000).readableBytes
                sizes.withLock { $0.append(size) }
                return Response.json("{\"size\":\(size)}".utf8)
            }
            router.post("/v1/refused") { _, _ -> Response in throw Problem.unauthorized("No.") }
            router.get("/v1/large") { _, _ in Response.json(Array(repeating: UInt8(ascii: " "), count: 64 << 20)) }
        }
        let control = ServiceControl()
        let running = Task { [application] in try await application.run(handlingSignals: false, control: control) }
        let url = try await control.listening()
        do {
            try await body(Int(url.split(separator: ":").last!)!) { sizes.withLock { $0 } }
        } catch {
            await control.shutDown()
            throw error
        }
        await control.shutDown()
        try await running.value
    }

    private func head(_ path: String, _ length: Int, _ more: String = "") -> String {
        "POST \(path) HTTP/1.1\r\nHost: x\r\nContent-Length: \(length)\r\n\(more)\r\n"
    }

    @Test("a client that waits for 100 Continue is told to go on, or why not before it sends a byte")
    func expectation() async throws {
        try await serving { port, reached in
            let polite = try Wire(port: port)
            polite.send(head("/v1/things", 5, "Expect: 100-continue\r\n"))
            let word = await polite.read(until: "\r\n\r\n")
            #expect(word.text == "HTTP/1.1 100 Continue\r\n\r\n")
            polite.send("hello")
            #expect(await polite.read(until: "}").text.contains("{\"size\":5}"))
            // The connection goes on.
            polite.send(head("/v1/things", 2) + "ab")
            #expect(await polite.read(until: "}").text.contains("{\"size\":2}"))

            for (path, length, status) in [("/v1/things", 1001, "413"), ("/v1/refused", 10, "401"), ("/nowhere", 10, "404")] {
                let refused = try Wire(port: port)
                refused.send(head(path, length, "Expect: 100-continue\r\n"))
                let answer = await refused.read()
                #expect(answer.text.hasPrefix("HTTP/1.1 \(status)") && answer.closed, "\(answer)")
                #expect(answer.text.lowercased().contains("connection: close") && !answer.text.contains("100 Continue"))
            }
            let strange = try Wire(port: port)
            strange.send(head("/v1/things", 1, "Expect: a miracle\r\n"))
            #expect(await strange.read(until: "}").text.hasPrefix("HTTP/1.1 417"))
            #expect(reached() == [5, 2])
        }
    }

    @Test("a body that is too large is refused before it has arrived, and the connection serves the next request")
    func early() async throws {
        try await serving { port, reached in
            let wire = try Wire(port: port)
            wire.send(head("/v1/things", 100_000) + "only the beginning")
            let answer = await wire.read(until: "}")
            #expect(answer.text.hasPrefix("HTTP/1.1 413") && !answer.closed)
            wire.send(String(repeating: "x", count: 100_000 - "only the beginning".count))
            wire.send(head("/v1/things", 3) + "abc")
            #expect(await wire.read(until: "}").text.contains("{\"size\":3}"))
            #expect(reached() == [3])
        }
    }

    @Test("a head that dribbles in is given up, and so is a connection that never says anything whole")
    func slowHead() async throws {
        try await serving(["FORETASTE_HEAD_SECONDS": "0.5"]) { port, _ in
            let wire = try Wire(port: port)
            let dribble = Task {
                for character in "POST /v1/things HTTP/1.1\r\nX-Long: " + String(repeating: "x", count: 1000) {
                    wire.send(String(character))
                    try await Task.sleep(for: .milliseconds(20))
                }
            }
            let answer = await wire.read()
            dribble.cancel()
            #expect(answer.closed && answer.text.hasPrefix("HTTP/1.1 408"), "\(answer)")
        }
    }

    @Test("a body that dribbles in is given up and never handled as if it were whole")
    func slowBody() async throws {
        try await serving(["FORETASTE_BODY_SECONDS": "0.5"]) { port, reached in
            for framing in ["Content-Length: 500\r\n", "Transfer-Encoding: chunked\r\n"] {
                let wire = try Wire(port: port)
                wire.send("POST /v1/things HTTP/1.1\r\nHost: x\r\n\(framing)\r\n")
                let dribble = Task {
                    for _ in 0..<400 {
                        wire.send(framing.contains("chunked") ? "1\r\nx\r\n" : "x")
                        try await Task.sleep(for: .milliseconds(20))
                    }
                }
                #expect(await wire.read().closed)
                dribble.cancel()
            }
            // Two that break off in the middle.
            for framing in ["Content-Length: 500\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
                let wire = try Wire(port: port)
                wire.send("POST /v1/things HTTP/1.1\r\nHost: x\r\n" + framing)
                try await Task.sleep(for: .milliseconds(100))
                shutdown(wire.descriptor, Int32(SHUT_WR))
                _ = await wire.read(seconds: 2)
            }
            #expect(reached() == [])
        }
    }
}
