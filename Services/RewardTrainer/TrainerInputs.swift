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
import ServiceWiring

/// What jobs are made from: models by their names, latents by URL. Everything that is fetched is written down.
final class TrainerInputs: Sendable {
    let client: PostgresClient
    let registry: ModelRegistry
    let store: ArtifactStore
    let logger: Logger
    let memory = TrainingMemory()
    private let fetcher: ArtifactFetcher
    private let fetches: FetchNotes

    init(configuration: ServiceConfiguration, client: PostgresClient, logger: Logger) throws {
        self.client = client
        self.logger = logger
        registry = ModelRegistry(client: client)
        let notes = FetchNotes(client: client, service: RewardTrainerService.name, logger: logger)
        fetches = notes
        store = try configuration.artifactStore()
        fetcher = try configuration.artifactFetcher(logger: logger) { notes.add($0) }
    }

    /// Runs a job, turns what will never get better into a permanent failure, and writes down what was fetched.
    func recording(_ body: () async throws -> JobResult) async throws -> JobResult {
        do {
            let result = try await body()
            await fetches.write()
            return result
        } catch {
            await fetches.write()
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

    /// A registered model's folder on this machine, to be released.
    func folder(of version: ModelVersion) async throws -> CachedFolder {
        try await ModelFolder.fetch(version.model.url, sha256: version.model.sha256, with: fetcher)
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
}
