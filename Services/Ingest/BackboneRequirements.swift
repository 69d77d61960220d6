import Foundation
import Preferences

/// What a registered generator's `config.json` demands of latents. A key that a configuration lacks demands nothing.
struct BackboneRequirements: Sendable, Equatable {
    let reference: String
    let className: String
    let inChannels: Int?
    let outChannels: Int?
    let textWidth: Int?
    let imageWidth: Int?
    /// Over F, H, W or over H, W; empty when unknown.
    let patch: [Int]
    /// The kinds of noise that its family is trained with; empty when unknown.
    let noiseKinds: [String]
    let layout: String?

    init(_ model: ModelVersion) throws {
        let config = try JSONSerialization.jsonObject(with: Data(model.model.config.utf8)) as? [String: Any] ?? [:]
        func integer(_ keys: String...) -> Int? { keys.lazy.compactMap { (config[$0] as? NSNumber)?.intValue }.first }
        reference = model.reference
        className = config["_class_name"] as? String ?? ""
        inChannels = integer("in_channels")
        outChannels = integer("out_channels")
        textWidth = integer("text_dim", "joint_attention_dim", "cross_attention_dim", "caption_channels")
        imageWidth = integer("image_dim")
        let is3D = className.contains("3D")
        let is2D = className.contains("2D")
        layout = is3D ? "CFHW" : is2D ? "CHW" : nil
        switch config["patch_size"] {
        case let sizes as [Any]: patch = sizes.compactMap { ($0 as? NSNumber)?.intValue }
        case let size as NSNumber: patch = is2D ? [size.intValue, size.intValue] : []
        default: patch = []
        }
        noiseKinds = className.hasPrefix("UNet") ? ["vp_eps", "vp_v"] : className.contains("Transformer") ? ["flow"] : []
    }

    /// The first thing about a file that this generator could not use.
    func check(_ file: LatentFile) throws {
        if !noiseKinds.isEmpty, !noiseKinds.contains(file.noiseKind) {
            throw LatentProblem(
                "metadata noise.kind",
                "is '\(file.noiseKind)', but the backbone \(reference) (\(className)) takes \(noiseKinds.joined(separator: " or "))")
        }
        if let layout, file.layout != layout {
            throw LatentProblem("metadata layout", "is '\(file.layout)', but the backbone \(reference) (\(className)) takes \(layout)")
        }
        if let outChannels, file.latents[0] != outChannels {
            throw LatentProblem(
                "latents",
                "have \(file.latents[0]) channels, but the backbone \(reference) makes \(outChannels). Do they belong to another generator?"
            )
        }
        if let inChannels {
            let conditionChannels = file.condition?[0] ?? 0
            guard file.latents[0] + conditionChannels == inChannels else {
                if file.condition == nil {
                    throw LatentProblem(
                        file.latents[0] < inChannels ? "condition" : "latents",
                        file.latents[0] < inChannels
                            ? "is missing: latents have \(file.latents[0]) channels, the backbone \(reference) takes \(inChannels)"
                            : "have \(file.latents[0]) channels, but the backbone \(reference) takes \(inChannels)")
                }
                throw LatentProblem(
                    "condition",
                    "has \(conditionChannels) channels; with the latents' \(file.latents[0]) they must make the \(inChannels) of the backbone \(reference)"
                )
            }
        }
        if let textWidth, file.promptEmbeds[1] != textWidth {
            throw LatentProblem(
                "prompt_embeds",
                "are \(file.promptEmbeds[1]) wide, but the backbone \(reference) takes \(textWidth). Do they come from another text encoder?"
            )
        }
        if let imageWidth {
            guard let imageEmbeds = file.imageEmbeds else {
                throw LatentProblem("image_embeds", "is missing; the backbone \(reference) takes [L,\(imageWidth)]")
            }
            guard imageEmbeds[1] == imageWidth else {
                throw LatentProblem("image_embeds", "are \(imageEmbeds[1]) wide, but the backbone \(reference) takes \(imageWidth)")
            }
        }
        let extents = file.latents.dropFirst()
        if patch.count == extents.count {
            for (extent, size) in zip(extents, patch) where size > 0 && extent % size != 0 {
                throw LatentProblem(
                    "latents", "have the shape \(file.latents), which the backbone \(reference) cannot cut into patches of \(patch)")
            }
        }
    }
}
