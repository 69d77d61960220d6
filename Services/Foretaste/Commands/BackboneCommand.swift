import ArgumentParser
import Backbones
import Foundation
import Tensors

/// `foretaste backbone …`: for anyone who checks us against diffusers.
struct BackboneCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "backbone", abstract: "Inspect a model folder, or run its transformer on a file of inputs.",
        subcommands: [Inspect.self, Forward.self])

    struct Inspect: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "What a diffusers folder holds.")
        @Argument(help: "The folder.") var directory: String

        func run() throws { print(try BackboneRun.inspect(directory: directory)) }
    }

    struct Forward: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "One evaluation, with features and gradients if asked for.",
            discussion: """
                IN holds diffusers' argument names: hidden_states, timestep (I64 or F32), encoder_hidden_states, encoder_hidden_states_image. \
                OUT holds sample, features.K, and with a cotangent file (key `cotangent`, shaped like sample) grad_hidden_states and \
                grad.<parameter> for the parameters asked for. Keys that are not needed are ignored. On an error no output file is left.
                """)
        @Argument(help: "The model folder.") var directory: String
        @Option(help: "A safetensors file of inputs.") var input: String
        @Option(help: "The safetensors file to write.") var output: String
        @Option(help: "Blocks whose residual stream to write, such as 1,3 (from 1).") var features: String?
        @Option(help: "A safetensors file with the key cotangent.") var cotangent: String?
        @Option(help: "Parameters whose gradients to write, by their diffusers names, by commas.") var gradients: String?
        @Option(help: "A LoRA file to apply.") var lora: String?
        @Option(help: "Threads; all cores if not given.") var threads: Int?

        func run() throws {
            if let threads {
                guard threads >= 1, threads <= 1024 else { throw ValidationError("--threads \(threads): expected 1 to 1024") }
                NumericThreads.count = threads
            }
            var request = BackboneRun.Request(directory: directory, input: input, output: output)
            request.features = try (features ?? "").split(separator: ",").map { part in
                guard let block = Int(part.trimmingCharacters(in: .whitespaces)), block >= 1 else {
                    throw ValidationError("--features \(part): expected block numbers from 1, by commas")
                }
                return block
            }
            request.cotangent = cotangent
            request.gradients = (gradients ?? "").split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
            request.lora = lora
            guard cotangent != nil || request.gradients.isEmpty else { throw ValidationError("--gradients needs --cotangent") }
            try BackboneRun.forward(request)
        }
    }
}
