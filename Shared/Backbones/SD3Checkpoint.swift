public import Safetensors
import Tensors

extension SD3Transformer2DModel {
    static func configuration(contentsOf path: String) throws -> SD3Configuration { try SD3Configuration(contentsOf: path) }

    /// The table of positions is no parameter: `load` reads it apart.
    static func ignores(_ tensor: String) -> Bool { tensor == SD3PositionTable.name }

    /// Loads a diffusers folder: `config.json` and one safetensors file, or shards with their index.
    ///
    /// No parameter requires a gradient. Weights in bf16, f16 or f64 become Float32. The table of positions is the folder's when it has
    /// one, as diffusers takes it.
    /// - Throws: `BackboneError` or `SafetensorsError` naming the tensor that is missing, superfluous, misshapen or not finite.
    public static func load(directory: String) throws -> SD3Transformer2DModel {
        let model: SD3Transformer2DModel = try Checkpoint.load(directory)
        let configuration = model.configuration
        if let file = try Checkpoint(directory: directory).files[SD3PositionTable.name] {
            let (entry, shape) = (file.entries[SD3PositionTable.name]!, SD3PositionTable.shape(configuration))
            guard entry.shape == shape else {
                throw BackboneError(
                    "\(directory): tensor '\(SD3PositionTable.name)' has shape \(entry.shape), but config.json makes it \(shape)")
            }
            let table = try file.tensor(SD3PositionTable.name)
            guard table.isFinite else {
                throw BackboneError("\(directory): tensor '\(SD3PositionTable.name)' holds values that are not finite")
            }
            model.positions = SD3PositionTable(configuration, stored: table)
        }
        return model
    }

    /// Writes a diffusers folder: `config.json` and `diffusion_pytorch_model.safetensors`, each renamed into place when complete.
    public func save(directory: String, dtype: FloatStorage = .float32) throws {
        // diffusers warns of weights left out when a folder is without the table.
        try Checkpoint.save(
            parameters.map { ($0.name, $0.variable.tensor) } + [(SD3PositionTable.name, positions.tensor)],
            configuration: configuration.encoded(), dtype: dtype, to: directory)
    }

    /// A model to be trained from nothing, every layer initialised as torch does it: uniform within ±1/sqrt(fan in), norms with ones.
    /// Each parameter has a stream of its own. All parameters require gradients.
    public convenience init(configuration: SD3Configuration, seed: UInt64) {
        var item: UInt32 = 0
        try! self.init(
            configuration: configuration, trainable: { _ in true },
            source: { _, shape, initializer in
                var stream = RandomStream(seed: seed, item: item)
                item += 1
                return initializer.tensor(shape: shape, stream: &stream)
            })
    }
}
