import Access
import Artifacts
import Backbones
import Foundation
import FoundationNetworking
import Logging
import Migrations
import Postgres
import PostgresTesting
import Preferences
import Rewards
import Safetensors
import ServiceKit
import Tensors
import Testing

@testable import LatentScorer

/// The service in this process: real database, real socket, a tiny backbone and heads in an artifact store.
struct RunningScorer: Sendable {
    let url: String
    let database: TestDatabase
    let folder: String
    /// With the scope `score` alone.
    let key: APIKey
    var registry: ModelRegistry { ModelRegistry(client: database.client) }
    var store: ArtifactStore { get throws { try ArtifactStore(location: "file://\(folder)/artifacts/") } }

    static func with(_ variables: [String: String] = [:], _ body: (RunningScorer) async throws -> Void) async throws {
        let folder = FileManager.default.temporaryDirectory.path + "/foretaste-scorer-\(UInt64.random(in: 0...UInt64.max))"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try await TestDatabase.with(migrations: BundledMigrations.all()) { database in
            let environment = ServiceEnvironment([
                "DATABASE_URL": database.url, "FORETASTE_DATA": folder, "FORETASTE_SHUTDOWN_SECONDS": "5",
            ]).merging(variables)
            var logger = Logger(label: "scorer")
            logger.logLevel = .critical
            let application = try await LatentScorerService.application(
                try ServiceConfiguration.fromEnvironment(service: LatentScorerService.name, environment), logger)
            let key = try await KeyStore(client: database.client).create(name: "tests", scopes: [.score])
            let control = ServiceControl()
            let running = Task { try await application.run(handlingSignals: false, control: control) }
            do {
                try await body(RunningScorer(url: try await control.listening(), database: database, folder: folder, key: key))
            } catch {
                await control.shutDown()
                _ = try? await running.value
                throw error
            }
            await control.shutDown()
            try await running.value
        }
    }

    /// Registers `tiny:1`.
    func importBackbone() async throws -> WanTransformer3DModel {
        let model = WanTransformer3DModel(configuration: try Self.configuration(), seed: 7)
        model.setRequiresGradient { _ in false }
        let local = folder + "/tiny"
        try model.save(directory: local)
        let published = try await ModelFolder.publish(local, to: store)
        _ = try await registry.register(
            NewModel(
                name: "tiny", kind: .generator, url: published.artifact.url, sha256: published.artifact.sha256,
                bytes: Int64(published.artifact.bytes)))
        return model
    }

    private static func configuration() throws -> WanConfiguration {
        try WanConfiguration(
            json: Array(
                """
                {"_class_name":"WanTransformer3DModel","patch_size":[1,2,2],"num_attention_heads":2,"attention_head_dim":12,"in_channels":5,
                "out_channels":4,"text_dim":10,"freq_dim":16,"ffn_dim":40,"num_layers":2}
                """.utf8))
    }

    /// Registers a head with a seed of its own as the next version of `reward-overall`, and makes it champion.
    @discardableResult
    func promoteHead(on trunk: WanTransformer3DModel, seed: UInt64) async throws -> RewardWeights {
        let shape = HeadConfiguration.prism(featureWidth: 24, width: 16)
        let head = try RewardHead(configuration: shape, seed: seed)
        let configuration = RewardConfiguration(
            head: shape, block: 1, loss: .raoKupper(eta: 5), dimension: "overall", backbone: "tiny:1",
            backboneFingerprint: RewardWeights.fingerprint(of: trunk, blocks: 1), vae: "tiny-vae", latentChannels: 4, conditionChannels: 1)
        let local = folder + "/head-\(seed)"
        try RewardFolder(head: head, configuration: configuration, metrics: Data("{}".utf8)).write(to: local)
        let published = try await ModelFolder.publish(local, to: store)
        let version = try await registry.register(
            NewModel(
                name: "reward-overall", kind: .reward, url: published.artifact.url, sha256: published.artifact.sha256,
                bytes: Int64(published.artifact.bytes), dimension: "overall", backbone: "tiny:1"))
        try await registry.setAlias("reward-overall", alias: "champion", version: version.version, reason: "a test says so")
        return try RewardWeights(trunk: trunk, head: head, block: 1)
    }

    struct Scores: Decodable {
        struct Model: Decodable {
            let name: String
            let version: Int
            let sha256: String
        }
        struct Result: Decodable {
            let index: Int
            let score: Float
        }
        struct Timing: Decodable {
            let queue_ms: Double
            let compute_ms: Double
        }
        let model: Model
        let results: [Result]
        let keep: [Int]?
        let timing: Timing
    }

    struct Answer: Sendable {
        let status: Int
        let type: String
        let body: Data
        var text: String { String(decoding: body, as: UTF8.self) }
        var scores: Scores { get throws { try JSONDecoder().decode(Scores.self, from: body) } }
        var pointers: [String] { get throws { try JSONDecoder().decode(ProblemDocument.self, from: body).errors?.map(\.pointer) ?? [] } }
    }

    func send(
        _ path: String = "/v1/score", _ body: [UInt8]? = nil, type: String = "application/octet-stream", method: String = "POST",
        authorization: String? = "key"
    ) async throws -> Answer {
        var request = URLRequest(url: try #require(URL(string: url + path)))
        request.httpMethod = method
        request.httpBody = body.map { Data($0) }
        if let authorization {
            request.setValue(authorization == "key" ? "Bearer \(key.text)" : authorization, forHTTPHeaderField: "Authorization")
        }
        if body != nil { request.setValue(type, forHTTPHeaderField: "Content-Type") }
        let (data, response) = try await URLSession.shared.data(for: request)
        let http = try #require(response as? HTTPURLResponse)
        return Answer(status: http.statusCode, type: "\(http.allHeaderFields["Content-Type"] ?? "")", body: data)
    }

    static let metadata = [
        "backbone": "tiny", "vae": "tiny-vae", "layout": "CFHW", "space": "normalized", "noise.kind": "flow", "noise.sigma": "0.5",
        "noise.timestep": "500",
    ]

    static func tensor(_ shape: [Int], seed: UInt64) -> Tensor {
        var stream = RandomStream(seed: seed)
        return Tensor.normal(shape: shape, &stream)
    }

    static let latents = tensor([5, 4, 2, 4, 4], seed: 1)
    static let prompt = tensor([3, 10], seed: 2)
    static let condition = tensor([1, 2, 4, 4], seed: 3)

    /// A body that is right, but for what is changed.
    static func body(_ changes: [String: Tensor] = [:], without: String? = nil, metadata: [String: String?] = [:]) -> [UInt8] {
        var tensors: [String: Tensor] = ["latents": latents, "prompt_embeds": prompt, "condition": condition]
        for (name, tensor) in changes { tensors[name] = tensor }
        if let without { tensors[without] = nil }
        var said = Self.metadata
        for (key, value) in metadata { said[key] = value }
        return SafetensorsWriter.data(tensors: tensors.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }, metadata: said)
    }
}
