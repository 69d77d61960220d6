import Artifacts
import Logging
import Preferences
import Synchronization

/// Writes down what was fetched, a second later and off the requests' path. Losing these rows loses nothing but the record.
final class FetchNotes: Sendable {
    private let log: ArtifactFetchLog
    private let logger: Logger
    private let fetches = Mutex<[FetchedArtifact]>([])

    init(log: ArtifactFetchLog, logger: Logger) {
        self.log = log
        self.logger = logger
    }

    func add(_ fetch: FetchedArtifact) { fetches.withLock { $0.append(fetch) } }

    func run() async throws {
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

    private func write() async {
        let taken = fetches.withLock { fetches in
            defer { fetches = [] }
            return fetches
        }
        guard !taken.isEmpty else { return }
        let rows = taken.map {
            ArtifactFetchLog.Fetch(url: $0.url, sha256: $0.sha256, bytes: Int64($0.bytes), service: LatentScorerService.name)
        }
        do { try await log.record(rows) } catch { logger.warning("Fetches could not be recorded", metadata: ["error": "\(error)"]) }
    }
}
