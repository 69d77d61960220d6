import Artifacts
import Backbones
import Diffusion
import Foundation
import JobQueue
import Postgres
import Safetensors
import Tensors
import Testing

extension GeneratorTunerTests {
    @Suite(.serialized) struct Generating {
        struct Output: Decodable, Equatable {
            let prompt: Int
            let candidate: Int
            let url: String
            let sha256: String
            let bytes: Int
        }

        struct Result: Decodable {
            struct Manifest: Decodable {
                let url: String
                let sha256: String
            }
            let manifest: Manifest
            let clips: Int
            let forward_passes: Int
            let judge_passes: Int
        }

        private func finished(_ world: TunerWorld, _ job: Int64) async throws -> (result: Result, outputs: [Output]) {
            let ended = try await world.queue.finished(job)
            try #require(ended.state == .succeeded, "\(ended.json)")
            let result = try #require(try ended.result(as: Result.self))
            return (result, try JSONDecoder().decode([Output].self, from: Data(world.bytes(result.manifest.url))))
        }

        private func settings(_ prompts: String, candidates: Int, steps: Int = 4) -> [String: any Sendable] {
            ["generator": "tiny:1", "prompts": prompts, "candidates": candidates, "steps": steps, "seed": 5, "vae": "codec"]
        }

        private func clip(_ world: TunerWorld, _ output: Output) throws -> SafetensorsFile {
            try SafetensorsFile(data: world.bytes(output.url))
        }

        @Test func clipsAreThoseOfTheGeneratorAndTheSameEachTime() async throws {
            try await TunerWorld.with { world in
                try await TunerProcess.with(world) { _ in
                    let prompts = try await world.prompts(3)
                    let (result, outputs) = try await finished(world, world.enqueue("generate", settings(prompts, candidates: 2)))
                    let again = try await finished(world, world.enqueue("generate", settings(prompts, candidates: 2)))
                    #expect(again.result.manifest.sha256 == result.manifest.sha256)
                    #expect(outputs.map(\.prompt) == [0, 0, 1, 1, 2, 2] && outputs.map(\.candidate) == [0, 1, 0, 1, 0, 1])
                    #expect(Set(outputs.map(\.sha256)).count == 6)
                    #expect(result.clips == 6 && result.forward_passes == 6 * 4 && result.judge_passes == 0)

                    let embeds = TunerWorld.tensor([3] + TunerWorld.promptShape, seed: 31)
                    for (item, output) in outputs.enumerated() {
                        let file = try clip(world, output)
                        #expect(try world.bytes(output.url).count == output.bytes)
                        #expect(file.names.sorted() == ["condition", "latents", "prompt_embeds"])
                        let wanted = [
                            "backbone": "tiny", "vae": "codec", "layout": "CFHW", "space": "normalized", "noise.kind": "flow",
                            "noise.sigma": "0", "noise.timestep": "0",
                        ]
                        for (key, value) in wanted { #expect(file.metadata[key] == value, "\(key)") }
                        let prompt = embeds[output.prompt..<output.prompt + 1].reshaped(TunerWorld.promptShape)
                        #expect(try file.tensor("prompt_embeds").array == prompt.array)
                        let expected = try sampled(world, item: item, prompt: prompt, steps: 4)
                        #expect(try file.tensor("latents").relativeError(to: expected) < 1e-4, "clip \(item)")
                    }
                }
            }
        }

        /// One clip, sampled here step by step.
        private func sampled(_ world: TunerWorld, item: Int, prompt: Tensor, steps: Int) throws -> Tensor {
            let schedule = FlowMatchSchedule(steps: steps, shift: 3)
            let model = try world.weights.model()
            var latents = EulerSampler.noise(shape: TunerWorld.latentShape, seed: 5, items: [item])
            let condition = Tensor(full: 0.5, shape: [1] + TunerWorld.conditionShape)
            for step in 0..<steps {
                let velocity = try #require(
                    try model(
                        hiddenStates: Variable(Tensor.concatenate([latents, condition], axis: 1)), timestep: [schedule.timesteps[step]],
                        encoderHiddenStates: Variable(prompt.reshaped([1] + TunerWorld.promptShape))
                    ).sample
                ).tensor
                latents = latents + velocity * (schedule.sigmas[step + 1] - schedule.sigmas[step])
            }
            return latents.reshaped(TunerWorld.latentShape)
        }

