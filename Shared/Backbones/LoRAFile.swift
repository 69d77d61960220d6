import Foundation
public import Safetensors
import Tensors

/// An adapter in the file that diffusers reads and writes: PEFT's names behind `transformer.` or `unet.`, and PEFT's configuration as
/// JSON in the metadata. `pipe.load_lora_weights(folder)` takes it with no further argument.
public enum LoRAFile {
    /// The name that diffusers looks for in a folder.
    public static let name = "pytorch_lora_weights.safetensors"
    static let metadataKey = "lora_adapter_metadata"
    /// The name that PEFT itself looks for, and its configuration beside it.
    static let peftName = "adapter_model.safetensors"
    static let peftConfiguration = "adapter_config.json"
    /// What may stand before a layer's name: a pipeline's part, PEFT's wrapper, or nothing in what a model alone saved.
    static let components = ["transformer", "unet"]
    private static let peftPrefix = "base_model.model."

    /// The file's tensors and metadata.
    static func contents(_ weights: LoRAWeights) throws -> (tensors: [(String, Tensor)], metadata: [String: String]) {
        guard let first = weights.layers.first else { throw BackboneError("LoRA: there is no layer to save") }
        guard let component = weights.component else {
            throw BackboneError("LoRA: it is not known which part of a pipeline the adapter is for; attach it to a model first")
        }
        let (rank, alpha) = (first.rank, first.alpha)
        // Patterns are regular expressions that match ends of names; an anchor makes them whole names.
        func patterns(_ odd: [(name: String, value: String)]) -> String {
            odd.isEmpty
                ? "{}" : "{\n" + odd.map { "    \(StrictJSON.quoted("^" + $0.name)): \($0.value)" }.joined(separator: ",\n") + "\n  }"
        }
        let members: [(String, String)] = [
            ("alpha_pattern", patterns(weights.layers.filter { $0.alpha != alpha }.map { ($0.name, text($0.alpha)) })),
            ("bias", "\"none\""), ("lora_alpha", text(alpha)), ("lora_dropout", "0.0"), ("peft_type", "\"LORA\""), ("r", "\(rank)"),
            ("rank_pattern", patterns(weights.layers.filter { $0.rank != rank }.map { ($0.name, "\($0.rank)") })),
            // Whole names: a suffix could match a linear that has no adapter.
            ("target_modules", "[\n" + weights.layers.map { "    " + StrictJSON.quoted($0.name) }.joined(separator: ",\n") + "\n  ]"),
        ]
        let json = "{\n" + members.map { "  \"\(component).\($0.0)\": \($0.1)" }.joined(separator: ",\n") + "\n}"
        let tensors = weights.layers.flatMap {
            [("\(component).\($0.name).lora_A.weight", $0.a), ("\(component).\($0.name).lora_B.weight", $0.b)]
        }
        return (tensors, [metadataKey: json, "format": "pt"])
    }

    private static func text(_ alpha: Float) -> String { alpha == alpha.rounded() && abs(alpha) < 1e6 ? String(Int(alpha)) : "\(alpha)" }

    /// The file in memory, to be published as an artifact.
    public static func data(_ weights: LoRAWeights) throws -> [UInt8] {
        let (tensors, metadata) = try contents(weights)
        return SafetensorsWriter.data(tensors: tensors, metadata: metadata)
    }

    /// Writes the file; it appears whole or not at all.
    public static func save(_ weights: LoRAWeights, to path: String) throws {
        let (tensors, metadata) = try contents(weights)
        try SafetensorsWriter.write(tensors: tensors, metadata: metadata, to: path)
    }

