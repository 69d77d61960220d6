import HTTPTypes
public import Hummingbird
import NIOCore
import Synchronization

/// What a handler is given beside the request.
public struct ServiceContext: RequestContext {
    public var coreContext: CoreRequestContextStorage
    /// Who asks; anonymous where nobody is asked for a key.
    public internal(set) var caller = Caller.anonymous
    /// The id in the answer's `X-Request-Id` and in the request's log lines.
    public internal(set) var requestID = ""
    /// The peer's address, without its port.
    public var remoteAddress: String? { channel?.remoteAddress?.ipAddress }
    let channel: (any Channel)?

    /// Made by the server, once a request.
    public init(source: ApplicationRequestContextSource) {
        coreContext = .init(source: source)
        channel = source.channel
    }
}

/// The router that a service adds its routes to.
public typealias ServiceRouter = Router<ServiceContext>

extension Request {
    /// The whole body. Throws 413 for a longer one: at once when it is declared as longer, so that a client that asked with
    /// `Expect: 100-continue` need not send it; ``ConnectionWatch`` sees to clients that send everything before they read.
    ///
    /// - Parameters:
    ///   - limit: how many bytes the body may have, unpacked.
    ///   - gzip: whether `Content-Encoding: gzip` is taken.
    ///   - admit: told of each piece's size before it is held; throws where there is no room for it.
    public func body(upTo limit: Int, gzip: Bool = false, admit: (Int) throws -> Void = { _ in }) async throws -> ByteBuffer {
        var collected = ByteBuffer()
        // The first piece is taken as it is, without a copy.
        try await read(upTo: limit, gzip: gzip) { piece in
            try admit(piece.readableBytes)
            if collected.capacity == 0 { collected = piece } else { collected.writeImmutableBuffer(piece) }
        }
        return collected
    }

    /// The body piece by piece, unpacked, for those who need not hold it whole. Throws as ``body(upTo:gzip:)`` does, by then perhaps after some
    /// pieces.
    public func read(upTo limit: Int, gzip: Bool = false, _ consume: (ByteBuffer) async throws -> Void) async throws {
        let isGzip = try isGzip(allowed: gzip)
        let declared = headers[.contentLength].flatMap { Int($0) }
        if let declared, declared > limit { throw Problem.tooLarge(limit: limit) }
        var total = 0
        if isGzip {
            var inflater = Inflater()
            for try await chunk in body {
                total += chunk.readableBytes
                var rest = chunk
                while let piece = try inflater.next(&rest, upTo: limit) { try await consume(piece) }
            }
            guard inflater.isComplete else { throw Problem.badRequest("The gzip stream of the body ends early.") }
        } else {
            for try await chunk in body {
                total += chunk.readableBytes
                if total > limit { throw Problem.tooLarge(limit: limit) }
                try await consume(chunk)
            }
        }
        // A connection that breaks looks like the end of the body.
        if let declared, total < declared { throw ConnectionWatch.BodyCutOff() }
    }

    private func isGzip(allowed: Bool) throws -> Bool {
        guard let encoding = headers[.contentEncoding]?.lowercased(), encoding != "identity" else { return false }
        guard allowed, encoding == "gzip" || encoding == "x-gzip" else {
            throw Problem.unsupportedEncoding(encoding, expected: allowed ? ["gzip"] : [])
        }
        return true
    }

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
        let found = entries.withLock { $0.filter { Self.matches($0.segments, segments) } }
        // A path that is written out is not also an instance of a pattern.
        let exact = found.filter { $0.segments == segments }
        return Set((exact.isEmpty ? found : exact).map(\.method)).sorted()
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