        @Test func bestOfNKeepsOneOfEachPromptsCandidates() async throws {
            try await TunerWorld.with { world in
                try await TunerProcess.with(world) { _ in
                    let prompts = try await world.prompts(3)
                    let all = try await finished(world, world.enqueue("generate", settings(prompts, candidates: 4))).outputs
                    let pruned = settings(prompts, candidates: 4).merging(["reward": "reward@champion", "prune": "2@1,1@2"]) { $1 }
                    let (result, kept) = try await finished(world, world.enqueue("generate", pruned))
                    #expect(kept.map(\.prompt) == [0, 1, 2])
                    // Four candidates take one step, two a second one, one the rest.
                    #expect(result.clips == 3 && result.forward_passes == 3 * (4 + 2 + 2) && result.judge_passes == 3 * (4 + 2))
                    for output in kept {
                        let twin = try #require(all.first { $0.prompt == output.prompt && $0.candidate == output.candidate })
                        let (pruned, whole) = (try clip(world, output).tensor("latents"), try clip(world, twin).tensor("latents"))
                        #expect(pruned.relativeError(to: whole) < 1e-4, "pruning changes who goes on and not how")
                    }
                }
            }
        }

        @Test func aKilledRunLeavesTheSameClips() async throws {
            try await TunerWorld.with { world in
                // A portion is 96 clips, so that each prompt here ends with a checkpoint.
                let settings = settings(try await world.prompts(5), candidates: 96, steps: 8)
                let job = try await world.enqueue("generate", settings)
                try await world.endBetweenCheckpoints { try await TunerProcess.start(world) }
                let left = try await world.queue.show(job)
                #expect(left.state == .leased, "it had ended before it was killed: \(left.json)")
                try await TunerProcess.with(world) { _ in
                    let resumed = try await finished(world, job)
                    let ended = try await world.queue.show(job)
                    #expect(ended.attempt == 2)
                    let whole = try await finished(world, world.enqueue("generate", settings))
                    #expect(resumed.outputs == whole.outputs && resumed.outputs.count == 480)
                    #expect(resumed.result.manifest.sha256 == whole.result.manifest.sha256)
                    #expect(resumed.result.forward_passes == whole.result.forward_passes)
                }
            }
        }

        @Test func promptsThatCannotWorkAreNamedAndTheServiceStaysUp() async throws {
            try await TunerWorld.with { world in
                try await TunerProcess.with(world) { tuner in
                    let sound = try await world.prompts(2)
                    let nan = try await world.prompts(2) { [("prompt_embeds", Tensor(full: .nan, shape: [2, 3, 10])), $0[1]] }
                    let wide = try await world.prompts(2) { [("prompt_embeds", Tensor(full: 1, shape: [2, 3, 9])), $0[1]] }
                    let bare = try await world.prompts(2) { [$0[0]] }
                    let none = try await world.prompts(2) { [("prompt_embeds", Tensor(full: 1, shape: [0, 3, 10])), $0[1]] }
                    let odd = try await world.prompts(2) { [$0[0], ("condition", Tensor(full: 1, shape: [3, 1, 2, 4, 4]))] }
                    let nameless = try await world.prompts(2) { [("embeds", $0[0].1), $0[1]] }
                    let torn = try await world.store.put(Array(world.bytes(sound).dropLast(40))).url
                    let base = settings(sound, candidates: 2)
                    let cases: [([String: any Sendable], [String])] = [
                        (["prompts": nan], ["prompts", "prompt_embeds", "NaN"]),
                        (["prompts": wide], ["prompts", "prompt_embeds", "9 wide", "text_dim is 10"]),
                        (["prompts": bare], ["prompts", "condition", "1 condition channel"]),
                        (["prompts": none], ["prompts", "prompt_embeds", "at least one"]),
                        (["prompts": odd], ["prompts", "condition", "[3, 1, 2, 4, 4]"]),
                        (["prompts": nameless], ["prompts", "prompt_embeds"]), (["prompts": torn], ["prompts"]),
                        (["prompts": ""], ["setting prompts", "required"]),
                        (["prompts": "http://169.254.169.254/latest"], ["setting prompts", "FORETASTE_ARTIFACTS_ALLOW"]),
                        (["prompts": "file:///etc/passwd"], ["setting prompts"]),
                        (["prompts_sha256": String(repeating: "0", count: 64)], ["setting prompts", "0000"]),
                        (["candidate": 2], ["candidate", "candidates"]), (["candidates": 0], ["setting candidates"]),
                        (["adapter": "tiny:1"], ["setting adapter", "expected a adapter"]),
                        (["generator": "absent@latest"], ["setting generator", "absent@latest"]),
                        (["reward": "reward@champion", "prune": "4@2"], ["setting prune"]),
                        (["reward": "reward@champion", "candidates": 1], ["setting candidates"]),
                    ]
                    var jobs: [Int64] = []
                    for (changes, _) in cases { jobs.append(try await world.enqueue("generate", base.merging(changes) { $1 })) }
                    for (job, (changes, words)) in zip(jobs, cases) {
                        let ended = try await world.queue.finished(job)
                        #expect(ended.state == .dead && ended.attempt == 1, "\(changes): \(ended.json)")
                        for word in words { #expect(ended.error?.contains(word) == true, "\(changes): \(ended.error ?? "no reason")") }
                    }
                    let last = try await world.queue.finished(try await world.enqueue("generate", base))
                    #expect(last.state == .succeeded && last.pid == Int(tuner.child.identifier), "\(last.json)")
                }
            }
        }
    }
}
