import Foundation

/// An HTTP client on a raw socket: it sends what it is told to and shows what came.
public struct Probe: Sendable {
    public let port: Int

    /// What came.
    public struct Answer: Sendable {
        public let status: Int
        public let headers: [String: String]
        public let body: [UInt8]
        public var text: String { String(decoding: body, as: UTF8.self) }
        public func json() throws -> [String: Any] {
            try JSONSerialization.jsonObject(with: Data(body)) as? [String: Any] ?? [:]
        }
    }

    public init(url: String) { port = Int(url.split(separator: ":").last!)! }

    public func send(_ method: String, _ path: String, headers: [String] = [], body: [UInt8] = []) async throws -> Answer {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread { continuation.resume(with: Result { try exchange(method, path, headers: headers, body: body) }) }
        }
    }

    public func get(_ path: String, headers: [String] = []) async throws -> Answer { try await send("GET", path, headers: headers) }

    private func exchange(_ method: String, _ path: String, headers: [String], body: [UInt8]) throws -> Answer {
        let descriptor = try Loopback.connect(to: port)
        defer { close(descriptor) }
        var lines = ["\(method) \(path) HTTP/1.1", "Host: 127.0.0.1", "Connection: close"] + headers
        if !body.isEmpty || method == "POST" || method == "PUT" {
            if !headers.contains(where: { $0.hasPrefix("Content-Length") || $0.hasPrefix("Transfer-Encoding") }) {
                lines.append("Content-Length: \(body.count)")
            }
        }
        Loopback.send(Array((lines.joined(separator: "\r\n") + "\r\n\r\n").utf8) + body, on: descriptor)
        var received: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            guard count > 0 else { break }
            received += buffer[..<count]
        }
        guard let end = received.firstRange(of: Array("\r\n\r\n".utf8)) else { throw POSIXError(.EPIPE) }
        let head = String(decoding: received[..<end.lowerBound], as: UTF8.self).split(separator: "\r\n")
        var fields: [String: String] = [:]
        for line in head.dropFirst() {
            let pair = line.split(separator: ":", maxSplits: 1)
            fields[pair[0].lowercased()] = pair.count > 1 ? pair[1].trimmingCharacters(in: .whitespaces) : ""
        }
        return Answer(status: Int(head[0].split(separator: " ")[1])!, headers: fields, body: Array(received[end.upperBound...]))
    }
}
