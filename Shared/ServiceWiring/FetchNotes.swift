public import Artifacts
public import Logging
public import Postgres
import Preferences
import Synchronization

/// What a service fetched, noted on the threads that fetch until it is written down. Losing these rows loses nothing but the record.
public final class FetchNotes: Sendable {
    private let log: ArtifactFetchLog
    private let service: String
    private let logger: Logger
    private let fetches = Mutex<[FetchedArtifact]>([])

    /// Nothing, yet.
    /// - Parameter service: who fetches.
    public init(client: PostgresClient, service: String, logger: Logger) {
        log = ArtifactFetchLog(client: client)
        self.service = service
        self.logger = logger
    }

    /// Notes a fetch; for `ArtifactFetcher`'s `onFetch`.
    public func add(_ fetch: FetchedArtifact) { fetches.withLock { $0.append(fetch) } }

    /// Writes down what was fetched since the last call.
    public func write() async {
        let taken = fetches.withLock { fetches in
            defer { fetches = [] }
            return fetches
        }
        guard !taken.isEmpty else { return }
        let rows = taken.map { ArtifactFetchLog.Fetch(url: $0.url, sha256: $0.sha256, bytes: Int64($0.bytes), service: service) }
        do { try await log.record(rows) } catch { logger.warning("Fetches could not be recorded", metadata: ["error": "\(error)"]) }
    }

    /// Writes every second, off the requests' path, and a last time when it is cancelled.
    public func run() async throws {
        while true {
            do {
                try await Task.sleep(for: .seconds(1))
            } catch {
                await write()
                throw error
            }
            await write()
        }
    }
}
