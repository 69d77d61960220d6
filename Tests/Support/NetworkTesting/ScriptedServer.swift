import Foundation
import Synchronization

/// An HTTP server on a real socket that does exactly what a test tells it to, wrong things included.
public final class ScriptedServer: Sendable {
    /// A request's head.
    public struct Request: Sendable {
        public let method: String
        public let path: String
        public let headers: [String: String]
        public let body: [UInt8]
    }

    /// What it does next.
    public enum Step: Sendable {
        case send([UInt8])
        case pause(Double)
        case perform(@Sendable () -> Void)
    }

    public typealias Script = @Sendable (_ request: Request, _ number: Int) -> [Step]

    private let listener: LoopbackListener
    private let log = Log()

    private final class Log: Sendable {
        let requests = Mutex<[Request]>([])
    }

    public var port: Int { listener.port }
    public var url: String { "http://127.0.0.1:\(port)" }
    /// What was asked for, in the order in which it came.
    public var requests: [Request] { log.requests.withLock { $0 } }

    /// Serves as long as it is held; each connection answers one request and closes.
    public init(_ script: @escaping Script) throws {
        listener = try LoopbackListener { [log] connection in Self.serve(connection, script, log) }
    }

    private static func serve(_ connection: Int32, _ script: Script, _ log: Log) {
        guard let request = readRequest(connection) else { return }
        let number = log.requests.withLock {
            $0.append(request)
            return $0.count
        }
        for step in script(request, number) {
            switch step {
            case .perform(let action): action()
            case .pause(let seconds): Thread.sleep(forTimeInterval: seconds)
            case .send(let bytes): guard Loopback.send(bytes, on: connection) else { return }
            }
        }
    }

    private static func readRequest(_ connection: Int32) -> Request? {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        func more() -> Bool {
            let count = recv(connection, &buffer, buffer.count, 0)
            guard count > 0 else { return false }
            bytes += buffer[..<count]
            return true
        }
        var end = bytes.firstRange(of: Array("\r\n\r\n".utf8))
        while end == nil {
            guard more() else { return nil }
            end = bytes.firstRange(of: Array("\r\n\r\n".utf8))
        }
        let lines = String(decoding: bytes[..<end!.lowerBound], as: UTF8.self).split(separator: "\r\n")
        let parts = lines[0].split(separator: " ")
        var headers: [String: String] = [:]
        for line in lines.dropFirst() {
            let pair = line.split(separator: ":", maxSplits: 1)
            headers[pair[0].lowercased()] = pair.count > 1 ? pair[1].trimmingCharacters(in: .whitespaces) : ""
        }
        let length = headers["content-length"].flatMap { Int($0) } ?? 0
        while bytes.count < end!.upperBound + length { guard more() else { return nil } }
        return Request(
            method: String(parts[0]), path: String(parts[1]), headers: headers, body: Array(bytes[end!.upperBound...].prefix(length)))
    }
}

extension [ScriptedServer.Step] {
    /// A whole answer.
    public static func answer(_ status: String, _ body: [UInt8] = [], headers: [String] = [], length: Int? = nil) -> Self {
        let head = (["HTTP/1.1 \(status)", "Content-Length: \(length ?? body.count)", "Connection: close"] + headers).joined(
            separator: "\r\n")
        return [.send(Swift.Array("\(head)\r\n\r\n".utf8)), .send(body)]
    }

    /// A server that knows ranges, and breaks the connection after `limit` bytes of body.
    public static func ranged(_ request: ScriptedServer.Request, _ body: [UInt8], breakAfter limit: Int = .max) -> Self {
        guard let range = request.headers["range"], let start = Int(range.dropFirst(6).prefix { $0 != "-" }) else {
            return answer("200 OK", Swift.Array<UInt8>(body.prefix(limit)), length: body.count)
        }
        guard start < body.count else { return answer("416 Range Not Satisfiable", headers: ["Content-Range: bytes */\(body.count)"]) }
        let rest = body[start...]
        return answer(
            "206 Partial Content", Swift.Array<UInt8>(rest.prefix(limit)),
            headers: ["Content-Range: bytes \(start)-\(body.count - 1)/\(body.count)"],
            length: rest.count)
    }
}
