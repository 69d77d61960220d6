import Artifacts
import Backbones
import Foundation
import JobQueue
import Migrations
import Postgres
import PostgresTesting
import Preferences
import Rewards
import Safetensors
import Tensors
import Testing

/// Each test has processes of its own, and all share two cores: one after another.
@Suite(.serialized, .timeLimit(.minutes(10))) enum GeneratorTunerTests {}

/// A database, an artifact store in a folder, a tiny generator and a tiny reward with the pairs behind it: `tiny:1` and `reward@champion`.
struct TunerWorld: Sendable {
    static let latentShape = [4, 2, 4, 4]
    static let conditionShape = [1, 2, 4, 4]
    static let promptShape = [3, 10]

    let database: TestDatabase
    /// The data folder of the service: its store and its cache lie in it.
    let folder: String
    let store: ArtifactStore
    let weights: WanWeights

    var queue: JobQueue { JobQueue(client: database.client) }
    var registry: ModelRegistry { ModelRegistry(client: database.client) }

    static func with(_ body: (TunerWorld) async throws -> Void) async throws {
        let folder = FileManager.default.temporaryDirectory.path + "/foretaste-tuner-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try await TestDatabase.with(migrations: BundledMigrations.all()) { database in
            let world = TunerWorld(
                database: database, folder: folder, store: try ArtifactStore(location: "file://\(folder)/artifacts"),
                weights: try tinyGenerator().weights)
            try await world.registerModels()
            try await body(world)
        }
    }

    static func tensor(_ shape: [Int], seed: UInt64, item: Int = 0) -> Tensor {
        var stream = RandomStream(seed: seed, item: UInt32(item))
        return Tensor.normal(shape: shape, &stream)
    }

    private static func tinyGenerator() throws -> WanTransformer3DModel {
        let configuration = try WanConfiguration(
            json: Array(
                """
                {"_class_name":"WanTransformer3DModel","patch_size":[1,2,2],"num_attention_heads":2,"attention_head_dim":12,"in_channels":5,
                "out_channels":4,"text_dim":10,"freq_dim":16,"ffn_dim":40,"num_layers":2,"cross_attn_norm":true}
                """.utf8))
        return WanTransformer3DModel(configuration: configuration, seed: 7)
    }

    private func registerModels() async throws {
        let model = folder + "/tiny"
        let generator = try weights.model()
        try generator.save(directory: model)
        try await register(
            model, name: "tiny", kind: .generator, config: String(contentsOfFile: model + "/config.json", encoding: .utf8))

        // A head is tuned against, whether or not it judges well: an untrained one has gradients too.
        let block = 2
        let head = try RewardHead(configuration: .prism(featureWidth: 24), normalization: nil, seed: 5)
        let configuration = RewardConfiguration(
            head: head.configuration, block: block, loss: .raoKupper(eta: 5), dimension: "overall", backbone: "tiny:1",
            backboneFingerprint: RewardWeights.fingerprint(of: generator, blocks: block), vae: "codec", latentChannels: 4,
            conditionChannels: 1)
        try RewardFolder(head: head, configuration: configuration, metrics: Data("{}".utf8)).write(to: folder + "/reward")
        try await register(
            folder + "/reward", name: "reward", kind: .reward, lineage: #"{"snapshot": \#(try await freezePairs().id)}"#, backbone: "tiny:1"
        )
        try await registry.setAlias("reward", alias: "champion", version: 1, reason: "the only one")
    }

    @discardableResult
    func register(
        _ directory: String, name: String, kind: ModelKind, config: String = "{}", lineage: String = "{}", backbone: String? = nil
    ) async throws -> ModelVersion {
        let published = try await ModelFolder.publish(directory, to: store)
        return try await registry.register(
            NewModel(
                name: name, kind: kind, url: published.artifact.url, sha256: published.artifact.sha256,
                bytes: Int64(published.manifest.files.reduce(0) { $0 + $1.bytes }), mediaType: ModelFolder.mediaType, config: config,
                lineage: lineage, dimension: kind == .reward ? "overall" : nil, backbone: backbone))
    }

    /// Twelve usable pairs of clips that lie in the store.
    private func freezePairs() async throws -> Snapshot {
        var sides: [PairSide] = []
        for clip in 0..<24 {
            let bytes = SafetensorsWriter.data(
                tensors: [
                    ("latents", Self.tensor(Self.latentShape, seed: 21, item: clip)),
                    ("prompt_embeds", Self.tensor(Self.promptShape, seed: 22, item: clip / 2 % 3)),
                    ("condition", Tensor(full: 0.5, shape: Self.conditionShape)),
                ],
                metadata: [
                    "backbone": "tiny", "vae": "codec", "layout": "CFHW", "space": "normalized", "noise.kind": "flow", "noise.sigma": "0",
                ])
            let stored = try await store.put(bytes)
            sides.append(PairSide(url: stored.url, sha256: stored.sha256))
        }
        let preferences = PreferenceStore(client: database.client)
        let ids = try await preferences.post(
            (0..<12).map { pair in
                NewPair(
                    source: "studio", externalID: String(format: "%02d", pair), prompt: "prompt \(pair % 3)", dimension: "overall",
                    outcome: pair % 4 == 0 ? .b : .a, rater: "r1", a: sides[2 * pair], b: sides[2 * pair + 1])
            }
        ).map { result in
            switch result {
            case .created(let id), .replayed(let id, _), .conflict(let id, _): id
            }
        }
        let descriptor = PairDescriptor(
            backbone: "tiny", vae: "codec", layout: "CFHW", noiseKind: "flow", shape: Self.latentShape,
            tensors: ["prompt_embeds": Self.promptShape, "condition": Self.conditionShape])
        try await database.client.transaction { connection in
            try await preferences.settle(ids.map { .usable($0, descriptor) }, on: connection)
        }
        return try await Snapshot.freeze(dimension: "overall", backbone: "tiny", client: database.client)
    }

    /// Puts a file of prompts into the store and returns its URL.
    func prompts(_ count: Int, change: ([(String, Tensor)]) -> [(String, Tensor)] = { $0 }) async throws -> String {
        let tensors = [
            ("prompt_embeds", Self.tensor([count] + Self.promptShape, seed: 31)),
            ("condition", Tensor(full: 0.5, shape: Self.conditionShape)),
        ]
        return try await store.put(SafetensorsWriter.data(tensors: change(tensors))).url
    }

    func enqueue(_ kind: String, _ settings: [String: any Sendable]) async throws -> Int64 {
        let json = try JSONSerialization.data(withJSONObject: settings, options: [.sortedKeys])
        return try await queue.enqueue(kind: kind, json: String(decoding: json, as: UTF8.self))
    }

    /// Ends a service between the first checkpoint of its job and the second, however fast the machine is: the second is held in the
    /// database until the signal is sent; a killed service's is taken back.
    func endBetweenCheckpoints(_ signal: CInt = SIGKILL, _ start: () async throws -> TunerProcess) async throws {
        try await database.client.execute(
            """
            create function public.hold_checkpoint() returns trigger language plpgsql as $$ begin
                if (select count(*) from queue.checkpoint c where c.job_id = new.job_id) > 1 then
                    perform pg_advisory_xact_lock_shared(4242);
                end if;
                return new;
            end $$;
            create trigger hold after insert on queue.checkpoint for each row execute function public.hold_checkpoint();
            """)
        let waiting = "from pg_locks where locktype = 'advisory' and objid = 4242 and not granted"
        try await database.client.withConnection { holder in
            try await holder.query("select pg_advisory_lock(4242)")
            let service = try await start()
            do {
                let deadline = ContinuousClock.now + .seconds(120)
                while try await database.client.query("select 1 \(waiting)").isEmpty {
                    try #require(ContinuousClock.now < deadline && service.child.isRunning, "there was no second checkpoint")
                    try await Task.sleep(for: .milliseconds(10))
                }
            } catch {
                await service.kill()
                throw error
            }
            if signal == SIGKILL {
                await service.kill()
                // The server does not know yet that its client is gone.
                try await database.client.query("select pg_terminate_backend(pid) \(waiting)")
            } else {
                service.child.signal(signal)
                // Long enough that the service knows, and it has nothing else to do meanwhile.
                try await Task.sleep(for: .milliseconds(500))
            }
            try await holder.query("select pg_advisory_unlock(4242)")
            if signal != SIGKILL { await service.stop() }
        }
        try await database.client.execute("drop trigger hold on queue.checkpoint; drop function public.hold_checkpoint()")
    }

    /// The content of something in the store.
    func bytes(_ url: String) throws -> [UInt8] { [UInt8](try Data(contentsOf: #require(URL(string: url)))) }
}

/// The real service as a process.
struct TunerProcess: Sendable {
    let child: ChildProcess
    private let log: String

    /// Starts the service over a world's database and store; its end comes with the test process's at the latest.
    static func start(_ world: TunerWorld) async throws -> TunerProcess {
        try FileManager.default.createDirectory(atPath: world.folder, withIntermediateDirectories: true)
        let programs = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
        let log = world.folder + "/tuner.log"
        let descriptor = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        defer { close(descriptor) }
        var request = ChildProcess.Request(
            path: programs.appending(path: "foretaste-generator-tuner").path(percentEncoded: false),
            environment: [
                "PATH": "/usr/bin:/bin", "HOME": "/tmp", "DATABASE_URL": world.database.url, "FORETASTE_DATA": world.folder,
                "FORETASTE_LOG_LEVEL": "warning",
            ])
        request.standardOutput = descriptor
        request.standardError = descriptor
        return TunerProcess(child: try await ChildProcess.start(request), log: log)
    }

    /// As the kernel does it: at once, and without a word.
    func kill() async {
        child.signal(SIGKILL)
        _ = await child.exitStatus()
    }

    /// Asks it to end, and expects that it does so in order.
    func stop() async {
        child.signal(SIGTERM)
        #expect(await child.ends(within: 60), "the service did not stop")
        child.signal(SIGKILL)
        #expect(
            await child.exitStatus() == 0,
            "\(String(decoding: FileManager.default.contents(atPath: log)?.suffix(4000) ?? Data(), as: UTF8.self))")
    }

    /// Runs `body` while a service runs.
    static func with(_ world: TunerWorld, _ body: (TunerProcess) async throws -> Void) async throws {
        let tuner = try await start(world)
        do {
            try await body(tuner)
        } catch {
            await tuner.kill()
            throw error
        }
        await tuner.stop()
    }
}
