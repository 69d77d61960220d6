public import Artifacts
public import Logging
public import ServiceKit

extension ServiceConfiguration {
    /// Where this system keeps its own artifacts.
    public func artifactStore() throws -> ArtifactStore {
        do {
            return try ArtifactStore(location: artifactsStore, s3: s3)
        } catch let error as ArtifactError {
            throw ConfigurationError(variable: "FORETASTE_ARTIFACTS_STORE", problem: "cannot be used: \(error)")
        }
    }

    /// Fetches what the operator allowed, and what this system stored itself, into the cache that all services share.
    /// - Parameter onFetch: called for each successful fetch, on any thread; see ``FetchNotes``.
    public func artifactFetcher(
        logger: Logger = Logger(label: "artifacts"), onFetch: (@Sendable (FetchedArtifact) -> Void)? = nil
    ) throws -> ArtifactFetcher {
        do {
            return try ArtifactFetcher(
                allow: artifactsAllow + [artifactsStore].filter { !$0.hasPrefix("file:") }, fileRoots: artifactsFileRoots,
                cache: artifactsCache, cacheLimit: artifactsCacheLimit, maximumBytes: artifactsMaximumBytes,
                deadlineSeconds: artifactsDeadlineSeconds, s3: s3, logger: logger, onFetch: onFetch)
        } catch let error as ArtifactError {
            throw ConfigurationError(variable: "FORETASTE_ARTIFACTS_ALLOW", problem: "cannot be used: \(error)")
        }
    }

    private var s3: S3Configuration { S3Configuration(environment: environment.variables) }
}
