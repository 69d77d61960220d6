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
            request.features = [3, 1]
            request.cotangent = "\(fixtures)/t2v/cotangent.safetensors"
            request.gradients = ["blocks.1.attn2.to_v.bias", "patch_embedding.weight"]
            try BackboneRun.forward(request)
            let out = try SafetensorsFile(contentsOf: request.output)
            #expect(
                Set(out.names) == [
                    "sample", "features.1", "features.3", "grad_hidden_states", "grad.blocks.1.attn2.to_v.bias",
                    "grad.patch_embedding.weight",
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
            #expect(message { $0.features = [9] }.contains("block 9"))
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

    @Test func inspectSaysWhatTheFolderHolds() throws {
        let text = try BackboneRun.inspect(directory: "\(fixtures)/i2v")
        #expect(text.contains("image to video") && text.contains("2 of width 24") && text.contains("10 in, 4 out"))
    }
}
