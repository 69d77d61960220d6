import Safetensors

/// What of PEFT's `LoraConfig` changes the numbers.
struct LoRASettings {
    private var alpha: Float?
    private var patterns: [(pattern: String, alpha: Float)] = []
    private var usesRootOfRank = false

    /// Out of the metadata of diffusers' file: one JSON object whose keys start with the pipeline's part. None at all means alpha is the rank.
    init(metadata json: String?, component: String?) throws {
        guard let json else { return }
        guard case .object(let members) = try StrictJSON.parse(Array(json.utf8)) else {
            throw BackboneError("LoRA: \(LoRAFile.metadataKey) is not a JSON object")
        }
        let prefix = component.map { $0 + "." } ?? ""
        for member in members where member.key.hasPrefix(prefix) {
            try set(String(member.key.dropFirst(prefix.count)), member, "\(LoRAFile.metadataKey) ")
        }
    }

    /// Out of PEFT's `adapter_config.json`.
    init(peft json: [UInt8]) throws {
        for member in try ConfigurationReader.members(json) { try set(member.key, member, "") }
    }

    private mutating func set(_ key: String, _ member: StrictJSON.Member, _ place: String) throws {
        func number(_ member: StrictJSON.Member) throws -> Float {
            switch member.value {
            case .integer(let value): return Float(value)
            case .number(let value) where Float(value).isFinite: return Float(value)
            default: throw BackboneError("LoRA: \(place)'\(member.key)' is \(member.value.kind), not a number")
            }
        }
        switch key {
        case "lora_alpha": alpha = try number(member)
        case "alpha_pattern":
            guard case .object(let items) = member.value else { break }
            patterns = try items.map { item in
                guard !item.key.contains(where: { "*+?()[]{}|\\$".contains($0) }) else {
                    throw BackboneError("LoRA: alpha_pattern '\(item.key)' is a regular expression; only names are supported")
                }
                return (item.key, try number(item))
            }
        case "use_rslora": usesRootOfRank = member.value == .bool(true)
        case "use_dora", "lora_bias", "fan_in_fan_out", "use_qalora":
            if member.value == .bool(true) { throw BackboneError("LoRA: \(key) is not supported") }
        case "peft_type":
            guard member.value == .string("LORA") else { throw BackboneError("LoRA: peft_type is not LORA") }
        default: break
        }
    }

    /// The factor on `B A x`. An alpha of the layer's own comes first, then PEFT's pattern and configuration, then the rank.
    func scaling(of name: String, rank: Int, alpha own: Float?) throws -> Float {
        let pattern = patterns.first { $0.pattern.hasPrefix("^") ? name == $0.pattern.dropFirst() : name.isOrEnds(with: $0.pattern) }
        let value = own ?? pattern?.alpha ?? alpha ?? Float(rank)
        return value / (usesRootOfRank ? Float(rank).squareRoot() : Float(rank))
    }
}
