import Logging

/// A bounded set of connections, lent to one task at a time in the order of asking.
@PostgresActor
final class ConnectionPool {
    /// What a waiting task is given: a connection, or leave to make one.
    private enum Grant {
        case connection(PostgresConnection)
        case place
    }

    private let configuration: PostgresConfiguration
    private let maximum: Int
    private let applicationName: String
    private let logger: Logger
    private var idle: [PostgresConnection] = []
    private var lent: [ObjectIdentifier: PostgresConnection] = [:]
    /// Connections that exist, are being made, or are lent.
    private var count = 0
    private var waiters: [(identifier: UInt64, continuation: CheckedContinuation<Result<Grant, any Error>, Never>)] = []
    private var lastWaiter: UInt64 = 0
    private var isClosed = false

    nonisolated init(configuration: PostgresConfiguration, maximum: Int, applicationName: String, logger: Logger) {
        self.configuration = configuration
        self.maximum = maximum
        self.applicationName = applicationName
        self.logger = logger
    }

    /// A connection that nobody else uses until it is given back.
    func acquire() async throws -> PostgresConnection {
        let connection = try await obtain()
        lent[ObjectIdentifier(connection)] = connection
        return connection
    }

    private func obtain() async throws -> PostgresConnection {
        try Task.checkCancellation()
        guard !isClosed else { throw Self.closed }
        // Newest first: what was used last is least likely to have been hung up on.
        while let connection = idle.popLast() {
            connection.noticeLoss()
            if connection.isReusable { return connection }
            discard(connection)
        }
        let grant: Grant
        if count < maximum, waiters.isEmpty {
            count += 1
            grant = .place
        } else {
            grant = try await waitInLine()
        }
        switch grant {
        case .connection(let connection):
            return connection
        case .place:
            do {
                return try await PostgresConnection.connect(configuration, applicationName: applicationName, logger: logger)
            } catch {
                freePlace()
                throw error
            }
        }
    }

    /// Takes a connection back. One that is broken, or in a transaction still, is closed, and its place goes to whoever waits.
    func release(_ connection: PostgresConnection) {
        lent[ObjectIdentifier(connection)] = nil
        guard connection.isReusable, !isClosed else {
            discard(connection)
            return
        }
        if waiters.isEmpty {
            idle.append(connection)
        } else {
            waiters.removeFirst().continuation.resume(returning: .success(.connection(connection)))
        }
    }

    /// Closes what is idle, refuses whoever waits, and closes what is lent when it comes back.
    func close() {
        isClosed = true
        for connection in idle { discard(connection) }
        idle = []
        for waiter in waiters { waiter.continuation.resume(returning: .failure(Self.closed)) }
        waiters = []
    }

    /// Ends the sockets of connections that have owed an answer for longer than this.
    func hangUp(owingFor seconds: Double) {
        for connection in lent.values {
            guard let since = connection.owingSince, PollLoop.now - since > UInt64(seconds * 1e9) else { continue }
            connection.shutDown()
        }
    }

    private func discard(_ connection: PostgresConnection) {
        connection.close()
        freePlace()
    }

    private func freePlace() {
        if waiters.isEmpty { count -= 1 } else { waiters.removeFirst().continuation.resume(returning: .success(.place)) }
    }

    private func waitInLine() async throws -> Grant {
        lastWaiter += 1
        let identifier = lastWaiter
        let timer = Task { @PostgresActor [weak self, seconds = configuration.acquireTimeout] in
            try await PostgresActor.sleep(seconds: seconds)
            self?.abandon(
                identifier,
                PostgresError(sqlState: "53300", message: "no connection of the pool became free within \(seconds) s"))
        }
        defer { timer.cancel() }
        return try await withTaskCancellationHandler {
            try await PostgresActor.suspend { waiters.append((identifier, $0)) }.get()
        } onCancel: {
            Task { @PostgresActor in self.abandon(identifier, CancellationError()) }
        }
    }

    private func abandon(_ identifier: UInt64, _ error: any Error) {
        guard let index = waiters.firstIndex(where: { $0.identifier == identifier }) else { return }
        waiters.remove(at: index).continuation.resume(returning: .failure(error))
    }

    private static let closed = PostgresError(sqlState: "08003", message: "the database client was closed")
}
