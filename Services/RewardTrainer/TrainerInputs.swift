import Artifacts
import Backbones
import Foundation
import JobQueue
import Logging
import Postgres
import Preferences
import Rewards
import Safetensors
import ServiceKit
import Synchronization

/// What jobs are made from: models by their names, latents by URL. Everything that is fetched is written down.
final class TrainerInputs: Sendable {
    let client: PostgresClient
    let registry: ModelRegistry
    let store: ArtifactStore
    let logger: Logger
    let memory = TrainingMemory()
    private let fetcher: ArtifactFetcher
    private let folders: String
    private let log: ArtifactFetchLog
    private let fetched: FetchRecord

    init(configuration: ServiceConfiguration, client: PostgresClient, logger: Logger) throws {
        self.client = client
        self.logger = logger
        registry = ModelRegistry(client: client)
        folders = configuration.artifactsCache + "/folders"
        log = ArtifactFetchLog(client: client)
        let record = FetchRecord()
        fetched = record
        do {
            let s3 = S3Configuration(environment: configuration.environment.variables)
            store = try ArtifactStore(location: configuration.artifactsStore, s3: s3)
            fetcher = try ArtifactFetcher(
                allow: configuration.artifactsAllow + [configuration.artifactsStore].filter { !$0.hasPrefix("file:") },
                fileRoots: configuration.artifactsFileRoots, cache: configuration.artifactsCache,
                cacheLimit: configuration.artifactsCacheLimit, maximumBytes: configuration.artifactsMaximumBytes,
                deadlineSeconds: configuration.artifactsDeadlineSeconds, s3: s3, logger: logger, onFetch: { record.add($0) })
        } catch let error as ArtifactError {
            throw ConfigurationError(
                variable: "FORETASTE_ARTIFACTS_ALLOW", problem: "or FORETASTE_ARTIFACTS_STORE cannot be used: \(error)")
        }
    }

    /// Runs a job, turns what will never get better into a permanent failure, and writes down what was fetched.
    func recording(_ body: () async throws -> JobResult) async throws -> JobResult {
        do {
            let result = try await body()
            await recordFetches()
            return result
        } catch {
            await recordFetches()
            switch error {
            case let error as JobSettingsError: throw JobError.permanent(error.description)
            case let error as RewardError: throw JobError.permanent(error.description)
            case let error as BackboneError: throw JobError.permanent(error.description)
            case let error as SafetensorsError: throw JobError.permanent(error.description)
            case let error as RegistryError: throw JobError.permanent(error.description)
            case let error as ArtifactError where error.isPermanent: throw JobError.permanent(error.description)
            default: throw error
            }
        }
    }

    /// A registered model's folder on this machine.
    func folder(of version: ModelVersion) async throws -> String {
        try await ModelFolder.fetch(version.model.url, sha256: version.model.sha256, with: fetcher, folders: folders)
    }

    /// An artifact on this machine, verified.
    func file(_ url: String, sha256: String) async throws -> String { try await fetcher.fetch(url, sha256: sha256) }

    /// The generator that a setting names; without one, the only generator that is registered.
    func backbone(_ reference: String?) async throws -> ModelVersion {
        if let reference { return try await registry.resolve(reference, kind: .generator) }
        let names = Set(try await registry.list(kind: .generator).map(\.name)).sorted()
        guard names.count == 1 else {
            throw JobError.permanent(
                names.isEmpty
                    ? "no backbone is registered; import one with `foretaste models import DIR --name NAME`"
                    : "setting backbone: say which of \(names.joined(separator: ", "))")
        }
        return try await registry.resolve(names[0], kind: .generator)
    }

    /// Losing these rows loses nothing but the record.
    private func recordFetches() async {
        let rows = fetched.take().map {
            ArtifactFetchLog.Fetch(url: $0.url, sha256: $0.sha256, bytes: Int64($0.bytes), service: RewardTrainerService.name)
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
