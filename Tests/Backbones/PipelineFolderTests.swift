import Foundation
import Safetensors
import Testing

@testable import Backbones

/// Folders laid out as on the hub.
@Suite struct PipelineFolders {
    /// A pipeline around a fixture's model.
    private func pipeline(
        _ name: String, _ part: String, in folder: String, vae: String?, index: String = "{\"_class_name\": \"APipeline\"}"
    ) throws {
        let manager = FileManager.default
        try manager.createDirectory(atPath: "\(folder)/\(part)", withIntermediateDirectories: true)
        for file in ["config.json", SpoiltFolder.weights] {
            try manager.copyItem(atPath: "\(fixtures)/\(name)/\(file)", toPath: "\(folder)/\(part)/\(file)")
        }
        try Data(index.utf8).write(to: URL(fileURLWithPath: "\(folder)/model_index.json"))
        guard let vae else { return }
        try manager.createDirectory(atPath: "\(folder)/vae", withIntermediateDirectories: true)
        try Data(vae.utf8).write(to: URL(fileURLWithPath: "\(folder)/vae/config.json"))
    }

    /// The VAE configurations of the published models, without what says nothing of latents.
    private static let stable = #"{"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "latent_channels": 4}"#
    private static let sd3 = #"""
        {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "latent_channels": 16, "scaling_factor": 1.5305,
         "shift_factor": 0.0609, "latents_mean": null, "latents_std": null}
        """#
    private static let wan =
        #"{"_class_name": "AutoencoderKLWan", "z_dim": 16, "temperal_downsample": [false, true, true], "base_dim": 96}"#

    @Test func theModelIsFoundFromThePipelineAndFromItself() throws {
        for (name, part, vae) in [("t2v", "transformer", Self.wan), ("sd35", "transformer", Self.sd3), ("unet-sdxl", "unet", Self.stable)] {
            try withTemporaryFolder { folder in
                try pipeline(name, part, in: folder, vae: vae)
                try FileManager.default.createDirectory(atPath: "\(folder)/scheduler", withIntermediateDirectories: true)
                try Data("{}".utf8).write(to: URL(fileURLWithPath: "\(folder)/scheduler/scheduler_config.json"))
                for path in [folder, "\(folder)/", "\(folder)/\(part)", "\(folder)/\(part)/", "\(folder)/\(part)/../\(part)"] {
                    let found = try PipelineFolder(path)
                    #expect(found.model == "\(folder)/\(part)" && found.pipeline == folder && found.pipelineClass == "APipeline")
                    #expect(found.vaeConfiguration == "\(folder)/vae/config.json")
                    #expect(found.schedulerConfiguration == "\(folder)/scheduler/scheduler_config.json")
                }
                let inspection = try BackboneInspection(PipelineFolder(folder))
                #expect(inspection.parameters > 0 && inspection.vae?.spatialFactor == 8)
                #expect(inspection.layout == (name == "t2v" ? "CFHW" : "CHW"))
                let json = try #require(
                    try JSONSerialization.jsonObject(with: JSONEncoder().encode(inspection)) as? [String: Any])
                #expect(json["class"] as? String == inspection.className && json["layout"] as? String == inspection.layout)
                #expect((json["vae"] as? [String: Any])?["latent_channels"] as? Int == inspection.vae?.latentChannels)
                // A forward pass takes the pipeline's folder too.
                try BackboneRun.forward(
                    .init(directory: folder, input: "\(fixtures)/\(name)/inputs.safetensors", output: "\(folder)/out.safetensors"))
            }
        }
    }

    @Test func aModelAloneHasNoPipeline() throws {
        let found = try PipelineFolder("\(fixtures)/t2v")
        #expect(found.pipeline == nil && found.vaeConfiguration == nil && found.schedulerConfiguration == nil)
        #expect(try BackboneInspection(found).fields.contains { $0.name == "vae" && $0.value.contains("none") })
        for path in [fixtures, "\(fixtures)/absent", "\(fixtures)/t2v/config.json"] {
            #expect("\(#expect(throws: BackboneError.self) { try PipelineFolder(path) }!)".contains("config.json"))
        }
    }

    @Test func aPipelineWithoutAModelOrWithABrokenIndexIsRefused() throws {
        try withTemporaryFolder { folder in
            try pipeline("t2v", "transformer", in: folder, vae: nil, index: "{\"_class_name\": 7}")
            #expect("\(#expect(throws: BackboneError.self) { try PipelineFolder(folder) }!)".contains("_class_name"))
            try Data("{".utf8).write(to: URL(fileURLWithPath: "\(folder)/model_index.json"))
            #expect("\(#expect(throws: BackboneError.self) { try PipelineFolder(folder) }!)".contains("model_index.json"))
            try FileManager.default.removeItem(atPath: "\(folder)/transformer")
            #expect("\(#expect(throws: BackboneError.self) { try PipelineFolder(folder) }!)".contains("transformer"))
        }
    }

    @Test func whatAVAESaysOfLatents() throws {
        func read(_ json: String) throws -> VAEDescription { try VAEDescription(json: Array(json.utf8)) }
        let stable = try read(Self.stable)
        #expect(stable.spatialFactor == 8 && stable.temporalFactor == 1 && stable.scaling == "z x 0.18215" && stable.latentChannels == 4)
        let sd3 = try read(Self.sd3)
        #expect(sd3.scaling == "(z - 0.0609) x 1.5305" && sd3.latentChannels == 16)
        let wan = try read(Self.wan)
        #expect(wan.spatialFactor == 8 && wan.temporalFactor == 4 && wan.latentsMean?.count == 16 && wan.latentsStd?[0] == 2.8184)
        let other = try read(#"{"_class_name": "AutoencoderDC", "scaling_factor": 0.41407}"#)
        #expect(other.spatialFactor == nil && other.scaling == "z x 0.41407")
    }

    @Test(arguments: [
        (#"{}"#, "_class_name"), (#"{"_class_name": 3}"#, "_class_name"),
        (#"{"_class_name": "AutoencoderKL", "scaling_factor": 0}"#, "scaling_factor"),
        (#"{"_class_name": "AutoencoderKL", "scaling_factor": -0.18}"#, "scaling_factor"),
        (#"{"_class_name": "AutoencoderKL", "latent_channels": 0}"#, "latent_channels"),
        (#"{"_class_name": "AutoencoderKL", "latents_mean": [0, 0, 0, 0]}"#, "latents_std"),
        (#"{"_class_name": "AutoencoderKL", "latents_mean": [0, 0], "latents_std": [1, 1]}"#, "latents_mean"),
        (#"{"_class_name": "AutoencoderKLWan", "latents_std": [0]}"#, "latents_std"),
        (#"{"_class_name": "AutoencoderKLWan", "z_dim": 48}"#, "48"),
        (#"{"_class_name": "AutoencoderKLWan", "scale_factor_spatial": 0}"#, "scale_factor_spatial"),
    ]) func aVAEThatMakesNoSenseIsRefusedByName(json: String, says: String) {
        let error = #expect(throws: BackboneError.self) { try VAEDescription(json: Array(json.utf8)) }
        #expect(error?.description.contains(says) == true, "\(error?.description ?? "")")
    }
}
