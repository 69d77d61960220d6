import HTTPTypes
public import Hummingbird
import NIOCore
import Synchronization

/// What a handler is given beside the request.
public struct ServiceContext: RequestContext {
    public var coreContext: CoreRequestContextStorage

    /// Made by the server, once a request.
    public init(source: ApplicationRequestContextSource) {
        coreContext = .init(source: source)
    }
}

/// The router that a service adds its routes to.
public typealias ServiceRouter = Router<ServiceContext>

extension Request {
    /// The whole body. Throws 413 for a longer one, after reading past what is too much: a client that sends everything before it reads
    /// the answer would otherwise wait for us while we wait for it. Nothing beyond the limit is kept, and what is longer than `drainLimit`
    /// is not read at all.
    public func body(upTo limit: Int) async throws -> ByteBuffer {
        if let length = headers[.contentLength].flatMap({ Int($0) }), length > max(limit, Self.drainLimit) {
            throw Problem.tooLarge(limit: limit)
        }
        var collected = ByteBuffer()
        var total = 0
        for try await chunk in body {
            total += chunk.readableBytes
            if total <= limit {
                collected.writeImmutableBuffer(chunk)
            } else {
                collected = ByteBuffer()
                if total > max(limit, Self.drainLimit) { break }
            }
        }
        guard total <= limit else { throw Problem.tooLarge(limit: limit) }
        return collected
    }

    /// A body that is too long is read to its end up to this, 1 GiB.
    private static var drainLimit: Int { 1 << 30 }

    /// The body's media type in lower case, without parameters.
    public var mediaType: String? {
        headers[.contentType].map { $0.prefix { $0 != ";" }.lowercased().trimmingPrefix(while: \.isWhitespace) }.map {
            String($0.reversed().drop(while: \.isWhitespace).reversed())
        }
    }

    /// Throws 415 unless the body is declared as one of `types`; answers which.
    @discardableResult
    public func requireMediaType(_ types: String...) throws -> String {
        guard let found = mediaType, types.contains(found) else {
            throw Problem.unsupportedMediaType(found: mediaType, expected: types)
        }
        return found
    }
}

extension Response {
    /// A JSON answer from bytes that are JSON.
    public static func json(_ bytes: some Sequence<UInt8>, status: HTTPResponse.Status = .ok, headers: HTTPFields = [:]) -> Response {
        let buffer = ByteBuffer(bytes: bytes)
        var headers = headers
        headers[.contentType] = "application/json"
        headers[.contentLength] = "\(buffer.readableBytes)"
        return Response(status: status, headers: headers, body: .init(byteBuffer: buffer))
    }
}

/// Which methods exist at which path. The router itself answers 404 for both kinds of mistake.
final class RouteTable: Sendable {
    private struct Entry: Sendable {
        let method: String
        let segments: [Substring]
    }

    private let entries = Mutex<[Entry]>([])

    func fill(from routes: [(method: String, path: String)]) {
        entries.withLock { $0 = routes.map { Entry(method: $0.method, segments: Self.segments($0.path)) } }
    }

    func match(_ method: HTTPRequest.Method, _ path: String) -> Bool {
        methods(for: path).contains(method.rawValue)
    }

    func methods(for path: String) -> [String] {
        let segments = Self.segments(path)
        let found = entries.withLock { $0.filter { Self.matches($0.segments, segments) }.map(\.method) }
        return Set(found).sorted()
    }

    private static func segments(_ path: String) -> [Substring] {
        path.split(separator: "/", omittingEmptySubsequences: true)
    }

    private static func matches(_ pattern: [Substring], _ path: [Substring]) -> Bool {
        for (index, segment) in pattern.enumerated() {
            if segment == "**" { return true }
            guard index < path.count else { return false }
            if segment != path[index] && segment != "*" && !segment.hasPrefix("{") && !segment.hasPrefix(":") { return false }
        }
        return pattern.count == path.count
    }
}
