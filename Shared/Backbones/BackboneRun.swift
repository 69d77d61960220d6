import Foundation
import Safetensors
import Tensors

/// What `foretaste backbone` does: a model folder described, and one pass from file to file under diffusers' names.
public enum BackboneRun {
    /// What a person wants to know of a model folder, one line each. The weights are read and checked in full.
    public static func inspect(directory: String) throws -> String {
        let model = try WanTransformer3DModel.load(directory: directory)
        let c = model.configuration
        let values = model.parameterCount
        var lines = [
            "class         WanTransformer3DModel, \(c.imageDim == nil ? "text to video" : "image to video")",
            "parameters    \(values) in \(model.parameters.count) tensors (\((values * 4 + 1_048_575) / 1_048_576) MiB as Float32)",
            "blocks        \(c.numLayers) of width \(c.innerDim): \(c.numAttentionHeads) heads of \(c.attentionHeadDim), feed-forward \(c.ffnDim)",
            "channels      \(c.inChannels) in, \(c.outChannels) out",
            "patch         \(c.patchSize.map(String.init).joined(separator: " x ")) (frames x rows x columns)",
            "text          tokens of width \(c.textDim)",
        ]
        if let imageDim = c.imageDim {
            let keys = c.addedKvProjDim == nil ? "joined in front of the text" : "with keys and values of their own"
            lines.append("image         tokens of width \(imageDim), \(keys)")
        }
        lines.append("largest grid  \(c.ropeMaxSeqLen) patches along an axis")
        return lines.joined(separator: "\n")
    }

    /// What to compute, and from where to where.
    public struct Request: Sendable {
        public var directory: String
        /// `hidden_states`, `timestep`, `encoder_hidden_states` and where the model takes it `encoder_hidden_states_image`.
        public var input: String
        public var output: String
        /// Blocks, counted from 1, whose residual stream is written as `features.K`.
        public var features: [Int] = []
        /// A file with `cotangent`, shaped like `sample`; without it no gradient is computed.
        public var cotangent: String?
        /// Parameters whose gradient is written as `grad.NAME`.
        public var gradients: [String] = []
        /// An adapter, as diffusers saves it.
        public var lora: String?

        public init(directory: String, input: String, output: String) {
            self.directory = directory
            self.input = input
            self.output = output
        }
    }

    /// Runs the model and writes the output whole, or throws and leaves no output file.
    public static func forward(_ request: Request) throws {
        let output = URL(fileURLWithPath: request.output).standardizedFileURL.path
        for path in [request.input, request.cotangent, request.lora].compactMap({ $0 }) {
            guard URL(fileURLWithPath: path).standardizedFileURL.path != output else {
                throw BackboneError("the output \(request.output) would replace an input")
            }
        }
        do {
            try run(request)
        } catch {
            // An older result left in place could be taken for this run's.
            try? FileManager.default.removeItem(atPath: request.output)
            throw error
        }
    }

    private static func run(_ request: Request) throws {
        guard request.gradients.isEmpty || request.cotangent != nil else {
            throw BackboneError("gradients are asked for, but there is no cotangent to begin with")
        }
        let file = try SafetensorsFile(contentsOf: request.input)
        let model = try WanTransformer3DModel.load(directory: request.directory)
        if let lora = request.lora { try model.attachLoRA(LoRAFile.load(lora), trainable: false) }
        let wanted = try requireGradients(request.gradients, of: model)

        let hidden = Variable(try finite(file, "hidden_states"), requiresGradient: request.cotangent != nil)
        let image = file.names.contains("encoder_hidden_states_image") && model.configuration.imageDim != nil
        let result = try model(
            hiddenStates: hidden, timestep: timestep(file, batch: hidden.tensor.shape.first ?? 0),
            encoderHiddenStates: Variable(finite(file, "encoder_hidden_states")),
            encoderHiddenStatesImage: image ? Variable(finite(file, "encoder_hidden_states_image")) : nil,
            features: Set(request.features))
        guard let sample = result.sample else { throw BackboneError("the model returned no sample") }

        var tensors = [("sample", sample.tensor)]
        for block in Set(request.features).sorted() { tensors.append(("features.\(block)", result.features[block]!.tensor)) }
        if let path = request.cotangent {
            let cotangent = try finite(SafetensorsFile(contentsOf: path), "cotangent")
            guard cotangent.shape == sample.tensor.shape else {
                throw BackboneError("cotangent has shape \(cotangent.shape), but sample has \(sample.tensor.shape)")
            }
            sample.backward(cotangent)
            tensors.append(("grad_hidden_states", hidden.gradient ?? Tensor(zeros: hidden.tensor.shape)))
            for (name, variable) in wanted {
                tensors.append(("grad.\(name)", variable().gradient ?? Tensor(zeros: variable().tensor.shape)))
            }
        }
        try SafetensorsWriter.write(tensors: tensors, to: request.output)
    }

    /// Makes the named parameters, and no others, require gradients. An adapter's may be called as in its file or without `transformer.`.
    private static func requireGradients(
        _ names: [String], of model: WanTransformer3DModel
    ) throws -> [(name: String, variable: () -> Variable)] {
        var result: [(String, () -> Variable)] = []
        for name in names where !result.contains(where: { $0.0 == name }) {
            let plain = name.hasPrefix("transformer.") ? String(name.dropFirst(12)) : name
            let adapters = model.tree.layers.compactMap(\.adapter).flatMap { [$0.a, $0.b] }
            guard let parameter = (model.tree.parameters + adapters).first(where: { $0.name == plain }) else {
                throw BackboneError("gradients: the model has no parameter '\(name)'")
            }
            parameter.variable = Variable(parameter.variable.tensor, requiresGradient: true)
            result.append((name, { parameter.variable }))
        }
        return result
    }

    private static func finite(_ file: SafetensorsFile, _ name: String) throws -> Tensor {
        let tensor = try file.tensor(name)
        guard tensor.isFinite else { throw BackboneError("\(name) holds values that are not finite") }
        return tensor
    }

    /// One value a clip, integers or floats; a single value stands for all clips, as in diffusers.
    private static func timestep(_ file: SafetensorsFile, batch: Int) throws -> [Float] {
        guard let entry = file.entries["timestep"] else { _ = try file.tensor("timestep"); return [] }
        guard entry.shape.count <= 1 else {
            throw BackboneError("timestep has shape \(entry.shape), expected [\(batch)]: a timestep for each token is not supported")
        }
        let values = entry.dtype.isFloatingPoint ? try file.tensor("timestep").array : try file.integers("timestep").map { Float($0) }
        return values.count == 1 ? [Float](repeating: values[0], count: batch) : values
    }
}
