import ArgumentParser
import Artifacts
import Foundation
import Logging
import Postgres
import ServiceKit
import ServiceWiring

/// `--data`, and what every command that touches a system needs from it.
struct DataOptions: ParsableArguments {
    @Option(help: "The data folder: a system that runs over it is found by it. FORETASTE_DATA or the user's data folder if not given.")
    var data: String?

    func folder() throws -> DataFolder { try DataFolder(option: data) }

    /// Lends the migrated database: DATABASE_URL, the running system's, or the private one started for as long as `body` takes.
    func withDatabase<Result>(_ body: (PostgresClient) async throws -> Result) async throws -> Result {
        try await folder().withDatabase(body)
    }

    func artifactStore() throws -> ArtifactStore { try configuration().artifactStore() }

    /// The cache that the services of this data folder share.
    func artifactCache() throws -> ArtifactCache {
        let configuration = try configuration()
        return ArtifactCache(folder: configuration.artifactsCache, limit: configuration.artifactsCacheLimit)
    }

    /// Fetches what this system stored and what the operator allowed.
    func artifactFetcher() throws -> ArtifactFetcher { try configuration().artifactFetcher() }

    private func configuration() throws -> ServiceConfiguration {
        try ServiceConfiguration.fromEnvironment(service: "foretaste", try folder().environment)
    }
}
