import CLibpq
import CSpawn
import Glibc
import Logging

/// One connection, driven in libpq's non-blocking mode on ``PostgresActor``'s thread.
///
/// Calls that overlap are served one after another. A query whose task is cancelled is cancelled on the server, and its connection
/// stays usable.
@PostgresActor
public final class PostgresConnection {
    /// The server's process for this connection, as `pg_backend_pid()` says.
    public let backendProcess: Int32
    let logger: Logger
    private(set) var handle: OpaquePointer?
    private var isBusy = false
    private var turns: [CheckedContinuation<Void, Never>] = []
    private var exchangeNumber: UInt64 = 0
    /// Since when the server owes an answer; nil while it owes none.
    private(set) var owingSince: UInt64?
    private var pendingCancels = 0
    private var cancelWaiters: [CheckedContinuation<Void, Never>] = []
    private(set) var notifications: [(channel: String, payload: String)] = []
    var preparedStatements = PreparedStatements()

    init(handle: OpaquePointer, logger: Logger) {
        self.handle = handle
        self.logger = logger
        backendProcess = PQbackendPID(handle)
    }

    isolated deinit {
        if let handle { PQfinish(handle) }
    }

    /// Sends one statement with its parameters (`$1`, `$2` …) and returns the rows of its answer.
    ///
    /// Throws ``PostgresError``, and `CancellationError` when the task was cancelled before the server had finished.
    @discardableResult
    public func query(_ sql: String, _ parameters: [PostgresValue] = []) async throws -> [PostgresRow] {
        try await query(sql, parameters, cancellable: true).rows
    }

    /// The same, with the number of rows that an INSERT, UPDATE or DELETE touched.
    public func run(_ sql: String, _ parameters: [PostgresValue] = []) async throws -> PostgresAnswer {
        try await query(sql, parameters, cancellable: true)
    }

    /// Runs a script of several statements without parameters, in one implicit transaction unless the script says otherwise.
    public func execute(_ script: String) async throws {
        _ = try await exchange(cancellable: true) { PQsendQuery($0, script) }
    }

    /// Runs `body` between BEGIN and COMMIT. Whatever `body` throws rolls the transaction back, and is thrown on.
    ///
    /// - Parameter options: what stands behind BEGIN, such as `ISOLATION LEVEL SERIALIZABLE`.
    @discardableResult
    public func transaction<Result>(
        _ options: String = "", isolation: isolated (any Actor)? = #isolation, _ body: (PostgresConnection) async throws -> Result
    ) async throws -> Result {
        _ = try await query("BEGIN \(options)", [], cancellable: true)
        let result: Result
        do {
            result = try await body(self)
        } catch {
            // A rollback that fails leaves a connection that the pool throws away; the first error is the one that matters.
            _ = try? await query("ROLLBACK", [], cancellable: false)
            throw error
        }
        let answer = try await query("COMMIT", [], cancellable: false)
        // After an error that the body swallowed, COMMIT rolls back and says so.
        if answer.command == "ROLLBACK" {
            throw PostgresError(sqlState: "25P02", message: "the transaction was rolled back, because a statement in it had failed")
        }
        return result
    }

    /// Whether libpq still has the connection, as far as it knows without asking.
    var isUsable: Bool { handle.map { PQstatus($0) == CONNECTION_OK } ?? false }

    /// Whether the connection may go to somebody else: alive, and in no transaction.
    var isReusable: Bool { isUsable && PQtransactionStatus(handle) == PQTRANS_IDLE && !isBusy }

    /// Looks, without waiting, whether the server has hung up on an idle connection.
    func noticeLoss() {
        guard let handle, isUsable else { return }
        var descriptor = pollfd(fd: PQsocket(handle), events: Int16(POLLIN), revents: 0)
        while poll(&descriptor, 1, 0) > 0, isUsable {
            if PQconsumeInput(handle) == 0 { return }
            takeNotifications()
            descriptor.fd = PQsocket(handle)
            descriptor.revents = 0
        }
    }

    func close() {
        if let handle { PQfinish(handle) }
        handle = nil
    }

