import Artifacts
import Backbones
import Foundation
import JobQueue
import Logging
import Migrations
import Postgres
import PostgresTesting
import Preferences
import Safetensors
import ServiceKit
import Tensors
import Testing

@testable import RewardTrainer

/// A database, an artifact store in a folder, a tiny registered backbone, and posted pairs whose better latents are brighter.
struct TinySystem: Sendable {
    let database: TestDatabase
    let folder: String
    var store: ArtifactStore { get throws { try ArtifactStore(location: "file://\(folder)/artifacts/") } }
    var queue: JobQueue { JobQueue(client: database.client) }
    var registry: ModelRegistry { ModelRegistry(client: database.client) }
    var environment: [String: String] {
        ["DATABASE_URL": database.url, "FORETASTE_DATA": folder, "FORETASTE_LOG_LEVEL": "warning", "FORETASTE_SHUTDOWN_SECONDS": "5"]
    }

    static func with(_ body: (TinySystem) async throws -> Void) async throws {
        let folder = FileManager.default.temporaryDirectory.path + "/foretaste-trainer-\(UInt64.random(in: 0...UInt64.max))"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try await TestDatabase.with(migrations: BundledMigrations.all()) { try await body(TinySystem(database: $0, folder: folder)) }
    }

    /// Registers `tiny:1`.
    func importBackbone(inChannels: Int = 5) async throws {
        let configuration = try WanConfiguration(
            json: Array(
                """
                {"_class_name":"WanTransformer3DModel","patch_size":[1,2,2],"num_attention_heads":2,"attention_head_dim":12,
                "in_channels":\(inChannels),"out_channels":4,"text_dim":10,"freq_dim":16,"ffn_dim":40,"num_layers":2}
                """.utf8))
        let local = folder + "/tiny"
        try WanTransformer3DModel(configuration: configuration, seed: 7).save(directory: local)
        let published = try await ModelFolder.publish(local, to: store)
        _ = try await registry.register(
            NewModel(
                name: "tiny", kind: .generator, url: published.artifact.url, sha256: published.artifact.sha256,
                bytes: Int64(published.artifact.bytes), config: try String(contentsOfFile: local + "/config.json", encoding: .utf8)))
    }

    /// Four prompts, `groups` groups of four clips each, all pairs of a group.
    func postPairs(groups: Int) async throws {
        let store = PreferenceStore(client: database.client)
        var pairs: [NewPair] = []
        for prompt in 0..<4 {
            for group in 0..<groups {
                var sides: [PairSide] = []
                for member in 0..<4 { sides.append(try await clip(prompt: prompt, group: group, member: member)) }
                for a in 0..<4 {
                    for b in a + 1..<4 {
                        pairs.append(
                            NewPair(
                                source: "test", externalID: "\(prompt)-\(group)-\(a)-\(b)", prompt: "prompt \(prompt)",
                                dimension: "overall",
                                outcome: a == 1 && b == 2 ? .tie : .b, rater: "r", a: sides[a], b: sides[b]))
                    }
                }
            }
        }
        let results = try await store.post(pairs)
        let descriptor = PairDescriptor(
            backbone: "tiny", vae: "tiny-vae", layout: "CFHW", noiseKind: "flow", shape: [4, 2, 4, 4], tensors: [:])
        try await database.client.transaction { connection in
            let verdicts: [PairVerdict] = results.compactMap { if case .created(let id) = $0 { .usable(id, descriptor) } else { nil } }
            try await store.settle(verdicts, on: connection)
        }
    }

    private func clip(prompt: Int, group: Int, member: Int) async throws -> PairSide {
        var stream = RandomStream(seed: 3, run: UInt32(prompt), step: UInt32(group), item: UInt32(member))
        let latents = Tensor.normal(shape: [4, 2, 4, 4], &stream) + (Float(member) - 1.5)
        var words = RandomStream(seed: 4, run: UInt32(prompt))
        let bytes = SafetensorsWriter.data(
            tensors: [
                ("latents", latents), ("prompt_embeds", Tensor.normal(shape: [3, 10], &words)),
                ("condition", Tensor(full: 0.5, shape: [1, 2, 4, 4])),
            ],
            metadata: [
                "backbone": "tiny", "vae": "tiny-vae", "layout": "CFHW", "space": "normalized", "noise.kind": "flow", "noise.sigma": "0",
            ])
        let stored = try await store.put(bytes)
        return PairSide(url: stored.url, sha256: stored.sha256)
    }

    func train(_ settings: [String: String]) async throws -> Int64 { try await queue.enqueue(kind: "train_reward", arguments: settings) }

    /// The service in a process of its own.
    func startProcess() async throws -> ChildProcess {
        let here = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent().path
        let names = ["foretaste-reward-trainer", "RewardTrainer"].map { "\(here)/\($0)" }
        let program = try #require(names.first { FileManager.default.isExecutableFile(atPath: $0) })
        return try await ChildProcess.start(
            .init(path: program, environment: environment.merging(["PATH": "/usr/bin:/bin"]) { own, _ in own }))
    }

    /// The service inside this process while `body` runs.
    func withService(_ body: () async throws -> Void) async throws {
        let configuration = try ServiceConfiguration.fromEnvironment(
            service: RewardTrainerService.name, ServiceEnvironment(environment.merging(["HOME": "/nonexistent"]) { own, _ in own }))
        var logger = Logger(label: "trainer")
        logger.logLevel = .error
        let application = try await RewardTrainerService.application(configuration, logger)
        let control = ServiceControl()
        let running = Task { try await application.run(handlingSignals: false, control: control) }
        do {
            _ = try await control.listening()
            try await body()
        } catch {
            await control.shutDown()
            _ = try? await running.value
            throw error
        }
        await control.shutDown()
        try await running.value
    }
}
