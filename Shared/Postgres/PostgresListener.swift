import CLibpq
import Glibc
import Logging
import Synchronization

/// What a listener hears.
public enum PostgresNotification: Sendable, Hashable {
    /// LISTEN has been said on a new connection. Whatever was notified before may have been missed: look for work now.
    case reconnected
    /// A NOTIFY.
    case message(channel: String, payload: String)

    /// The channel of a message.
    public var channel: String? { if case .message(let channel, _) = self { channel } else { nil } }
    /// The payload of a message.
    public var payload: String? { if case .message(_, let payload) = self { payload } else { nil } }
}

extension PostgresClient {
    /// Listens on channels over a connection of its own until the stream's reader stops or the client is closed.
    ///
    /// `.reconnected` comes first and again after each lost connection, which is made anew with a growing, jittered pause
    /// (0.1 s to 10 s). A connection that has been silent is pinged, so that a peer that vanished is noticed.
    public func listen(_ channels: [String]) -> AsyncStream<PostgresNotification> {
        // The newest win: a reader that lags by thousands will look at the tables anyway.
        let (stream, continuation) = AsyncStream.makeStream(of: PostgresNotification.self, bufferingPolicy: .bufferingNewest(8192))
        let listener = Listener(client: self, channels: channels) { continuation.yield($0) }
        let task = Task { @PostgresActor in
            await listener.run()
            continuation.finish()
        }
        listeners.add(task)
        continuation.onTermination = { [listeners] _ in
            task.cancel()
            listeners.remove(task)
        }
        return stream
    }

    /// Listens likewise until the task is cancelled, and calls `hear` on the thread that reads the connection: nothing that the
    /// cooperative threads are busy with delays it.
    package func listen(_ channels: [String], hear: @escaping @PostgresActor @Sendable (PostgresNotification) -> Void) async {
        let listener = Listener(client: self, channels: channels, hear: hear)
        let task = Task { @PostgresActor in await listener.run() }
        listeners.add(task)
        await withTaskCancellationHandler {
            await task.value
        } onCancel: {
            task.cancel()
        }
        listeners.remove(task)
    }

    /// The same for channels written one after another.
    public func listen(_ channels: String...) -> AsyncStream<PostgresNotification> { listen(channels) }
}

/// The tasks of a client's listeners.
final class ListenerRegistry: Sendable {
    private let tasks = Mutex<Set<Task<Void, Never>>>([])
    func add(_ task: Task<Void, Never>) { tasks.withLock { _ = $0.insert(task) } }
    func remove(_ task: Task<Void, Never>) { tasks.withLock { _ = $0.remove(task) } }
    func cancelAll() {
        for task in tasks.withLock({ $0 }) { task.cancel() }
    }
}

private struct Listener: Sendable {
    static let shortestPause = 0.1
    static let longestPause = 10.0
    static let pingDeadline = 5.0

    let configuration: PostgresConfiguration
    let applicationName: String
    let logger: Logger
    let channels: [String]
    let hear: @PostgresActor @Sendable (PostgresNotification) -> Void

    /// Keeps no reference to the client, which would never go away otherwise.
    init(client: PostgresClient, channels: [String], hear: @escaping @PostgresActor @Sendable (PostgresNotification) -> Void) {
        configuration = client.configuration
        applicationName = client.applicationName
        logger = client.logger
        self.channels = channels
        self.hear = hear
    }

    @PostgresActor
    func run() async {
        var pause = Self.shortestPause
        while !Task.isCancelled {
            do {
                let connection = try await PostgresConnection.connect(
                    configuration, applicationName: applicationName + " listen", logger: logger)
                defer { connection.close() }
                for channel in channels {
                    try await connection.query("LISTEN \"\(channel.replacing("\"", with: "\"\""))\"")
                }
                hear(.reconnected)
                pause = Self.shortestPause
                try await hearAll(connection)
            } catch {
                if Task.isCancelled { break }
                logger.info("listening connection lost; making another", metadata: ["error": "\(error)"])
            }
            // Full jitter: many listeners of one server do not come back together.
            try? await PostgresActor.sleep(seconds: Double.random(in: 0.01...pause))
            pause = min(pause * 2, Self.longestPause)
        }
    }

    @PostgresActor
    private func hearAll(_ connection: PostgresConnection) async throws {
        while true {
            let notifications = try await connection.nextNotifications(within: configuration.pingInterval)
            for notification in notifications {
                hear(.message(channel: notification.channel, payload: notification.payload))
            }
            if notifications.isEmpty { try await ping(connection) }
        }
    }

    /// A connection whose peer is gone swallows what is sent; only a deadline finds out.
    @PostgresActor
    private func ping(_ connection: PostgresConnection) async throws {
        let watchdog = Task { @PostgresActor in
            try await PostgresActor.sleep(seconds: Self.pingDeadline)
            connection.shutDown()
        }
        defer { watchdog.cancel() }
        try await connection.query("SELECT 1")
    }
}

extension PostgresConnection {
    /// Ends the socket beneath libpq, so that whoever waits on it wakes up with an error.
    func shutDown() {
        if let handle { shutdown(PQsocket(handle), CInt(SHUT_RDWR)) }
    }
}
