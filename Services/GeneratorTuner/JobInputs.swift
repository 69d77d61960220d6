import Artifacts
import Backbones
import Foundation
import JobQueue
import Logging
import Postgres
import Preferences
import Rewards
import ServiceKit
import ServiceWiring
import Tensors

/// What jobs are made from: models by their names, and artifacts by URL. Everything that is fetched is written down.
final class JobInputs: Sendable {
    let client: PostgresClient
    let registry: ModelRegistry
    let store: ArtifactStore
    let fetcher: ArtifactFetcher
    let fetches: FetchNotes
    let logger: Logger

    init(configuration: ServiceConfiguration, client: PostgresClient, logger: Logger) throws {
        self.client = client
        self.logger = logger
        registry = ModelRegistry(client: client)
        let notes = FetchNotes(client: client, service: GeneratorTunerService.name, logger: logger)
        fetches = notes
        store = try configuration.artifactStore()
        fetcher = try configuration.artifactFetcher(logger: logger) { notes.add($0) }
    }

    /// A registered model's folder on this machine, to be released; a name that is not there, or is of another kind, never will be by itself.
    /// - Parameter what: where the reference comes from, for the message: `setting generator`.
    func folder(_ reference: String, _ kind: ModelKind, what: String) async throws -> (version: ModelVersion, folder: CachedFolder) {
        let version: ModelVersion
        do {
            version = try await registry.resolve(reference, kind: kind)
        } catch let error as RegistryError {
            throw JobError.permanent("\(what): \(error.description)")
        }
        return (version, try await folder(of: version))
    }

    private func folder(of version: ModelVersion) async throws -> CachedFolder {
        do {
            return try await ModelFolder.fetch(version.model.url, sha256: version.model.sha256, with: fetcher)
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
}
