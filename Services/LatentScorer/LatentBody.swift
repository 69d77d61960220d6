import Backbones
import Rewards
import Safetensors
import ServiceKit
import Tensors

/// A request's latents with what their file says about them, checked as far as that goes without a model.
struct LatentBody: Sendable {
    /// [N,C,F,H,W].
    var latents: Tensor
    /// [L,D] for all or [N,L,D].
    var promptEmbeds: Tensor
    /// [C₂,F,H,W] for all or [N,C₂,F,H,W].
    var condition: Tensor?
    /// [I,D] for all or [N,I,D].
    var imageEmbeds: Tensor?
    var metadata: [String: String]

    typealias FieldError = ProblemDocument.FieldError

    /// Reads a safetensors file. Blocks.
    init(_ bytes: [UInt8]) throws {
        let file: SafetensorsFile
        do {
            file = try SafetensorsFile(data: bytes)
        } catch let error as SafetensorsError {
            throw Problem.invalid([.init(pointer: "", detail: "is no sound safetensors file: \(error). Was it cut off on its way?")])
        }
        try self.init(file)
    }

    init(_ file: SafetensorsFile) throws {
        var errors: [FieldError] = []
        func read(_ name: String, required: Bool = false) -> Tensor? {
            guard file.entries[name] != nil else {
                if required { errors.append(.init(pointer: "/\(name)", detail: "is missing; the file has \(Self.listed(file.names))")) }
                return nil
            }
            do {
                let tensor = try file.tensor(name)
                if tensor.isFinite && !tensor.shape.contains(0) { return tensor }
                errors.append(
                    .init(
                        pointer: "/\(name)",
                        detail: tensor.shape.contains(0)
                            ? "has the shape \(tensor.shape): there is nothing in it"
                            : "holds a NaN or infinite value. Did the sampler overflow, in half precision say?"))
            } catch {
                errors.append(.init(pointer: "/\(name)", detail: "cannot be read: \(error)"))
            }
            return nil
        }
        let latents = read("latents", required: true)
        let promptEmbeds = read("prompt_embeds", required: true)
        condition = read("condition")
        imageEmbeds = read("image_embeds")
        if let latents, ![4, 5].contains(latents.shape.count) {
            errors.append(.init(pointer: "/latents", detail: "have the shape \(latents.shape), expected [N,C,F,H,W] or [N,C,H,W]"))
        }
        guard errors.isEmpty, let latents, let promptEmbeds else { throw Problem.invalid(errors) }
        self.latents = latents
        self.promptEmbeds = promptEmbeds
        metadata = file.metadata
    }

    /// The backbone that the metadata names.
    var backbone: String {
        get throws {
            guard let name = metadata["backbone"], !name.isEmpty else {
                throw Problem.invalid([
                    .init(
                        pointer: "/__metadata__/backbone", detail: "is missing; expected the generator's registered name, such as wan-demo")
                ])
            }
            return name
        }
    }

    /// The batch for a model, or every reason why it cannot be one.
    /// - Throws: `Problem` 422.
    func batch(for model: RewardModels.Loaded) throws -> RewardWeights.Batch {
        var errors: [FieldError] = []
        let timestep = checkMetadata(model.configuration, &errors)
        checkShapes(model, &errors)
        guard errors.isEmpty, let timestep else { throw Problem.invalid(errors) }
        let count = latents.shape[0]
        func spread(_ tensor: Tensor, rank: Int) -> Tensor {
            tensor.shape.count == rank + 1 ? tensor : Tensor.stack(Array(repeating: tensor, count: count))
        }
        return RewardWeights.Batch(
            latents: latents, timestep: Array(repeating: timestep, count: count), promptEmbeds: spread(promptEmbeds, rank: 2),
            condition: condition.map { spread($0, rank: 4) }, imageEmbeds: imageEmbeds.map { spread($0, rank: 2) })
    }

    /// - Returns: the timestep of the latents as they are.
    private func checkMetadata(_ wanted: RewardConfiguration, _ errors: inout [FieldError]) -> Float? {
        func refuse(_ key: String, _ detail: String) { errors.append(.init(pointer: "/__metadata__/\(key)", detail: detail)) }
        func expect(_ key: String, _ expected: String, _ cause: String) {
            guard let found = metadata[key] else { return refuse(key, "is missing; the reward expects '\(expected)'") }
            if found != expected { refuse(key, "is '\(found.prefix(80))', the reward expects '\(expected)'. \(cause)") }
        }
        if let name = metadata["backbone"] {
            let (own, theirs) = (Self.parts(name), Self.parts(wanted.backbone))
            if own.name != theirs.name || (own.version != nil && own.version != theirs.version) {
                refuse("backbone", "is '\(name.prefix(80))', but the reward was trained on \(wanted.backbone)")
            }
        } else {
            refuse("backbone", "is missing; the reward was trained on \(wanted.backbone)")
        }
        expect("vae", wanted.vae, "Latents of another autoencoder mean something else to it.")
        expect("layout", wanted.layout, "Without the batch axis, which every body has in front.")
        expect("space", wanted.space, "Were the latents stored before they were normalised?")
        expect("noise.kind", wanted.noiseKind, "Another kind of noise has another meaning of sigma.")
        return timestep(refuse)
    }

