import ArgumentParser
import Backbones
import Foundation
import Tensors

/// `foretaste backbone …`: for anyone who checks us against diffusers, or asks where the time goes.
struct BackboneCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "backbone", abstract: "Inspect, run or profile a model folder: Wan, Stable Diffusion, Stable Diffusion 3.",
        discussion: """
            DIR is a folder in diffusers' layout, the transformer's or U-Net's own or a pipeline's: its config.json says which of \
            WanTransformer3DModel, UNet2DConditionModel and SD3Transformer2DModel it is.
            """,
        subcommands: [BackboneInspectCommand.self, Forward.self, Profile.self])

    struct Forward: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "One evaluation, with features and gradients if asked for.",
            discussion: """
                IN holds diffusers' argument names; keys that the class does not take are ignored.
                  Wan:   hidden_states [B,C,F,H,W], timestep, encoder_hidden_states [B,L,D], encoder_hidden_states_image
                  U-Net: sample [B,C,H,W], timestep, encoder_hidden_states, text_embeds [B,P] and time_ids [B,6] (SDXL), \
                encoder_attention_mask [B,L]
                  SD3:   hidden_states [B,C,H,W], timestep, encoder_hidden_states, pooled_projections [B,P]
                timestep has one value or one a row, integers or floats.

                OUT holds sample and features.NAME. With a cotangent file, gradients of the sum of the cotangents' products with what they are \
                cotangents of: grad_INPUT for every floating-point input but timestep and time_ids, and grad.PARAMETER for the parameters asked \
                for. On an error no output file is left.

                --features-only ends the pass after the last feature: OUT has no sample, and of a U-Net the up half is not even loaded, so \
                that its weights may be missing. The cotangent file then has cotangent.features.NAME.
                """)
        @Argument(help: "The model folder, or its pipeline's.") var directory: String
        @Option(help: "A safetensors file of inputs.") var input: String
        @Option(help: "The safetensors file to write.") var output: String
        @Option(help: "Features to write: blocks of a transformer, such as 1,3 (from 1), or maps of a U-Net, such as down.0,mid.")
        var features: String?
        @Flag(help: "Stop after the last of the features; no sample.") var featuresOnly = false
        @Option(help: "A safetensors file with cotangent (shaped like sample), cotangent.features.NAME, or several of them.")
        var cotangent: String?
        @Option(help: "Parameters whose gradients to write, by their diffusers names, by commas.") var gradients: String?
        @Option(help: "A LoRA file to apply.") var lora: String?
        @OptionGroup var numerics: NumericOptions

        func run() throws {
            numerics.apply()
            var request = BackboneRun.Request(directory: directory, input: input, output: output)
            request.features = Self.list(features)
            request.featuresOnly = featuresOnly
            request.cotangent = cotangent
            request.gradients = Self.list(gradients)
            request.lora = lora
            guard cotangent != nil || request.gradients.isEmpty else { throw ValidationError("--gradients needs --cotangent") }
            guard !featuresOnly || !request.features.isEmpty else { throw ValidationError("--features-only needs --features") }
            try BackboneRun.forward(request)
        }

        private static func list(_ text: String?) -> [String] {
            (text ?? "").split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }.filter { !$0.isEmpty }
        }
    }

    struct Profile: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Where the time goes: operations with their share and FLOP/s, beside the machine's best, and peak memory.",
            discussion: "Sizes are those of latents. Inputs are random; the model's weights are frozen, as a judge's are.")
        @Argument(help: "The model folder, or its pipeline's.") var directory: String
        @Option(help: "Latent frames; 1 for pictures.") var frames = 1
        @Option(help: "Latent rows and columns, HxW.") var size: LatentSize
        @Option(help: "Clips or pictures at once.") var batch = 1
        @Option(help: "Text tokens.") var textLength = 512
        @Flag(help: "The gradient with respect to the latent too.") var backward = false
        @Option(help: "Passes that are timed, after one that is not.") var repetitions = 3
        @Flag(help: "JSON, for programs.") var json = false
        @OptionGroup var numerics: NumericOptions

        func run() throws {
            numerics.apply()
            let report = try BackboneProfile.run(
                directory: PipelineFolder(directory).model, frames: frames, height: size.height, width: size.width, batch: batch,
                textLength: textLength, backward: backward, repetitions: repetitions)
            print(json ? report.json : report.text)
        }
    }
}

/// Rows and columns as `60x104`.
struct LatentSize: ExpressibleByArgument {
    let height: Int
    let width: Int

    init?(argument: String) {
        let parts = argument.lowercased().split(separator: "x", omittingEmptySubsequences: false).map { Int($0) }
        guard parts.count == 2, let height = parts[0], let width = parts[1], height > 0, width > 0 else { return nil }
        self.height = height
        self.width = width
    }
}

/// How arithmetic is done, the same for every command that does some.
struct NumericOptions: ParsableArguments {
    @Option(help: "Threads; all cores if not given.") var threads: Int?
    @Option(
        help: "How large matrix products are computed: float32, or bfloat16x3, which is faster where the CPU has AMX.",
        transform: { text in
            guard let precision = Precision(rawValue: text) else {
                throw ValidationError("\(text): expected \(Precision.allCases.map(\.rawValue).joined(separator: " or "))")
            }
            return precision
        }) var precision = Precision.float32

    func validate() throws {
        if let threads, !(1...1024).contains(threads) { throw ValidationError("--threads \(threads): expected 1 to 1024") }
    }

    func apply() {
        if let threads { NumericThreads.count = threads }
        Precision.current = precision
        guard precision == .bfloat16x3, !Precision.hasTiles else { return }
        FileHandle.standardError.write(Data("--precision bfloat16x3: this CPU has no AMX tiles; computing in float32\n".utf8))
    }
}