    /// Reads a file that diffusers, PEFT or `save` wrote, or the one in a folder (`pytorch_lora_weights.safetensors`, or PEFT's
    /// `adapter_model.safetensors`; PEFT's file needs its `adapter_config.json` beside it).
    /// - Throws: `BackboneError` or `SafetensorsError` naming the key that is unknown, half there, misshapen or not finite.
    public static func load(_ path: String) throws -> LoRAWeights {
        let manager = FileManager.default
        var isFolder: ObjCBool = false
        var file = path
        if manager.fileExists(atPath: path, isDirectory: &isFolder), isFolder.boolValue {
            let ours = "\(path)/\(name)", peft = "\(path)/\(peftName)"
            file = !manager.fileExists(atPath: ours) && manager.fileExists(atPath: peft) ? peft : ours
        }
        let opened = try SafetensorsFile(contentsOf: file)
        guard opened.names.contains(where: { $0.hasPrefix(peftPrefix) }) else { return try load(opened) }
        let beside = URL(fileURLWithPath: file).deletingLastPathComponent().appendingPathComponent(peftConfiguration).path
        let settings = try ConfigurationReader.read(beside) { try LoRASettings(peft: $0) }
        return try load(opened, prefix: peftPrefix, component: nil, settings: settings)
    }

    /// The same on an open file in diffusers' format.
    public static func load(_ file: SafetensorsFile) throws -> LoRAWeights {
        let found = components.first { component in file.names.contains { $0.hasPrefix(component + ".") } }
        let settings = try LoRASettings(metadata: file.metadata[metadataKey], component: found)
        return try load(file, prefix: found.map { $0 + "." } ?? "", component: found, settings: settings)
    }

    private static func load(
        _ file: SafetensorsFile, prefix: String, component: String?, settings: LoRASettings
    ) throws -> LoRAWeights {
        var layers: [String: (a: Tensor?, b: Tensor?, alpha: Float?)] = [:]
        var order: [String] = []
        for key in file.names {
            guard key.hasPrefix(prefix), prefix != "" || !isForeign(key) else {
                throw BackboneError(
                    "LoRA: '\(key)' does not start with '\(prefix.isEmpty ? "transformer.' or 'unet." : prefix)' (PEFT naming)")
            }
            let rest = String(key.dropFirst(prefix.count))
            // diffusers' training scripts for U-Nets call A and B down and up.
            let ends = [".lora_A.weight", ".lora.down.weight", ".lora_B.weight", ".lora.up.weight", ".alpha"]
            guard let part = ends.firstIndex(where: { rest.hasSuffix($0) && rest.count > $0.count }) else {
                throw BackboneError("LoRA: '\(key)' is neither lora_A.weight nor lora_B.weight of a layer")
            }
            let layer = String(rest.dropLast(ends[part].count))
            if layers[layer] == nil { order.append(layer) }
            let tensor = try file.tensor(key)
            guard tensor.isFinite else { throw BackboneError("LoRA: '\(key)' holds values that are not finite") }
            var found = layers[layer] ?? (nil, nil, nil)
            guard part == 4 || (part < 2 ? found.a : found.b) == nil else {
                throw BackboneError("LoRA: '\(key)' is there under another name too")
            }
            switch part {
            case 0, 1: found.a = tensor
            case 2, 3: found.b = tensor
            default:
                guard tensor.count == 1 else { throw BackboneError("LoRA: '\(key)' has shape \(tensor.shape), expected one value") }
                found.alpha = tensor.item
            }
            layers[layer] = found
        }
        guard !order.isEmpty else { throw BackboneError("LoRA: the file holds no tensors") }
        return LoRAWeights(
            layers: try order.map { name in
                guard let a = layers[name]?.a else { throw BackboneError("LoRA: '\(prefix)\(name).lora_A.weight' is missing") }
                guard let b = layers[name]?.b else { throw BackboneError("LoRA: '\(prefix)\(name).lora_B.weight' is missing") }
                guard a.shape.count >= 2, b.shape.count == a.shape.count, a.shape[0] == b.shape[1], a.shape[0] > 0 else {
                    throw BackboneError("LoRA: '\(prefix)\(name)': lora_A \(a.shape) and lora_B \(b.shape) do not share a rank")
                }
                return .init(
                    name: name, a: a, b: b, scaling: try settings.scaling(of: name, rank: a.shape[0], alpha: layers[name]?.alpha))
            }, component: component)
    }

    /// Keys of other programs, and of text encoders.
    private static func isForeign(_ key: String) -> Bool {
        ["diffusion_model.", "text_encoder", "lora_unet_", "lora_te", "model.diffusion_model.", "base_model."].contains {
            key.hasPrefix($0)
        }
    }
}
