import CLibpq
import Glibc
import Logging

extension PostgresConnection {
    /// Makes a connection; throws ``PostgresError`` of class `08` (or the server's own reason) when that fails or takes too long.
    static func connect(
        _ configuration: PostgresConfiguration, applicationName: String, logger: Logger
    ) async throws -> PostgresConnection {
        let parameters = configuration.parameters(applicationName: applicationName)
        let started = withCStrings(parameters.map(\.0) + [nil]) { keywords in
            withCStrings(parameters.map(\.1) + [nil]) { values in PQconnectStartParams(keywords, values, 1) }
        }
        guard let handle = started else { throw PostgresError.cannotConnect("out of memory") }
        var isDone = false
        defer { if !isDone { PQfinish(handle) } }
        func failure() -> PostgresError {
            .cannotConnect(configuration.redacted(String(cString: PQerrorMessage(handle)).onOneLine))
        }
        guard PQstatus(handle) != CONNECTION_BAD else { throw failure() }
        // Notices would go to stderr.
        _ = PQsetNoticeReceiver(handle, { _, _ in }, nil)
        let deadline = PollLoop.now + UInt64(configuration.connectTimeout * 1e9)
        var state = PGRES_POLLING_WRITING
        while state != PGRES_POLLING_OK {
            guard state != PGRES_POLLING_FAILED else { throw failure() }
            let now = PollLoop.now
            guard now < deadline else {
                let host = PQhost(handle).map { String(cString: $0) } ?? "the server"
                throw PostgresError.cannotConnect("\(host) did not answer within \(configuration.connectTimeout) s")
            }
            // The descriptor changes from host to host, and when TLS is refused.
            let readiness = await PostgresActor.waitCancellably(
                PQsocket(handle), state == PGRES_POLLING_READING ? POLLIN : POLLOUT, seconds: Double(deadline - now) / 1e9)
            try Task.checkCancellation()
            if readiness.contains(.timedOut) { continue }
            state = PQconnectPoll(handle)
        }
        guard PQsetnonblocking(handle, 1) == 0 else { throw failure() }
        isDone = true
        return PostgresConnection(handle: handle, logger: logger)
    }
}
