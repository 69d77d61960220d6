import Artifacts
import Backbones
import Foundation
import Logging
import Postgres
import Preferences
import Rewards
import ServiceKit
import Tensors

/// Registered rewards in memory, by version: an alias that moves changes what is answered, and fails no request.
actor RewardModels {
    /// A reward that can be asked.
    struct Loaded: Sendable {
        let version: ModelVersion
        let configuration: RewardConfiguration
        let weights: RewardWeights
        /// Whether the backbone takes image tokens.
        let takesImages: Bool
    }

    /// What a client asked for.
    enum Wish: Hashable, Sendable {
        /// `NAME@ALIAS`, `NAME:1`.
        case reference(String)
        /// The champion for a dimension on a backbone.
        case champion(dimension: String, backbone: String)
    }

    /// How long a resolved name is believed without asking the registry again; a moved alias is heard of at once.
    private static let belief: Duration = .seconds(1)

    private let registry: ModelRegistry
    private let fetcher: ArtifactFetcher
    private let limit: Int
    private let logger: Logger
    private var resolved: [Wish: (version: ModelVersion, at: ContinuousClock.Instant)] = [:]
    private var loading: [String: Task<Loaded, any Error>] = [:]
    /// References in the order of their last use, the newest last.
    private var used: [String] = []

    init(registry: ModelRegistry, fetcher: ArtifactFetcher, limit: Int, logger: Logger) {
        self.registry = registry
        self.fetcher = fetcher
        self.limit = limit
        self.logger = logger
    }

    /// The model behind a wish, loaded.
    /// - Throws: `Problem` 404 for a name that is not there, 409 when there is no champion yet, 503 when its files cannot be had now.
    func model(_ wish: Wish) async throws -> Loaded {
        let version = try await resolve(wish)
        return try await loaded(version)
    }

    /// An alias moved, or we may have missed that: everything is resolved anew, and what was asked for before is loaded ahead of requests.
    func refresh() async {
        let wishes = Array(resolved.keys)
        resolved = [:]
        do {
            for wish in wishes { _ = try await model(wish) }
            if wishes.isEmpty {
                for version in try await registry.list(kind: .reward) where version.aliases.contains("champion") {
                    _ = try await loaded(version)
                }
            }
        } catch {
            logger.warning("A reward could not be loaded ahead of requests", metadata: ["error": "\(error)"])
        }
    }

    private func resolve(_ wish: Wish) async throws -> ModelVersion {
        if let known = resolved[wish], ContinuousClock.now - known.at < Self.belief { return known.version }
        let version: ModelVersion
        do {
            switch wish {
            case .reference(let reference): version = try await registry.resolve(reference, kind: .reward)
            case .champion(let dimension, let backbone):
                guard let champion = try await registry.champion(dimension: dimension, backbone: backbone) else {
                    throw Problem.conflict(
                        "There is no champion for dimension '\(dimension)' on the backbone '\(backbone)' yet: train a reward first, or name one with ?model=NAME@ALIAS."
                    )
                }
                version = champion
            }
        } catch let error as RegistryError {
            throw Problem.notFound("\(error)")
        } catch let error as PostgresError {
            // A database that is away for a moment stops nobody who was served before.
            guard let known = resolved[wish] else { throw Problem.unavailable("The registry cannot be asked now.") }
            logger.warning("The registry cannot be asked; the last answer is used", metadata: ["error": "\(error)"])
            return known.version
        }
        if resolved.count > 1000 { resolved = [:] }
        resolved[wish] = (version, .now)
        return version
    }

    private func loaded(_ version: ModelVersion) async throws -> Loaded {
        let key = version.reference
        used.removeAll { $0 == key }
        used.append(key)
        let task: Task<Loaded, any Error>
        if let known = loading[key] {
            task = known
        } else {
            task = Task { try await load(version) }
            loading[key] = task
            while used.count > limit { loading[used.removeFirst()] = nil }
        }
        do {
            return try await task.value
        } catch {
            loading[key] = nil
            used.removeAll { $0 == key }
            throw error
        }
    }

    private func load(_ version: ModelVersion) async throws -> Loaded {
        let began = ContinuousClock.now
        do {
            let headFolder = try await ModelFolder.fetch(version.model.url, sha256: version.model.sha256, with: fetcher)
            defer { headFolder.release() }
            let folder = try await NumericThreads.run { try RewardFolder(directory: headFolder.path) }
            let backbone = try await registry.resolve(folder.configuration.backbone, kind: .generator)
            let trunkFolder = try await ModelFolder.fetch(backbone.model.url, sha256: backbone.model.sha256, with: fetcher)
            defer { trunkFolder.release() }
            let loaded = try await NumericThreads.run {
                let trunk = try WanTransformer3DModel.load(directory: trunkFolder.path)
                return Loaded(
                    version: version, configuration: folder.configuration,
                    weights: try RewardWeights(folder: folder, trunk: trunk, name: backbone.reference),
                    takesImages: trunk.configuration.imageDim != nil)
            }
            logger.info(
                "Loaded", metadata: ["model": .string(version.reference), "ms": "\(Int((ContinuousClock.now - began) / .milliseconds(1)))"])
            return loaded
        } catch let error as any Error & CustomStringConvertible where Self.isOurs(error) {
            logger.error("A reward cannot be loaded", metadata: ["model": .string(version.reference), "error": "\(error)"])
            throw Problem.unavailable("\(version.reference) cannot be loaded: \(error.description)", retryAfter: 5)
        }
    }

    private static func isOurs(_ error: any Error) -> Bool {
        error is RewardError || error is BackboneError || error is ArtifactError || error is RegistryError || error is PostgresError
    }
}
