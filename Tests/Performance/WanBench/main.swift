import Backbones
import DemoWorld
import Foundation
import Tensors

// The demo's transformer as it is used: micro-batches of 8 clips spread over the cores, forward and a training step of all weights.
// Prints one JSON line; Tests/Performance/bench runs it in turn with the same work in PyTorch.

let threads = CommandLine.arguments.count > 1 ? Int(CommandLine.arguments[1]) ?? 1 : NumericThreads.count
let clips = 32, shard = 8
NumericThreads.count = threads

let weights = try WanTransformer3DModel.load(directory: DemoResources.generator).weights
let frozen = weights.frozen()
let world = try DemoConditioning()
var stream = RandomStream(seed: 1)
let latents = Tensor.normal(shape: [clips, 20, 6, 8, 8], &stream)
let prompts = world.promptEmbeds((0..<clips).map { DemoPrompt(id: $0 % 12) })

@Sendable func rows(_ shardIndex: Int) -> Range<Int> { shardIndex * shard..<(shardIndex + 1) * shard }

func forward() {
    NumericThreads.parallelFor(clips / shard) { index in
        let model = try! frozen.model()
        _ = try! model(
            hiddenStates: Variable(latents[rows(index)]), timestep: [Float](repeating: 700, count: shard),
            encoderHiddenStates: Variable(prompts[rows(index)]))
    }
}

func trainingStep() {
    let gradients = NumericThreads.parallelMap(clips / shard) { index -> [Tensor] in
        let model = try! weights.model()
        model.setRequiresGradient { _ in true }
        let sample = try! model(
            hiddenStates: Variable(latents[rows(index)]), timestep: [Float](repeating: 700, count: shard),
            encoderHiddenStates: Variable(prompts[rows(index)])
        ).sample!
        meanSquaredError(sample, Variable(Tensor(zeros: sample.shape))).backward()
        return model.parameters.map { $0.variable.gradient! }
    }
    _ = gradients.dropFirst().reduce(gradients[0]) { sum, next in zip(sum, next).map { $0 + $1 } }
}

/// The median of some runs, in seconds.
func seconds(_ body: () -> Void) -> Double {
    body()
    let times = (0..<7).map { _ in
        let started = ContinuousClock.now
        body()
        return (ContinuousClock.now - started) / .seconds(1)
    }
    return times.sorted()[times.count / 2]
}

let times = (forward: seconds(forward), training: seconds(trainingStep))
print(
    """
    {"threads": \(threads), "clips": \(clips), "forward_s": \(times.forward), "training_s": \(times.training), "machine": "\(machine.replacingOccurrences(of: "\"", with: "'"))"}
    """)
