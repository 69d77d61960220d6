import Backbones
import Foundation
import Safetensors
import Tensors
import Testing

@Suite struct RunningFromFileToFile {
    private func request(_ name: String, _ folder: String) -> BackboneRun.Request {
        BackboneRun.Request(
            directory: "\(fixtures)/\(name)", input: "\(fixtures)/\(name)/inputs.safetensors", output: "\(folder)/out.safetensors")
    }

    @Test func writesTheSampleAlone() throws {
        try withTemporaryFolder { folder in
            try BackboneRun.forward(request("i2v", folder))
            let out = try SafetensorsFile(contentsOf: "\(folder)/out.safetensors")
            #expect(out.names == ["sample"])
            try expectParity(
                [("sample", out.tensor("sample"))], SafetensorsFile(contentsOf: "\(fixtures)/i2v/expected.safetensors"), tolerance: 1e-4,
                "run i2v")
        }
    }

    @Test func writesFeaturesAndTheGradientsAskedForAndNoOthers() throws {
        try withTemporaryFolder { folder in
            var request = request("t2v", folder)
            request.features = ["3", "1"]
            request.cotangent = "\(fixtures)/t2v/cotangent.safetensors"
            request.gradients = ["blocks.1.attn2.to_v.bias", "patch_embedding.weight"]
            try BackboneRun.forward(request)
            let out = try SafetensorsFile(contentsOf: request.output)
            #expect(
                Set(out.names) == [
                    "sample", "features.1", "features.3", "grad_hidden_states", "grad_encoder_hidden_states",
                    "grad.blocks.1.attn2.to_v.bias", "grad.patch_embedding.weight",
                ])
            let expected = try SafetensorsFile(contentsOf: "\(fixtures)/t2v/expected.safetensors")
            try expectParity(out.names.map { ($0, try out.tensor($0)) }, expected, tolerance: 1e-3, "run t2v")
            #expect(try FileManager.default.contentsOfDirectory(atPath: folder) == ["out.safetensors"])
        }
    }

    @Test func runsWithAnAdapterAndItsGradients() throws {
        try withTemporaryFolder { folder in
            var request = request("t2v", folder)
            request.lora = "\(fixtures)/t2v/lora/pytorch_lora_weights.safetensors"
            request.cotangent = "\(fixtures)/t2v/cotangent.safetensors"
            request.gradients = ["transformer.blocks.0.attn1.to_q.lora_B.weight"]
            try BackboneRun.forward(request)
            let out = try SafetensorsFile(contentsOf: request.output)
            let expected = try SafetensorsFile(contentsOf: "\(fixtures)/t2v/lora/expected.safetensors")
            try expectParity(out.names.map { ($0, try out.tensor($0)) }, expected, tolerance: 1e-3, "run lora")
        }
    }

    /// Each family's fixture with all its features and a cotangent, as the Swift tests of the models have it, but through files.
    @Test(arguments: ["t2v", "i2v", "flf", "sd3", "sd35", "unet-sd15", "unet-sd21", "unet-sdxl", "unet-rare"])
    func equalsDiffusersForEveryFamily(name: String) throws {
        try withTemporaryFolder { folder in
            let expected = try SafetensorsFile(contentsOf: "\(fixtures)/\(name)/expected.safetensors")
            var request = request(name, folder)
            request.features = expected.names.filter { $0.hasPrefix("features.") }.map { String($0.dropFirst(9)) }
            request.cotangent = "\(fixtures)/\(name)/cotangent.safetensors"
            request.gradients = Array(
                expected.names.filter { $0.hasPrefix("grad.") && $0.hasSuffix("bias") }.map { String($0.dropFirst(5)) }.prefix(3))
            try BackboneRun.forward(request)
            let out = try SafetensorsFile(contentsOf: request.output)
            #expect(out.names.count == 1 + request.features.count + out.names.filter { $0.hasPrefix("grad_") }.count + 3)
            #expect(out.names.filter { $0.hasPrefix("grad_") }.sorted() == expected.names.filter { $0.hasPrefix("grad_") }.sorted())
            let values = try out.names.map { ($0, try out.tensor($0)) }
            try expectParity(values.filter { !$0.0.hasPrefix("grad") }, expected, tolerance: 1e-4, "run \(name)")
            try expectParity(values.filter { $0.0.hasPrefix("grad") }, expected, tolerance: 1e-3, "run \(name) gradients")
        }
    }

    /// Without what lies behind the features; of a U-Net the up half may then be missing from the folder.
    @Test(arguments: [("t2v", "2", "1,2,3"), ("sd35", "1", "1,2,3"), ("unet-sdxl", "mid", "down.1,mid"), ("unet-sd15", "down.0", "down.0")])
    func stopsAfterTheFeatures(name: String, last: String, all: String) throws {
        try withTemporaryFolder { folder in
            let file = try SafetensorsFile(contentsOf: "\(fixtures)/\(name)/expected.safetensors")
            var kept = "\(fixtures)/\(name)"
            if name.hasPrefix("unet") {
                // Only the half's weights are there; whole passes take the fixture itself.
                kept = "\(folder)/half"
                let weights = try SafetensorsFile(contentsOf: "\(fixtures)/\(name)/diffusion_pytorch_model.safetensors")
                let names = weights.names.filter {
                    !$0.hasPrefix("up_blocks.") && !$0.hasPrefix("conv_norm_out.") && !$0.hasPrefix("conv_out.")
                }
                try FileManager.default.createDirectory(atPath: kept, withIntermediateDirectories: true)
                try FileManager.default.copyItem(atPath: "\(fixtures)/\(name)/config.json", toPath: "\(kept)/config.json")
                try SafetensorsWriter.write(
                    tensors: names.map { ($0, try weights.tensor($0)) }, to: "\(kept)/diffusion_pytorch_model.safetensors")
            }
            func gradients(_ change: (inout BackboneRun.Request) -> Void) throws -> SafetensorsFile {
                var request = BackboneRun.Request(
                    directory: kept, input: "\(fixtures)/\(name)/inputs.safetensors", output: "\(folder)/\(UUID().uuidString).safetensors")
                request.features = [last]
                change(&request)
                try BackboneRun.forward(request)
                return try SafetensorsFile(contentsOf: request.output)
            }
            let alone = try gradients { $0.featuresOnly = true }
            #expect(alone.names == ["features.\(last)"])
            try expectParity([(alone.names[0], alone.tensor(alone.names[0]))], file, tolerance: 1e-4, "half \(name)")
            var stream = RandomStream(seed: 3)
            let feature = try alone.tensor(alone.names[0])
            try SafetensorsWriter.write(
                tensors: [("cotangent.features.\(last)", Tensor.normal(shape: feature.shape, &stream))], to: "\(folder)/cotangent")
            let half = try gradients {
                $0.featuresOnly = true
                $0.cotangent = "\(folder)/cotangent"
            }
            let whole = try gradients {
                $0.directory = "\(fixtures)/\(name)"
                $0.features = all.split(separator: ",").map(String.init)
                $0.cotangent = "\(folder)/cotangent"
            }
            #expect(half.names.contains { $0.hasPrefix("grad_") } && whole.names.contains("sample"))
            for gradient in half.names where gradient.hasPrefix("grad_") {
                #expect(relativeDifference(try half.tensor(gradient), try whole.tensor(gradient)) < 1e-5, "\(name) \(gradient)")
            }
        }
    }

    /// An adapter of the whole model fits its half: what it changes of the other is left out.
    @Test func aHalfTakesTheWholesAdapter() throws {
        try withTemporaryFolder { folder in
            var request = request("unet-sd15", folder)
            request.lora = "\(fixtures)/unet-sd15/lora"
            request.features = ["down.1", "mid"]
            try BackboneRun.forward(request)
            let whole = try SafetensorsFile(contentsOf: request.output)
            request.featuresOnly = true
            try BackboneRun.forward(request)
            let half = try SafetensorsFile(contentsOf: request.output)
            #expect(half.names == ["features.down.1", "features.mid"])
            for name in half.names { #expect(relativeDifference(try half.tensor(name), try whole.tensor(name)) < 1e-6, "\(name)") }
            request.lora = nil
            try BackboneRun.forward(request)
            let bare = try SafetensorsFile(contentsOf: request.output).tensor("features.mid")
            #expect(relativeDifference(bare, try half.tensor("features.mid")) > 0.01)
        }
    }

    @Test func cotangentsOfSampleAndFeaturesAddUp() throws {
        try withTemporaryFolder { folder in
            let sample = try SafetensorsFile(contentsOf: "\(fixtures)/sd3/cotangent.safetensors").tensor("cotangent")
            let feature = try SafetensorsFile(contentsOf: "\(fixtures)/sd3/expected.safetensors").tensor("features.2")
            func gradient(_ tensors: [(String, Tensor)]) throws -> Tensor {
                try SafetensorsWriter.write(tensors: tensors, to: "\(folder)/cotangent")
                var request = request("sd3", folder)
                request.features = ["2"]
                request.cotangent = "\(folder)/cotangent"
                try BackboneRun.forward(request)
                return try SafetensorsFile(contentsOf: request.output).tensor("grad_hidden_states")
            }
            let both = try gradient([("cotangent", sample), ("cotangent.features.2", feature)])
            let sum = try gradient([("cotangent", sample)]) + gradient([("cotangent.features.2", feature)])
            #expect(relativeDifference(both, sum) < 1e-5)
        }
    }

    @Test func anErrorLeavesNoOutput() throws {
        try withTemporaryFolder { folder in
            func message(_ change: (inout BackboneRun.Request) -> Void) -> String {
                var request = request("t2v", folder)
                change(&request)
                _ = FileManager.default.createFile(atPath: request.output, contents: Data("old".utf8))
                do {
                    try BackboneRun.forward(request)
                    return "accepted"
                } catch {
                    #expect(!FileManager.default.fileExists(atPath: request.output))
                    return "\(error)"
                }
            }
            #expect(message { $0.features = ["9"] }.contains("'9'"))
            #expect(message { $0.gradients = ["proj_out.bias"] }.contains("cotangent"))
            #expect(message { $0.input = "\(fixtures)/t2v/expected.safetensors" }.contains("hidden_states"))
            #expect(message { $0.input = "\(fixtures)/i2v/inputs.safetensors" }.contains("in_channels"))
            #expect(message { $0.input = "\(folder)/absent" }.contains("absent"))
            #expect(message { $0.directory = folder }.contains("config.json"))
            #expect(message { $0.lora = "\(fixtures)/t2v/inputs.safetensors" }.contains("LoRA"))
            #expect(
                message {
                    $0.cotangent = "\(fixtures)/i2v/cotangent.safetensors"
                }.contains("cotangent has shape"))
            #expect(
                message {
                    $0.cotangent = "\(fixtures)/t2v/cotangent.safetensors"
                    $0.gradients = ["blocks.0.nothing"]
                }.contains("'blocks.0.nothing'"))
        }
    }
}
