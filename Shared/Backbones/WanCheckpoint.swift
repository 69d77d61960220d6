import Foundation
public import Safetensors
import Tensors

/// A model folder's tensors: one `diffusion_pytorch_model.safetensors`, or shards behind an index.
struct Checkpoint {
    /// The file that holds each tensor.
    private(set) var files: [String: SafetensorsFile] = [:]

    static let single = "diffusion_pytorch_model.safetensors"
    static let index = "diffusion_pytorch_model.safetensors.index.json"

    init(directory: String) throws {
        let manager = FileManager.default
        if manager.fileExists(atPath: "\(directory)/\(Self.single)") {
            let file = try SafetensorsFile(contentsOf: "\(directory)/\(Self.single)")
            for name in file.names { files[name] = file }
            return
        }
        guard let data = manager.contents(atPath: "\(directory)/\(Self.index)") else {
            throw BackboneError("\(directory) has neither \(Self.single) nor \(Self.index)")
        }
        guard data.count <= 64 << 20, case .object(let members)? = try StrictJSON.parse(Array(data))["weight_map"] else {
            throw BackboneError("\(Self.index): weight_map is missing or no object")
        }
        var opened: [String: SafetensorsFile] = [:]
        for member in members {
            guard case .string(let shard) = member.value, !shard.contains("/"), shard.hasSuffix(".safetensors") else {
                throw BackboneError("\(Self.index): weight_map '\(member.key)' names no file of the folder")
            }
            let file = try opened[shard] ?? SafetensorsFile(contentsOf: "\(directory)/\(shard)")
            opened[shard] = file
            guard file.entries[member.key] != nil else {
                throw BackboneError("\(Self.index): '\(member.key)' is not in \(shard), where weight_map has it")
            }
            files[member.key] = file
        }
        for (shard, file) in opened {
            for name in file.names where files[name] == nil { throw BackboneError("\(shard): '\(name)' is not in \(Self.index)") }
        }
    }
}

extension WanTransformer3DModel {
    /// Loads a diffusers folder: `config.json` and one safetensors file, or shards with their index.
    ///
    /// No parameter requires a gradient. Weights in bf16, f16 or f64 become Float32.
    /// - Throws: `BackboneError` or `SafetensorsError` naming the tensor that is missing, superfluous, misshapen or not finite.
    public static func load(directory: String) throws -> WanTransformer3DModel {
        let configuration = try WanConfiguration(contentsOf: "\(directory)/config.json")
        let checkpoint = try Checkpoint(directory: directory)
        var known: Set<String> = []
        let model = try WanTransformer3DModel(
            configuration: configuration, rotaryTables: RotaryTableCache(), trainable: { _ in false },
            source: { name, shape, _ in
                known.insert(name)
                guard let file = checkpoint.files[name], let entry = file.entries[name] else {
                    throw BackboneError("\(directory): tensor '\(name)' (shape \(shape)) is missing")
                }
                guard entry.shape == shape else {
                    throw BackboneError("\(directory): tensor '\(name)' has shape \(entry.shape), but config.json makes it \(shape)")
                }
                let tensor = try file.tensor(name)
                guard tensor.isFinite else { throw BackboneError("\(directory): tensor '\(name)' holds values that are not finite") }
                return tensor
            })
        // Wan's original checkpoints carry this unused norm, and diffusers skips it too.
        let extra = checkpoint.files.keys.filter { !known.contains($0) && !$0.contains("norm_added_q") }.sorted()
        guard extra.isEmpty else {
            throw BackboneError(
                "\(directory): tensor '\(extra[0])' is none of this model's\(extra.count > 1 ? " (and \(extra.count - 1) more)" : "")")
        }
        return model
    }

    /// Writes a diffusers folder: `config.json` and `diffusion_pytorch_model.safetensors`, each renamed into place when complete.
    public func save(directory: String, dtype: FloatStorage = .float32) throws {
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        try SafetensorsWriter.write(
            tensors: parameters.map { ($0.name, $0.variable.tensor) }, metadata: ["format": "pt"], dtype: dtype,
            to: "\(directory)/\(Checkpoint.single)")
        try Data(configuration.encoded()).write(to: URL(fileURLWithPath: "\(directory)/config.json"), options: .atomic)
    }
}
