import Artifacts
import DemoWorld
import Foundation
import JobQueue
import Safetensors
import Tensors

/// Step 1: `generate` jobs make the clips, the annotator labels them, ingest takes the pairs.
extension DemoRun {
    /// The labelled clips and where each one lies.
    struct Pool {
        var clips: DemoClipSet
        var outputs: [Output]
        /// The labels given, a pair each: indices of the clips and the outcome by quality, one in ten wrong.
        var labels: [(a: Int, b: Int, outcome: DemoPreference)]
    }

    /// A line of a `generate` job's manifest.
    struct Output: Decodable {
        var prompt: Int
        var candidate: Int
        var url: String
        var sha256: String
    }

    private struct GenerateResult: Decodable {
        var manifest: Artifact
    }

    func sampleAndLabel(generator: String) async throws -> (Pool, String) {
        let step = "sample and label"
        let prompts = DemoSampler.prompts(settings.trainingGroups)
        let file = try await store.put(
            SafetensorsWriter.data(tensors: [("prompt_embeds", world.promptEmbeds(prompts)), ("condition", world.positionChannels)]),
            mediaType: "application/octet-stream")
        let arguments: [String: Any] = [
            "generator": generator, "prompts": file.url, "prompts_sha256": file.sha256, "candidates": settings.groupSize,
            "steps": settings.trainingSteps, "seed": Int(settings.seed), "vae": Self.vae,
        ]
        let id = try await services.queue.enqueue(kind: "generate", json: try jsonObject(arguments))
        let job = try await services.wait(for: id) { terminal.progress(step, 0.7 * ($0.progress ?? 0), $0.message ?? "") }
        guard let result = try job.result(as: GenerateResult.self) else {
            throw DemoServices.Failure(description: "generate left no result")
        }
        let outputs = try JSONDecoder().decode([Output].self, from: try await services.http.get(result.manifest.url).body)

        var latents: [Tensor] = []
        for (index, output) in outputs.enumerated() {
            if index % 40 == 0 { terminal.progress(step, 0.7 + 0.1 * Double(index) / Double(outputs.count), "looking at clips") }
            latents.append(try SafetensorsFile(data: [UInt8](try await services.http.get(output.url).body)).tensor("latents"))
        }
        let clips = DemoClipSet(
            latents: Tensor.stack(latents), prompts: outputs.map { prompts[$0.prompt] }, group: settings.groupSize, world: world)
        let labels = label(clips) { $0.quality }
        // The schedule first: it counts pairs as they become usable.
        try await services.queue.addSchedule(
            key: "retrain", kind: "train_reward", json: try jsonObject(trainingArguments(Self.rewardName, "overall", generator)),
            everyNewPairs: labels.count)
        try await services.post(labels.enumerated().map { pair($0, $1, outputs, clips, dimension: "overall") })
        try await services.waitForUsable(labels.count) { terminal.progress(step, 0.8 + 0.2 * $0, "verifying pairs") }

        figures.clips = clips.count
        figures.pairs = labels.count
        figures.ties = labels.count { $0.outcome == .tie }
        return (
            Pool(clips: clips, outputs: outputs, labels: labels),
            "\(clips.count) clips, \(labels.count) pairs posted and verified, \(figures.ties) ties"
        )
    }

    /// All pairs inside each group with the answer of a person who is wrong one time in ten.
    func label(_ clips: DemoClipSet, quality: (DemoJudgement) -> Float) -> [(a: Int, b: Int, outcome: DemoPreference)] {
        var labels: [(a: Int, b: Int, outcome: DemoPreference)] = []
        var stream = RandomStream(seed: settings.seed, run: 0x1abe1)
        for first in stride(from: 0, to: clips.count, by: clips.group) {
            for i in first..<first + clips.group {
                for j in (i + 1)..<first + clips.group {
                    let outcome = DemoAnnotator.label(quality(clips.judgements[i]), quality(clips.judgements[j]), stream: &stream)
                    labels.append((i, j, outcome))
                }
            }
        }
        return labels
    }

    func pair(
        _ number: Int, _ label: (a: Int, b: Int, outcome: DemoPreference), _ outputs: [Output], _ clips: DemoClipSet, dimension: String
    ) -> [String: Any] {
        let outcome =
            switch label.outcome {
            case .a: "a"
            case .b: "b"
            case .tie: "tie"
            }
        func side(_ index: Int) -> [String: String] { ["url": outputs[index].url, "sha256": outputs[index].sha256] }
        return [
            "source": "demo", "external_id": dimension + "-" + String(format: "%05d", number), "prompt": clips.prompts[label.a].text,
            "dimension": dimension, "outcome": outcome, "rater": "annotator", "a": side(label.a), "b": side(label.b),
        ]
    }

    func trainingArguments(_ name: String, _ dimension: String, _ generator: String) -> [String: Any] {
        [
            "name": name, "backbone": generator, "dimension": dimension, "head": "prism", "loss": "rao-kupper",
            "block": settings.rewardBlock,
            "steps": settings.rewardSteps, "batch": 64, "learning_rate": 1e-3, "seed": Int(settings.seed),
        ]
    }

    func jsonObject(_ object: [String: Any]) throws -> String {
        String(
            decoding: try JSONSerialization.data(withJSONObject: object, options: [.sortedKeys, .withoutEscapingSlashes]), as: UTF8.self)
    }
}
