import HTTPTypes
import Hummingbird
import Logging
import Metrics

/// Gives a request its id, counts and times it, and logs one line when it is answered: the path without its query.
struct RequestObserver: RouterMiddleware {
    typealias Context = ServiceContext
    private static let requestID = HTTPField.Name("X-Request-Id")!
    private static let quiet: Set<String> = ["/livez", "/readyz", "/metrics"]
    let level: Logger.Level
    private let running = Meter(label: "foretaste_requests_running")

    func handle(
        _ request: Request, context: ServiceContext, next: (Request, ServiceContext) async throws -> Response
    ) async throws -> Response {
        var context = context
        let start = ContinuousClock.now
        let identifier = request.headers[Self.requestID].flatMap(Self.acceptable) ?? Self.newID()
        context.logger.logLevel = level
        context.logger[metadataKey: "hb.request.id"] = .string(identifier)
        context.requestID = identifier
        running.increment()
        defer { running.decrement() }
        var response = try await next(request, context)
        response.headers[Self.requestID] = identifier
        let elapsed = start.duration(to: .now)
        // The pattern, not the path: a label of few values.
        let matched = context.endpointPath.map { $0 == "NotFound" ? "unmatched" : $0 } ?? "unmatched"
        let route = matched == "unmatched" || matched.hasPrefix("/") ? matched : "/" + matched
        let method = Self.methods.contains(request.method) ? request.method.rawValue : "OTHER"
        Counter(label: "foretaste_requests_total", dimensions: [("route", route), ("method", method), ("code", "\(response.status.code)")])
            .increment()
        Metrics.Timer(label: "foretaste_request_duration_seconds", dimensions: [("route", route), ("method", method)])
            .recordNanoseconds(elapsed.components.seconds * 1_000_000_000 + elapsed.components.attoseconds / 1_000_000_000)
        context.logger.log(
            level: Self.quiet.contains(request.uri.path) ? .debug : .info, "\(method) \(request.uri.path)",
            metadata: [
                "status": .stringConvertible(response.status.code),
                "milliseconds": .stringConvertible((Double(elapsed / .microseconds(1)) / 1000).rounded(toPlaces: 3)),
            ])
        return response
    }

    private static let methods: Set<HTTPRequest.Method> = [.get, .head, .post, .put, .patch, .delete, .options]

    private static func newID() -> String {
        let digits = String(UInt64.random(in: 0...UInt64.max), radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    /// A client's id is taken when it cannot do harm in a log.
    private static func acceptable(_ text: String) -> String? {
        let legal = text.utf8.allSatisfy { byte in
            (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
                || byte == UInt8(ascii: "-") || byte == UInt8(ascii: "_") || byte == UInt8(ascii: ".")
        }
        return legal && (1...64).contains(text.utf8.count) ? text : nil
    }
}

extension Double {
    fileprivate func rounded(toPlaces places: Int) -> Double {
        var factor = 1.0
        for _ in 0..<places { factor *= 10 }
        return (self * factor).rounded() / factor
    }
}
