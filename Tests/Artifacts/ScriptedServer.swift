import Foundation
import Synchronization

/// An HTTP server on a real socket that does exactly what a test tells it to, wrong things included.
final class ScriptedServer: Sendable {
    /// A request's head.
    struct Request: Sendable {
        let method: String
        let path: String
        let headers: [String: String]
        let body: [UInt8]
    }

    /// What it does next.
    enum Step: Sendable {
        case send([UInt8])
        case pause(Double)
    }

    typealias Script = @Sendable (_ request: Request, _ number: Int) -> [Step]

    let port: Int
    private let listener: Int32
    private let seen = Mutex<[Request]>([])

    var url: String { "http://127.0.0.1:\(port)" }
    var requests: [Request] { seen.withLock { $0 } }

    /// Serves until the test ends; each connection answers one request and closes.
    init(_ script: @escaping Script) throws {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let bound = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, size) == 0 && listen(listener, 64) == 0 && getsockname(listener, $0, &size) == 0
            }
        }
        guard bound else { throw POSIXError(.EADDRINUSE) }
        self.listener = listener
        port = Int(UInt16(bigEndian: address.sin_port))
        Thread.detachNewThread { [weak self] in
            while true {
                let connection = accept(listener, nil, nil)
                guard connection >= 0 else { return }
                Thread.detachNewThread { [weak self] in
                    self?.serve(connection, script)
                    close(connection)
                }
            }
        }
    }

    deinit {
        shutdown(listener, Int32(SHUT_RDWR))
        close(listener)
    }

    private func serve(_ connection: Int32, _ script: Script) {
        guard let request = Self.readRequest(connection) else { return }
        let number = seen.withLock {
            $0.append(request)
            return $0.count
        }
        for step in script(request, number) {
            switch step {
            case .pause(let seconds): Thread.sleep(forTimeInterval: seconds)
            case .send(let bytes):
                var rest = bytes[...]
                while !rest.isEmpty {
                    let count = rest.withUnsafeBytes { send(connection, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
                    guard count > 0 else { return }
                    rest = rest.dropFirst(count)
                }
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
    static func answer(_ status: String, _ body: [UInt8] = [], headers: [String] = [], length: Int? = nil) -> Self {
        let head = (["HTTP/1.1 \(status)", "Content-Length: \(length ?? body.count)", "Connection: close"] + headers).joined(
            separator: "\r\n")
        return [.send(Swift.Array("\(head)\r\n\r\n".utf8)), .send(body)]
    }

    /// A server that knows ranges, and breaks the connection after `limit` bytes of body.
    static func ranged(_ request: ScriptedServer.Request, _ body: [UInt8], breakAfter limit: Int = .max) -> Self {
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

/// A folder that is gone when the test is.
final class TemporaryFolder: Sendable {
    let path: String

    init() throws {
        path = FileManager.default.temporaryDirectory.path + "/foretaste-\(UInt64.random(in: 0...UInt64.max))"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    @discardableResult
    func write(_ name: String, _ bytes: [UInt8]) throws -> String {
        let file = path + "/" + name
        try FileManager.default.createDirectory(
            atPath: URL(filePath: file).deletingLastPathComponent().path, withIntermediateDirectories: true)
        try Data(bytes).write(to: URL(filePath: file))
        return file
    }

    func names(_ folder: String) -> [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: path + "/" + folder)) ?? []).sorted()
    }
}

/// Bytes that look like nothing in particular and are the same every time.
func someBytes(_ count: Int) -> [UInt8] {
    var state: UInt64 = 88_172_645_463_325_252
    return (0..<count).map { _ in
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return UInt8(truncatingIfNeeded: state)
    }
}
