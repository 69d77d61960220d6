public import Safetensors
import Tensors

extension UNet2DConditionModel {
    static func configuration(contentsOf path: String) throws -> UNetConfiguration { try UNetConfiguration(contentsOf: path) }

    /// Names and shapes of a model's parameters in its order; nothing is allocated for their values.
    /// - Throws: `BackboneError` when the configuration makes no sense, naming its key.
    public static func declaredParameters(
        _ configuration: UNetConfiguration, downOnly: Bool = false
    ) throws -> [(name: String, shape: [Int])] {
        try declare(configuration.checked(), downOnly: downOnly)
    }

    /// The same of a configuration whose values are in their ranges.
    /// - Throws: `BackboneError` when there are more values than `UNetConfiguration.maximumParameters`.
    static func declare(_ configuration: UNetConfiguration, downOnly: Bool) throws -> [(name: String, shape: [Int])] {
        var declared: [(name: String, shape: [Int])] = []
        var total = 0
        let nothing = Tensor(zeros: [0])
        _ = try UNet2DConditionModel(configuration: configuration, downOnly: downOnly, trainable: { _ in false }) { name, shape, _ in
            declared.append((name, shape))
            total += shape.reduce(1, *)
            guard total <= UNetConfiguration.maximumParameters else {
                throw BackboneError(
                    "block_out_channels, layers_per_block and transformer_layers_per_block make a model of more than "
                        + "\(UNetConfiguration.maximumParameters) parameters")
            }
            return nothing
        }
        return declared
    }

    /// Loads a diffusers folder: `config.json` and one safetensors file, or shards with their index.
    ///
    /// No parameter requires a gradient. Weights in bf16, f16 or f64 become Float32.
    /// - Throws: `BackboneError` or `SafetensorsError` naming the tensor that is missing, superfluous, misshapen or not finite.
    public static func load(directory: String) throws -> UNet2DConditionModel { try load(directory: directory, downOnly: false) }

    /// Loads a folder, and where `downOnly` says so its down and mid half alone: tensors of the up half are not read, and may be missing.
    public static func load(directory: String, downOnly: Bool) throws -> UNet2DConditionModel {
        guard downOnly else { return try Checkpoint.load(directory) }
        return try Checkpoint.load(
            directory, configuration: configuration,
            ignoring: { name in ["up_blocks.", "conv_norm_out.", "conv_out."].contains { name.hasPrefix($0) } },
            build: { configuration, source in
                try UNet2DConditionModel(configuration: configuration, downOnly: true, trainable: { _ in false }, source: source)
            })
    }

    /// A model to be trained from nothing, every layer initialised as torch does it: uniform within ±1/sqrt(fan in) for linears and
    /// convolutions, ones and zeros for norms. Each parameter has a stream of its own, so that the half has the whole's values.
    /// All parameters require gradients.
    public convenience init(configuration: UNetConfiguration, seed: UInt64, downOnly: Bool = false) throws {
        let configuration = try configuration.checked()
        var item: UInt32 = 0
        try self.init(configuration: configuration, downOnly: downOnly, trainable: { _ in true }) { _, shape, initializer in
            var stream = RandomStream(seed: seed, item: item)
            item += 1
            return initializer.tensor(shape: shape, stream: &stream)
        }
    }

    /// Writes a diffusers folder: `config.json` and `diffusion_pytorch_model.safetensors`, each renamed into place when complete.
    public func save(directory: String, dtype: FloatStorage = .float32) throws {
        try Checkpoint.save(
            parameters.map { ($0.name, $0.variable.tensor) }, configuration: configuration.encoded(), dtype: dtype, to: directory)
    }
}
