import ArgumentParser
import Foundation
import Tensors

/// `foretaste pretrain`: how the demo's own generator was made.
struct PretrainCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pretrain", abstract: "Train the demo's generator from nothing (flow matching on the demo's world).",
        discussion: """
            Writes config.json and diffusion_pytorch_model.safetensors in diffusers layout. A run that was stopped goes on from its checkpoint. \
            The committed generator was made with the defaults.
            """)
    @Option(help: "The folder to write; made if missing.") var output: String
    @Option(help: "Training steps of 40 clips.") var steps = 2000
    @Option(help: "Seed of weights, clips and noise.") var seed: UInt64 = 1

    func validate() throws {
        guard steps > 0 else { throw ValidationError("--steps: expected a positive number") }
    }

    func run() async throws {
        let terminal = Terminal()
        let (output, steps, seed) = (output, steps, seed)
        let summary = try await NumericThreads.run {
            try DemoPretraining.run(
                output: output, steps: steps, seed: seed,
                progress: { step, loss in
                    if step % 10 == 0 { terminal.progress("pretraining", Double(step) / Double(steps), String(format: "loss %.4f", loss)) }
                })
        }
        terminal.finished("pretraining", seconds: summary.seconds, String(format: "final loss %.4f", summary.finalLoss))
        print(output)
    }
}
