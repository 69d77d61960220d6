import Foundation
public import Safetensors
import Tensors

/// An adapter in the file that diffusers reads and writes: PEFT's names behind `transformer.`, and PEFT's configuration as JSON in
/// the metadata. `pipe.load_lora_weights(folder)` takes it with no further argument.
public enum LoRAFile {
    /// The name that diffusers looks for in a folder.
    public static let name = "pytorch_lora_weights.safetensors"
    static let metadataKey = "lora_adapter_metadata"
    static let prefix = "transformer."

    /// The file's tensors and metadata. All layers have one rank and one alpha.
    static func contents(_ weights: LoRAWeights) throws -> (tensors: [(String, Tensor)], metadata: [String: String]) {
        guard let first = weights.layers.first else { throw BackboneError("LoRA: there is no layer to save") }
        let rank = first.a.shape[0]
        guard weights.layers.allSatisfy({ $0.a.shape[0] == rank && $0.scaling == first.scaling }) else {
            throw BackboneError("LoRA: layers of different rank or alpha cannot be saved in one file")
        }
        let alpha = first.scaling * Float(rank)
        let alphaText = alpha == alpha.rounded() && abs(alpha) < 1e6 ? String(Int(alpha)) : "\(alpha)"
        let members: [(String, String)] = [
            ("alpha_pattern", "{}"), ("bias", "\"none\""), ("lora_alpha", alphaText), ("lora_dropout", "0.0"),
            ("peft_type", "\"LORA\""), ("r", "\(rank)"), ("rank_pattern", "{}"),
            // Whole names: a suffix could match a linear that has no adapter.
            ("target_modules", "[\n" + weights.layers.map { "    " + StrictJSON.quoted($0.name) }.joined(separator: ",\n") + "\n  ]"),
        ]
        let json = "{\n" + members.map { "  \"\(prefix)\($0.0)\": \($0.1)" }.joined(separator: ",\n") + "\n}"
        let tensors = weights.layers.flatMap {
            [("\(prefix)\($0.name).lora_A.weight", $0.a), ("\(prefix)\($0.name).lora_B.weight", $0.b)]
        }
        return (tensors, [metadataKey: json, "format": "pt"])
    }

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

    /// Reads a file that diffusers, PEFT or `save` wrote, or the one called `pytorch_lora_weights.safetensors` in a folder.
    /// - Throws: `BackboneError` or `SafetensorsError` naming the key that is unknown, half there, misshapen or not finite.
    public static func load(_ path: String) throws -> LoRAWeights {
        var isFolder: ObjCBool = false
        let exists = FileManager.default.fileExists(atPath: path, isDirectory: &isFolder)
        return try load(SafetensorsFile(contentsOf: exists && isFolder.boolValue ? "\(path)/\(name)" : path))
    }

    /// The same on an open file.
    public static func load(_ file: SafetensorsFile) throws -> LoRAWeights {
        let settings = try Settings(file.metadata[metadataKey])
        var layers: [String: (a: Tensor?, b: Tensor?, alpha: Float?)] = [:]
        var order: [String] = []
        for key in file.names {
            guard key.hasPrefix(prefix) else { throw BackboneError("LoRA: '\(key)' does not start with '\(prefix)' (PEFT naming)") }
            let rest = String(key.dropFirst(prefix.count))
            let part = [".lora_A.weight", ".lora_B.weight", ".alpha"].first { rest.hasSuffix($0) }
            guard let part else { throw BackboneError("LoRA: '\(key)' is neither lora_A.weight nor lora_B.weight") }
            let layer = String(rest.dropLast(part.count))
            if layers[layer] == nil { order.append(layer) }
            let tensor = try file.tensor(key)
            guard tensor.isFinite else { throw BackboneError("LoRA: '\(key)' holds values that are not finite") }
            switch part {
            case ".lora_A.weight": layers[layer, default: (nil, nil, nil)].a = tensor
            case ".lora_B.weight": layers[layer, default: (nil, nil, nil)].b = tensor
            default:
                guard tensor.count == 1 else { throw BackboneError("LoRA: '\(key)' has shape \(tensor.shape), expected one value") }
                layers[layer, default: (nil, nil, nil)].alpha = tensor.item
            }
        }
        guard !order.isEmpty else { throw BackboneError("LoRA: the file holds no tensors") }
        return LoRAWeights(
            layers: try order.map { name in
                guard let a = layers[name]?.a else { throw BackboneError("LoRA: '\(prefix)\(name).lora_A.weight' is missing") }
                guard let b = layers[name]?.b else { throw BackboneError("LoRA: '\(prefix)\(name).lora_B.weight' is missing") }
                guard a.shape.count == 2, b.shape.count == 2, a.shape[0] == b.shape[1], a.shape[0] > 0 else {
                    throw BackboneError("LoRA: '\(prefix)\(name)': lora_A \(a.shape) and lora_B \(b.shape) do not share a rank")
                }
                return .init(
                    name: name, a: a, b: b, scaling: settings.scaling(of: name, rank: a.shape[0], alpha: layers[name]?.alpha))
            })
    }

    /// What of PEFT's configuration changes the numbers.
    private struct Settings {
        var alpha: Float?
        var patterns: [(String, Float)] = []
        var usesRootOfRank = false

        init(_ json: String?) throws {
            guard let json else { return }
            guard case .object(let members) = try StrictJSON.parse(Array(json.utf8)) else {
                throw BackboneError("LoRA: \(metadataKey) is not a JSON object")
            }
            for member in members where member.key.hasPrefix(prefix) {
                let key = member.key.dropFirst(prefix.count)
                switch key {
                case "lora_alpha": alpha = try Self.number(member)
                case "alpha_pattern":
                    if case .object(let items) = member.value { patterns = try items.map { ($0.key, try Self.number($0)) } }
                case "use_rslora": usesRootOfRank = member.value == .bool(true)
                case "use_dora", "lora_bias", "fan_in_fan_out":
                    if member.value == .bool(true) { throw BackboneError("LoRA: \(key) is not supported") }
                default: continue
                }
            }
        }

        private static func number(_ member: StrictJSON.Member) throws -> Float {
            switch member.value {
            case .integer(let value): return Float(value)
            case .number(let value): return Float(value)
            default: throw BackboneError("LoRA: \(metadataKey) '\(member.key)' is \(member.value.kind), not a number")
            }
        }

        func scaling(of name: String, rank: Int, alpha own: Float?) -> Float {
            let value = own ?? patterns.first { name.isOrEnds(with: $0.0) }?.1 ?? alpha ?? Float(rank)
            return value / (usesRootOfRank ? Float(rank).squareRoot() : Float(rank))
        }
    }
}
