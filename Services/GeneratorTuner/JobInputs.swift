import Artifacts
import Backbones
import Foundation
import JobQueue
import Logging
import Postgres
import Preferences
import Rewards
import ServiceKit
import Synchronization
import Tensors

/// What jobs are made from: models by their names, and artifacts by URL. Everything that is fetched is written down.
final class JobInputs: Sendable {
    let client: PostgresClient
    let registry: ModelRegistry
    let store: ArtifactStore
    let fetcher: ArtifactFetcher
    let logger: Logger
    private let folders: String
    private let log: ArtifactFetchLog
    private let fetched: FetchRecord

    init(configuration: ServiceConfiguration, client: PostgresClient, logger: Logger) throws {
        self.client = client
        self.logger = logger
        registry = ModelRegistry(client: client)
        let s3 = S3Configuration(environment: configuration.environment.variables)
        store = try ArtifactStore(location: configuration.artifactsStore, s3: s3)
        folders = configuration.artifactsCache + "/folders"
        log = ArtifactFetchLog(client: client)
        let record = FetchRecord()
        fetched = record
        fetcher = try ArtifactFetcher(
            allow: configuration.artifactsAllow + [configuration.artifactsStore].filter { !$0.hasPrefix("file:") },
            fileRoots: configuration.artifactsFileRoots, cache: configuration.artifactsCache,
            cacheLimit: configuration.artifactsCacheLimit, maximumBytes: configuration.artifactsMaximumBytes,
            deadlineSeconds: configuration.artifactsDeadlineSeconds, s3: s3,
            logger: logger, onFetch: { record.add($0) })
    }

    /// A registered model's folder on this machine; a name that is not there, or is of another kind, never will be by itself.
    /// - Parameter what: where the reference comes from, for the message: `setting generator`.
    func folder(_ reference: String, _ kind: ModelKind, what: String) async throws -> (version: ModelVersion, folder: String) {
        let version: ModelVersion
        do {
            version = try await registry.resolve(reference, kind: kind)
        } catch let error as RegistryError {
            throw JobError.permanent("\(what): \(error.description)")
        }
        return (version, try await folder(of: version))
    }

    func folder(of version: ModelVersion) async throws -> String {
        do {
            return try await ModelFolder.fetch(version.model.url, sha256: version.model.sha256, with: fetcher, folders: folders)
        } catch let error as ArtifactError where error.isPermanent {
            throw JobError.permanent("\(version.reference): \(error)")
        }
    }

    /// An artifact on this machine.
    func file(_ url: String, sha256: String?, what: String) async throws -> String {
        do {
            return try await fetcher.fetch(url, sha256: sha256)
        } catch let error as ArtifactError where error.isPermanent {
            throw JobError.permanent("\(what): \(error)")
        }
    }

    /// Writes down what was fetched since the last call. Losing these rows loses nothing but the record.
    func recordFetches() async {
        let rows = fetched.take().map {
            ArtifactFetchLog.Fetch(url: $0.url, sha256: $0.sha256, bytes: Int64($0.bytes), service: GeneratorTunerService.name)
        }
        guard !rows.isEmpty else { return }
        do { try await log.record(rows) } catch { logger.warning("Fetches could not be recorded", metadata: ["error": "\(error)"]) }
    }
}

/// Fetches noted on curl's threads until a job writes them down.
private final class FetchRecord: Sendable {
    private let fetches = Mutex<[FetchedArtifact]>([])

    func add(_ fetch: FetchedArtifact) { fetches.withLock { $0.append(fetch) } }

    func take() -> [FetchedArtifact] {
        fetches.withLock { fetches in
            defer { fetches = [] }
            return fetches
        }
    }
}