    func query(_ sql: String, _ parameters: [PostgresValue], cancellable: Bool) async throws -> PostgresAnswer {
        let results = try await exchange(cancellable: cancellable) { handle in
            withCStrings(parameters.map(\.text)) { values in
                PQsendQueryParams(handle, sql, CInt(parameters.count), nil, values, nil, nil, 0)
            }
        }
        return PostgresAnswer(results.last ?? nil)
    }

    // MARK: - One exchange

    /// Sends something and collects all its results.
    func exchange(cancellable: Bool, _ send: (OpaquePointer) -> CInt) async throws -> [ResultStorage?] {
        try await inTurn(cancellable: cancellable) { try await exchangeNow(send) }
    }

    /// The same for callers whose turn it is.
    func exchangeNow(_ send: (OpaquePointer) -> CInt) async throws -> [ResultStorage?] {
        guard let handle, isUsable else { throw PostgresError.connectionLost("") }
        owingSince = PollLoop.now
        defer { owingSince = nil }
        guard send(handle) == 1 else { throw currentError() }
        try await flush()
        return try await results()
    }

    /// Waits until no other call is under way, runs `body`, and has the server stop it when the task is cancelled.
    func inTurn<Result>(cancellable: Bool, _ body: () async throws -> Result) async throws -> Result {
        if isBusy {
            await PostgresActor.suspend { turns.append($0) }
        }
        isBusy = true
        exchangeNumber += 1
        let number = exchangeNumber
        func finish() {
            if turns.isEmpty { isBusy = false } else { turns.removeFirst().resume() }
        }
        do {
            if cancellable { try Task.checkCancellation() }
            let result: Result
            if cancellable {
                result = try await withTaskCancellationHandler {
                    try await body()
                } onCancel: {
                    Task { @PostgresActor in self.cancelOnServer(number) }
                }
            } else {
                result = try await body()
            }
            await cancelsDelivered()
            finish()
            return result
        } catch {
            await cancelsDelivered()
            finish()
            if cancellable, Task.isCancelled, let error = error as? PostgresError, error.sqlState == "57014" { throw CancellationError() }
            throw error
        }
    }

    /// Sends what libpq has buffered, reading meanwhile, so that two full buffers do not wait for each other.
    func flush() async throws {
        while let handle {
            let state = PQflush(handle)
            if state == 0 { return }
            // A failed write: the server's reason, if it gave one, is among the results.
            if state < 0 { return }
            let readiness = await PostgresActor.wait(PQsocket(handle), POLLIN | POLLOUT)
            if readiness.contains(.readable), PQconsumeInput(handle) == 0 { return }
        }
    }

    /// All results of what was sent; throws the first error after the last of them was read.
    func results() async throws -> [ResultStorage?] {
        var storages: [ResultStorage?] = []
        var failure: PostgresError?
        while let result = try await nextResult() {
            switch PQresultStatus(result) {
            case PGRES_TUPLES_OK, PGRES_COMMAND_OK, PGRES_EMPTY_QUERY:
                storages.append(ResultStorage(result))
            case PGRES_COPY_IN:
                PQclear(result)
                // Inside `copyIn` the data follows; anywhere else the statement was a mistake.
                return storages
            case PGRES_COPY_OUT, PGRES_COPY_BOTH:
                PQclear(result)
                close()
                throw PostgresError(sqlState: "0A000", message: "COPY TO STDOUT is not supported here")
            default:
                if failure == nil { failure = PostgresError(result: result) }
                PQclear(result)
            }
        }
        if !isUsable { throw failure ?? currentError() }
        if let failure { throw failure }
        return storages
    }

    private func nextResult() async throws -> OpaquePointer? {
        while let handle {
            takeNotifications()
            // On a dead connection PQgetResult returns what was read of the server's last words, and does not block.
            if PQisBusy(handle) == 0 || PQstatus(handle) != CONNECTION_OK {
                let result = PQgetResult(handle)
                // It may have swallowed input that holds notifications.
                takeNotifications()
                return result
            }
            _ = await PostgresActor.wait(PQsocket(handle), POLLIN)
            _ = PQconsumeInput(handle)
        }
        throw PostgresError.connectionLost("the connection was closed")
    }

