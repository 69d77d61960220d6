import Foundation
import Safetensors

/// Where things are in a folder laid out as on the hub: the model, and beside it what its pipeline says of latents and noise.
public struct PipelineFolder: Sendable {
    /// The folder of the transformer or U-Net: `config.json` and weights.
    public let model: String
    /// The pipeline's folder, with `model_index.json`; nil when the model stands alone.
    public let pipeline: String?
    /// The pipeline's class as its index has it.
    public let pipelineClass: String?
    /// `config.json` of the VAE.
    public let vaeConfiguration: String?
    /// `scheduler_config.json`.
    public let schedulerConfiguration: String?

    /// Finds them from a pipeline's folder, or from the model's own in or out of a pipeline.
    /// - Throws: `BackboneError` when there is no model, or the index is broken.
    public init(_ directory: String) throws {
        let manager = FileManager.default
        let folder = URL(fileURLWithPath: directory).standardizedFileURL.path
        func exists(_ path: String) -> Bool { manager.fileExists(atPath: path) }
        if exists("\(folder)/config.json") {
            model = folder
            let parent = URL(fileURLWithPath: folder).deletingLastPathComponent().path
            pipeline = exists("\(parent)/model_index.json") ? parent : nil
        } else if exists("\(folder)/model_index.json") {
            guard let part = LoRAFile.components.first(where: { exists("\(folder)/\($0)/config.json") }) else {
                throw BackboneError(
                    "\(directory): model_index.json is there, but neither transformer/config.json nor unet/config.json")
            }
            model = "\(folder)/\(part)"
            pipeline = folder
        } else {
            throw BackboneError("\(directory) has no config.json (a model folder), and no model_index.json (a pipeline's)")
        }
        pipelineClass = try pipeline.map { try Self.className("\($0)/model_index.json") } ?? nil
        // A model that left its pipeline may have taken them along.
        let places = [model] + (pipeline.map { [$0] } ?? [])
        vaeConfiguration = places.map { "\($0)/vae/config.json" }.first(where: exists)
        schedulerConfiguration = places.map { "\($0)/scheduler/scheduler_config.json" }.first(where: exists)
    }

    private static func className(_ path: String) throws -> String? {
        try ConfigurationReader.read(path) { json in
            guard let member = try ConfigurationReader.members(json).first(where: { $0.key == "_class_name" }) else { return nil }
            return try ConfigurationReader(key: member.key, value: member.value).string()
        }
    }
}
