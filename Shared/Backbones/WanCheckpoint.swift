public import Safetensors
import Tensors

extension WanTransformer3DModel {
    static func configuration(contentsOf path: String) throws -> WanConfiguration { try WanConfiguration(contentsOf: path) }

    /// Wan's original checkpoints carry this unused norm, and diffusers skips it too.
    static func ignores(_ tensor: String) -> Bool { tensor.contains("norm_added_q") }

    /// Loads a diffusers folder: `config.json` and one safetensors file, or shards with their index.
    ///
    /// No parameter requires a gradient. Weights in bf16, f16 or f64 become Float32.
    /// - Throws: `BackboneError` or `SafetensorsError` naming the tensor that is missing, superfluous, misshapen or not finite.
    public static func load(directory: String) throws -> WanTransformer3DModel { try Checkpoint.load(directory) }

    /// Writes a diffusers folder: `config.json` and `diffusion_pytorch_model.safetensors`, each renamed into place when complete.
    public func save(directory: String, dtype: FloatStorage = .float32) throws {
        try Checkpoint.save(
            parameters.map { ($0.name, $0.variable.tensor) }, configuration: configuration.encoded(), dtype: dtype, to: directory)
    }
}
