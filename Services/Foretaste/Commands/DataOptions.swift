import ArgumentParser
import Artifacts
import Foundation
import Logging
import Postgres
import ServiceKit

/// `--data`, and what every command that touches a system needs from it.
struct DataOptions: ParsableArguments {
    @Option(help: "The data folder: a system that runs over it is found by it. FORETASTE_DATA or the user's data folder if not given.")
    var data: String?

    func folder() throws -> DataFolder { try DataFolder(option: data) }

    /// Lends the migrated database: DATABASE_URL, the running system's, or the private one started for as long as `body` takes.
    func withDatabase<Result>(_ body: (PostgresClient) async throws -> Result) async throws -> Result {
        try await folder().withDatabase(body)
    }

    func artifactStore() throws -> ArtifactStore {
        let configuration = try configuration()
        return try ArtifactStore(
            location: configuration.artifactsStore, s3: S3Configuration(environment: configuration.environment.variables))
    }

    /// The cache that the services of this data folder share.
    func artifactCache() throws -> ArtifactCache {
        let configuration = try configuration()
        return ArtifactCache(folder: configuration.artifactsCache, limit: configuration.artifactsCacheLimit)
    }

    func cacheDirectory() throws -> String { try configuration().artifactsCache }

    /// Fetches what this system stored and what the operator allowed.
    func artifactFetcher() throws -> ArtifactFetcher {
        let configuration = try configuration()
        return try ArtifactFetcher(
            allow: configuration.artifactsAllow + [configuration.artifactsStore].filter { !$0.hasPrefix("file:") },
            fileRoots: configuration.artifactsFileRoots, cache: configuration.artifactsCache,
            cacheLimit: configuration.artifactsCacheLimit, maximumBytes: configuration.artifactsMaximumBytes,
            deadlineSeconds: configuration.artifactsDeadlineSeconds,
            s3: S3Configuration(environment: configuration.environment.variables))
    }

    private func configuration() throws -> ServiceConfiguration {
        try ServiceConfiguration.fromEnvironment(service: "foretaste", try folder().environment)
    }
}