    func currentError() -> PostgresError {
        guard let handle else { return .connectionLost("") }
        let message = String(cString: PQerrorMessage(handle)).onOneLine
        return isUsable ? PostgresError(sqlState: "HY000", message: message) : .connectionLost(message)
    }

    // MARK: - Cancellation

    /// Asks the server to cancel an exchange, unless it is over. `PQcancel` blocks, so a thread of its own calls it.
    private func cancelOnServer(_ number: UInt64) {
        guard number == exchangeNumber, isBusy, let handle, let cancel = PQgetCancel(handle) else { return }
        pendingCancels += 1
        nonisolated(unsafe) let request = cancel
        detachThread("pg-cancel") {
            var buffer = [CChar](repeating: 0, count: 256)
            PQcancel(request, &buffer, CInt(buffer.count))
            PQfreeCancel(request)
            Task { @PostgresActor in self.cancelDelivered() }
        }
    }

    private func cancelDelivered() {
        pendingCancels -= 1
        guard pendingCancels == 0 else { return }
        let waiters = cancelWaiters
        cancelWaiters = []
        for waiter in waiters { waiter.resume() }
    }

    /// A request that is still on its way would hit the next statement.
    private func cancelsDelivered() async {
        if pendingCancels > 0 { await PostgresActor.suspend { cancelWaiters.append($0) } }
    }

    // MARK: - Notifications

    private func takeNotifications() {
        while let handle, let notification = PQnotifies(handle) {
            notifications.append((String(cString: notification.pointee.relname), String(cString: notification.pointee.extra)))
            PQfreemem(notification)
        }
    }

    /// Waits for notifications of an idle connection. Returns an empty list when `seconds` pass without any.
    func nextNotifications(within seconds: Double) async throws -> [(channel: String, payload: String)] {
        guard let handle, isUsable else { throw currentError() }
        takeNotifications()
        if notifications.isEmpty {
            let readiness = await PostgresActor.waitCancellably(PQsocket(handle), POLLIN, seconds: seconds)
            try Task.checkCancellation()
            if readiness.contains(.readable) {
                let isAlive = PQconsumeInput(handle) == 1
                takeNotifications()
                if !isAlive || !isUsable, notifications.isEmpty { throw currentError() }
            }
        }
        defer { notifications = [] }
        return notifications
    }
}

/// What a statement was answered with.
public struct PostgresAnswer: Sendable {
    /// The rows.
    public let rows: [PostgresRow]
    /// The number of rows that the statement returned or touched.
    public let rowCount: Int
    /// The command tag's first words, such as `UPDATE`.
    public let command: String

    init(_ storage: ResultStorage?) {
        guard let storage else {
            (rows, rowCount, command) = ([], 0, "")
            return
        }
        rows = (0..<storage.rowCount).map { PostgresRow(storage: storage, index: $0) }
        rowCount = Int(String(cString: PQcmdTuples(storage.handle))) ?? rows.count
        command = String(cString: PQcmdStatus(storage.handle)).split(separator: " ").prefix { Int($0) == nil }.joined(separator: " ")
    }
}

/// Runs `body` on a thread of its own, for calls that block.
func detachThread(_ name: String, _ body: @escaping @Sendable () -> Void) {
    final class Box: Sendable {
        let name: String
        let body: @Sendable () -> Void
        init(_ name: String, _ body: @escaping @Sendable () -> Void) { (self.name, self.body) = (name, body) }
    }
    var thread = pthread_t()
    let box = Unmanaged.passRetained(Box(name, body))
    let status = pthread_create(
        &thread, nil,
        { argument in
            let box = Unmanaged<Box>.fromOpaque(argument!).takeRetainedValue()
            foretaste_name_thread(box.name)
            box.body()
            return nil
        }, box.toOpaque())
    precondition(status == 0, "pthread_create: \(String(cString: strerror(status)))")
    pthread_detach(thread)
}
