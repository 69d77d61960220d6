import Backbones
import Foundation
import JobQueue
import Postgres
import Preferences
import Safetensors
import Tensors
import Testing

extension GeneratorTunerTests {
    @Suite(.serialized) struct Tuning {
        struct Result: Decodable, Equatable {
            struct Waypoint: Decodable, Equatable {
                let iteration: Int
                let url: String
                let sha256: String
            }
            let iterations: Int
            let url: String
            let sha256: String
            let waypoints: [Waypoint]
        }

        private func settings(_ name: String, method: String = "prfl+sft", iterations: Int = 200) -> [String: any Sendable] {
            [
                "generator": "tiny:1", "reward": "reward@champion", "method": method, "iterations": iterations, "batch": 4, "rank": 2,
                "learning_rate": 1e-3, "seed": 3, "name": name, "steps": 4, "checkpoint_every": 20, "base_clips": 8,
            ]
        }

        @Test func aKilledRunEndsWithTheAdapterOfAnUninterruptedOne() async throws {
            try await TunerWorld.with { world in
                let killed = try await world.enqueue("tune_generator", settings("killed"))
                try await world.endBetweenCheckpoints { try await TunerProcess.start(world) }
                let left = try await world.queue.show(killed)
                #expect(left.state == .leased, "it had ended before it was killed: \(left.json)")

                try await TunerProcess.with(world) { _ in
                    let resumed = try await world.queue.finished(killed)
                    try #require(resumed.state == .succeeded, "\(resumed.json)")
                    #expect(resumed.attempt == 2 && resumed.rescues == 1)
                    let whole = try await world.queue.finished(try await world.enqueue("tune_generator", settings("whole")))
                    try #require(whole.state == .succeeded, "\(whole.json)")
                    #expect(whole.attempt == 1)
                    let results = try [resumed, whole].map { try #require(try $0.result(as: Result.self)) }
                    #expect(results[0] == results[1])
                    #expect(results[0].waypoints.map(\.iteration) == Array(stride(from: 20, through: 200, by: 20)))
                    #expect(Set(results[0].waypoints.map(\.sha256)).count == 10, "the adapter does not move")

                    let versions = try await world.registry.list(kind: .adapter)
                    #expect(versions.map(\.reference) == ["killed:1", "whole:1"])
                    #expect(versions.map(\.jobID) == [killed, whole.id])
                    #expect(versions[0].model.sha256 == versions[1].model.sha256)
                    #expect(versions[0].model.backbone == "tiny:1")
                    // What was registered is an adapter of this generator.
                    let last = try #require(results[0].waypoints.last)
                    let model = try WanTransformer3DModel.load(directory: world.folder + "/tiny")
                    try model.attachLoRA(LoRAFile.load(SafetensorsFile(data: world.bytes(last.url))), trainable: false)
                }
            }
        }

        @Test func aServiceThatIsAskedToEndHandsItsJobOnAtOnce() async throws {
            try await TunerWorld.with { world in
                let stopped = try await world.enqueue("tune_generator", settings("stopped", iterations: 100))
                try await world.endBetweenCheckpoints(SIGTERM) { try await TunerProcess.start(world) }
                let left = try await world.queue.show(stopped)
                #expect(left.state == .ready && left.failures == 0 && left.rescues == 0, "\(left.json)")
                try await TunerProcess.with(world) { _ in
                    let whole = try await world.enqueue("tune_generator", settings("whole", iterations: 100))
                    let results = try await [stopped, whole].asyncMap { id in
                        let job = try await world.queue.finished(id)
                        try #require(job.state == .succeeded, "\(job.json)")
                        return try #require(try job.result(as: Result.self))
                    }
                    #expect(results[0] == results[1])
                }
            }
        }

        @Test func everyMethodLeavesAnAdapterOfItsOwn() async throws {
            try await TunerWorld.with { world in
                try await TunerProcess.with(world) { _ in
                    var digests: Set<String> = []
                    for method in ["prfl", "sft", "prfl+sft"] {
                        let name = "lora-" + method.replacing("+", with: "-")
                        let job = try await world.queue.finished(
                            try await world.enqueue("tune_generator", settings(name, method: method, iterations: 3)))
                        try #require(job.state == .succeeded, "\(job.json)")
                        digests.insert(try #require(try job.result(as: Result.self)).sha256)
                    }
                    #expect(digests.count == 3)
                }
            }
        }

        /// Each: what is wrong with the settings, and what the reason must say.
        @Test func settingsThatCannotWorkAreNamedAndTheServiceStaysUp() async throws {
            try await TunerWorld.with { world in
                try await TunerProcess.with(world) { tuner in
                    // A reward whose pairs nobody knows.
                    try await world.register(world.folder + "/reward", name: "orphan", kind: .reward, backbone: "tiny:1")
                    let cases: [(String, any Sendable, [String])] = [
                        ("learning_rat", 0.1, ["learning_rat", "learning_rate"]),
                        ("generator", "nothing:1", ["setting generator", "nothing:1"]),
                        ("generator", "reward:1", ["setting generator", "reward:1", "expected a generator"]),
                        ("generator", "", ["setting generator", "required"]),
                        ("reward", "tiny:1", ["setting reward", "tiny:1", "expected a reward"]),
                        ("reward", "reward@challenger", ["setting reward", "reward@challenger", "reward@champion"]),
                        ("reward", "orphan:1", ["orphan:1", "snapshot"]),
                        ("method", "pfrl", ["setting method", "prfl, sft, prfl+sft"]),
                        ("iterations", "many", ["setting iterations", "many"]), ("iterations", 1.5, ["setting iterations", "whole"]),
                        ("rank", 0, ["setting rank"]), ("learning_rate", -1, ["setting learning_rate"]),
                        ("name", "a:b", ["setting name", "a:b"]),
                    ]
                    var jobs: [Int64] = []
                    for (name, value, _) in cases {
                        jobs.append(
                            try await world.enqueue("tune_generator", settings("flawed", iterations: 2).merging([name: value]) { $1 }))
                    }
                    for (job, (name, value, words)) in zip(jobs, cases) {
                        let ended = try await world.queue.finished(job)
                        #expect(ended.state == .dead && ended.attempt == 1, "\(name) = \(value): \(ended.json)")
                        for word in words {
                            #expect(ended.error?.contains(word) == true, "\(name) = \(value): \(ended.error ?? "no reason")")
                        }
                    }
                    #expect(try await world.registry.list(kind: .adapter).isEmpty)
                    let sound = try await world.queue.finished(try await world.enqueue("tune_generator", settings("sound", iterations: 2)))
                    #expect(sound.state == .succeeded && sound.pid == Int(tuner.child.identifier), "\(sound.json)")
                }
            }
        }
    }
}

extension Array {
    fileprivate func asyncMap<Value>(_ transform: (Element) async throws -> Value) async rethrows -> [Value] {
        var values: [Value] = []
        for element in self { values.append(try await transform(element)) }
        return values
    }
}