    private func timestep(_ refuse: (String, String) -> Void) -> Float? {
        func number(_ key: String, _ range: ClosedRange<Float>) -> Float? {
            guard let text = metadata[key] else { return nil }
            guard let value = Float(text), range.contains(value) else {
                refuse(key, "is '\(text.prefix(40))', expected a number from \(Int(range.lowerBound)) to \(Int(range.upperBound))")
                return nil
            }
            return value
        }
        let (sigma, timestep) = (number("noise.sigma", 0...1), number("noise.timestep", 0...1000))
        switch (sigma, timestep) {
        case (nil, nil):
            if metadata["noise.sigma"] == nil && metadata["noise.timestep"] == nil {
                refuse("noise.timestep", "is missing, and so is noise.sigma; expected those of the latents as they are, after the step")
            }
            return nil
        case (let sigma?, nil): return metadata["noise.timestep"] == nil ? 1000 * sigma : nil
        case (nil, let timestep?): return metadata["noise.sigma"] == nil ? timestep : nil
        case (let sigma?, let timestep?):
            // Samplers round timesteps to whole numbers.
            guard abs(timestep - 1000 * sigma) <= 1.001 else {
                refuse(
                    "noise.timestep",
                    "is \(timestep), but noise.sigma \(sigma) means \(1000 * sigma). Is one of them from before the step? Both belong to the latents as they are"
                )
                return nil
            }
            return timestep
        }
    }

    private func checkShapes(_ model: RewardModels.Loaded, _ errors: inout [FieldError]) {
        func refuse(_ name: String, _ detail: String) { errors.append(.init(pointer: "/\(name)", detail: detail)) }
        let (wanted, trunk, shape) = (model.configuration, model.weights.trunk.configuration, latents.shape)
        guard shape.count == 5 else {
            let cause = shape.count == 4 ? " Is the batch axis missing?" : ""
            return refuse(
                "latents", "have the shape \(shape), expected [N,\(wanted.layout.map(String.init).joined(separator: ","))].\(cause)")
        }
        if shape[1] != wanted.latentChannels {
            refuse("latents", "have \(shape[1]) channels, the reward takes \(wanted.latentChannels). Do they belong to another generator?")
        }
        for (axis, name) in ["frames", "rows", "columns"].enumerated() where shape[axis + 2] % trunk.patchSize[axis] != 0 {
            refuse("latents", "have \(shape[axis + 2]) \(name), which the backbone cannot cut into patches of \(trunk.patchSize[axis])")
        }
        func check(_ name: String, _ tensor: Tensor, rank: Int, axes: String) -> [Int]? {
            if tensor.shape.count == rank { return tensor.shape }
            guard tensor.shape.count == rank + 1, tensor.shape[0] == shape[0] else {
                refuse(name, "has the shape \(tensor.shape), expected [\(axes)] for all or [\(shape[0]),\(axes)]")
                return nil
            }
            return Array(tensor.shape.dropFirst())
        }
        if let prompt = check("prompt_embeds", promptEmbeds, rank: 2, axes: "L,\(trunk.textDim)"), prompt[1] != trunk.textDim {
            refuse("prompt_embeds", "are \(prompt[1]) wide, the backbone takes \(trunk.textDim). Do they come from another text encoder?")
        }
        switch (condition, wanted.conditionChannels) {
        case (nil, 0): break
        case (nil, let channels): refuse("condition", "is missing; the backbone takes \(channels) channels of it")
        case (_?, 0): refuse("condition", "is given, but the backbone takes none")
        case (let condition?, let channels):
            let expected = [channels] + shape.dropFirst(2)
            let axes = expected.map(String.init).joined(separator: ",")
            if let found = check("condition", condition, rank: 4, axes: axes), found != expected {
                refuse("condition", "has the shape \(found), expected [\(axes)]")
            }
        }
        switch (imageEmbeds, trunk.imageDim) {
        case (nil, nil): break
        case (nil, let width?): refuse("image_embeds", "is missing; the backbone takes [I,\(width)]")
        case (_?, nil): refuse("image_embeds", "is given, but the backbone takes none")
        case (let image?, let width?):
            if let found = check("image_embeds", image, rank: 2, axes: "I,\(width)"), found[1] != width {
                refuse("image_embeds", "are \(found[1]) wide, the backbone takes \(width)")
            }
        }
    }

    /// `wan-demo:1` in its parts; an alias says nothing about the version.
    private static func parts(_ reference: String) -> (name: Substring, version: Substring?) {
        let name = reference.prefix { $0 != ":" && $0 != "@" }
        let rest = reference.dropFirst(name.count)
        return (name, rest.hasPrefix(":") ? rest.dropFirst() : nil)
    }

    private static func listed(_ names: [String]) -> String {
        names.isEmpty ? "no tensor" : names.prefix(8).map { String($0.prefix(60)) }.joined(separator: ", ")
    }
}
