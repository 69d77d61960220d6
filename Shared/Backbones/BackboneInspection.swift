import Foundation
import Safetensors
import Tensors

/// What a person or a program wants to know of a model folder or a pipeline's: class, parameters, layout of latents, VAE, files.
public struct BackboneInspection: Sendable, Encodable {
    /// One file of weights.
    public struct Shard: Sendable, Encodable {
        public let file: String
        public let tensors: Int
        public let bytes: Int
    }

    /// An input beside the latent and the timestep.
    public struct Condition: Sendable, Encodable {
        public let input: String
        public let width: Int
        public let note: String
    }

    public let className: String
    public let task: String
    /// The folder of the weights.
    public let directory: String
    /// The class of the pipeline that the model lies in.
    public let pipeline: String?
    public let parameters: Int
    public let tensors: Int
    /// Element types in the files, with how many tensors have them.
    public let types: [String: Int]
    public let shards: [Shard]
    /// The file that says which of them has a tensor, where there are several.
    public let index: String?
    /// The latent's axes without the batch: `CFHW` for clips, `CHW` for pictures.
    public let layout: String
    public let inChannels: Int
    public let outChannels: Int
    /// Latent positions along each axis that make one token; nil where each is one.
    public let patchSize: [Int]?
    public let blocks: String
    public let limit: String?
    /// Names for `--features`.
    public let features: [String]
    public let conditions: [Condition]
    public let vae: VAEDescription?
    /// Whether models of this class are trained by flow matching.
    public let predictsFlow: Bool

    enum CodingKeys: String, CodingKey {
        case task, directory, pipeline, parameters, tensors, types, shards, index, layout, blocks, limit, features, conditions, vae
        case className = "class"
        case inChannels = "in_channels"
        case outChannels = "out_channels"
        case patchSize = "patch_size"
        case predictsFlow = "flow"
    }

    /// Describes a folder. Its weights are read and checked in full, one tensor after the other.
    /// - Throws: as loading does.
    public init(_ folder: PipelineFolder) throws {
        self = try Self.inspect(folder, try Checkpoint.model(directory: folder.model))
    }

    private static func inspect<Model: RunnableBackbone>(_ folder: PipelineFolder, _ type: Model.Type) throws -> BackboneInspection {
        // Small and quickly refused; the weights take longer.
        let vae = try folder.vaeConfiguration.map { try VAEDescription(contentsOf: $0) }
        let model: Model = try Checkpoint.check(folder.model)
        return BackboneInspection(folder, model, try Checkpoint(directory: folder.model), vae)
    }

    private init<Model: RunnableBackbone>(_ folder: PipelineFolder, _ model: Model, _ checkpoint: Checkpoint, _ vae: VAEDescription?) {
        let description = model.described()
        className = Model.className
        task = description.task
        directory = folder.model
        pipeline = folder.pipelineClass
        parameters = model.parameterCount
        tensors = model.parameters.count
        types = checkpoint.entries.reduce(into: [:]) { $0[$1.dtype.rawValue, default: 0] += 1 }
        (shards, index) = (checkpoint.shards, checkpoint.index)
        layout = description.layout
        (inChannels, outChannels, patchSize) = (description.inChannels, description.outChannels, description.patch)
        blocks = description.blocks
        limit = description.limit
        features = Model.featureNames(model.configuration)
        conditions = description.conditions.map { Condition(input: $0.input, width: $0.width, note: $0.note) }
        self.vae = vae
        predictsFlow = description.predictsFlow
    }

    /// Names and values for a person, in a fixed order.
    public var fields: [(name: String, value: String)] {
        func mebibytes(_ bytes: Int) -> String { "\((bytes + 1_048_575) / 1_048_576) MiB" }
        var fields = [("class", "\(className), \(task)"), ("folder", directory)]
        if let pipeline { fields.append(("pipeline", pipeline)) }
        fields.append(("parameters", "\(parameters) in \(tensors) tensors (\(mebibytes(parameters * 4)) as Float32)"))
        let stored = types.sorted { $0.key < $1.key }.map { "\($0.value) \($0.key)" }.joined(separator: ", ")
        fields.append(("files", "\(shards.count), \(mebibytes(shards.reduce(0) { $0 + $1.bytes })): \(stored)"))
        for shard in shards { fields.append(("", "\(shard.file): \(shard.tensors) tensors, \(mebibytes(shard.bytes))")) }
        fields.append(("blocks", blocks))
        if let limit { fields.append(("size", limit)) }
        fields.append(("features", features.count > 8 ? "\(features[0]) to \(features.last!)" : features.joined(separator: ", ")))
        let patch = patchSize.map { ", patches of \($0.map(String.init).joined(separator: " x "))" } ?? ""
        fields.append(("layout", "\(layout), \(inChannels) channels in, \(outChannels) out\(patch)"))
        for condition in conditions { fields.append(("input", "\(condition.input): \(condition.note), width \(condition.width)")) }
        guard let vae else { return fields + [("vae", "none beside the model")] }
        fields.append(("vae", vae.className))
        func known(_ value: Int?) -> String { value.map(String.init) ?? "unknown" }
        fields.append(
            ("latent", "\(known(vae.latentChannels)) channels, pixels / \(known(vae.spatialFactor)), frames / \(known(vae.temporalFactor))")
        )
        fields.append(("scaling", vae.scaling))
        if let mean = vae.latentsMean, let deviation = vae.latentsStd {
            fields.append(("mean", mean.map { "\($0)" }.joined(separator: " ")))
            fields.append(("std", deviation.map { "\($0)" }.joined(separator: " ")))
        }
        return fields
    }
}
