import Foundation
import Safetensors
import Tensors
import Testing

@testable import Backbones

/// Inputs that do not fit, of every family: each is refused by its name.
@Suite struct HostileInputs {
    /// Every floating-point input of a family, with its shape in the fixture.
    private func floats(_ folder: SpoiltFolder) throws -> [(name: String, shape: [Int])] {
        let file = try SafetensorsFile(contentsOf: "\(fixtures)/\(folder.name)/inputs.safetensors")
        return file.names.filter { $0 != "timestep" && $0 != "encoder_attention_mask" }.map { ($0, file.entries[$0]!.shape) }
    }

    private func expectRefused(_ folder: SpoiltFolder, _ what: String, _ words: [String]) {
        guard let message = folder.refusal() else {
            Issue.record("\(folder.name), \(what): went through")
            return
        }
        for word in words { #expect(message.contains(word), "\(folder.name), \(what): \(message)") }
    }

    @Test func wrongShapesOfEveryInput() throws {
        for name in SpoiltFolder.families + ["i2v", "flf"] {
            try withTemporaryFolder { temporary in
                let folder = try SpoiltFolder(name, in: temporary)
                for (input, shape) in try floats(folder) {
                    var wrong: [(String, [Int])] = [
                        ("a rank too few", Array(shape.dropLast())), ("a rank too many", shape + [1]), ("a number", []),
                        ("no rows", [0] + shape.dropFirst()), ("a column more", shape.dropLast() + [shape.last! + 1]),
                    ]
                    // Channels of a latent, width of tokens; the batch of all but the latent, which sets it.
                    if input == folder.latent {
                        wrong.append(("another number of channels", [shape[0], shape[1] + 1] + shape[2...]))
                        // A U-Net takes any size.
                        if name.hasPrefix("unet") { wrong.removeAll { $0.0 == "a column more" } }
                    } else {
                        wrong.append(("another batch", [shape[0] + 1] + shape.dropFirst()))
                    }
                    for (what, shape) in wrong {
                        try folder.spoilInputs { file in
                            file.remove(input)
                            file.append(input, shape: shape)
                        }
                        expectRefused(folder, "\(input): \(what), \(shape)", [input])
                    }
                }
            }
        }
    }

    @Test func valuesThatAreNoNumbersAndInputsThatAreNotThere() throws {
        for name in SpoiltFolder.families + ["i2v"] {
            try withTemporaryFolder { temporary in
                let folder = try SpoiltFolder(name, in: temporary)
                for (input, _) in try floats(folder) {
                    for (what, bits) in [("NaN", [0, 0, 0xC0, 0x7F]), ("infinity", [0, 0, 0x80, 0x7F])] as [(String, [UInt8])] {
                        try folder.spoilInputs { $0.fill(input, bits) }
                        expectRefused(folder, "\(input): \(what)", [input, "finite"])
                    }
                    try folder.spoilInputs { $0.remove(input) }
                    expectRefused(folder, "\(input): missing", [input])
                    try folder.spoilInputs { $0.set(input, "dtype", "I32") }
                    // Numbers of pixels may well be whole.
                    if input != "time_ids" { expectRefused(folder, "\(input): integers", [input, "I32"]) }
                }
                for (what, shape) in [("none", [0]), ("three for two", [3]), ("one a token", [2, 5]), ("one in two axes", [1, 1])] {
                    try folder.spoilInputs { file in
                        file.remove("timestep")
                        file.append("timestep", shape: shape)
                    }
                    expectRefused(folder, "timestep: \(what)", ["timestep"])
                }
                try folder.spoilInputs { file in
                    file.remove("timestep")
                    file.append("timestep", shape: [2])
                    file.fill("timestep", [0, 0, 0xC0, 0x7F])
                }
                expectRefused(folder, "timestep: NaN", ["timestep", "finite"])
                try folder.spoilInputs { $0.remove("timestep") }
                expectRefused(folder, "timestep: missing", ["timestep"])
            }
        }
    }

    /// One timestep stands for all rows, whatever its type.
    @Test func aTimestepForAllRowsIsNoMistake() throws {
        try forEachFamily { folder in
            for (shape, dtype) in [([], "F32"), ([1], "F32"), ([1], "I64"), ([2], "I64")] as [([Int], String)] {
                try folder.spoilInputs { file in
                    file.remove("timestep")
                    file.append("timestep", shape: shape, dtype: dtype)
                }
                #expect(folder.refusal() == nil, "\(folder.name): \(shape) \(dtype)")
            }
        }
    }

    /// A file may say of itself that it is huge; sparse, it may even be.
    @Test func hugeInputsAreRefusedBeforeTheyAreRead() throws {
        try forEachFamily { folder in
            let shape = try #require(floats(folder).first { $0.name == folder.latent }).shape
            let huge = shape.prefix(2) + [Int](repeating: 1 << 11, count: shape.count - 2)
            try folder.spoilInputs { $0.set(folder.latent, "shape", Array(huge)) }
            expectRefused(folder, "a claim", [folder.latent])
            let bytes = huge.reduce(4, *)
            let header = "{\"\(folder.latent)\":{\"dtype\":\"F32\",\"shape\":\(Array(huge)),\"data_offsets\":[0,\(bytes)]}}"
            var data = withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian) { Data($0) }
            data.append(Data(header.utf8))
            try data.write(to: URL(fileURLWithPath: folder.input))
            // What a picture of this size has is less than the limit, so that another input's absence is what is wrong.
            guard truncate(folder.input, off_t(data.count + bytes)) == 0 else { return }
            expectRefused(folder, "a sparse file", [bytes / 4 > ForwardInputs.valueLimit ? folder.latent : "encoder_hidden_states"])
        }
    }

    @Test func anOutputIsNeverSomethingElse() throws {
        try forEachFamily { folder in
            func contents(_ path: String) -> Data? { FileManager.default.contents(atPath: path) }
            try FileManager.default.createDirectory(atPath: "\(folder.folder)/sub", withIntermediateDirectories: true)
            try FileManager.default.createSymbolicLink(atPath: "\(folder.folder)/link", withDestinationPath: folder.input)
            try FileManager.default.linkItem(atPath: folder.input, toPath: "\(folder.folder)/hard")
            try FileManager.default.copyItem(
                atPath: "\(fixtures)/\(folder.name)/cotangent.safetensors", toPath: "\(folder.folder)/cotangent.safetensors")
            let kept = [
                folder.input, "\(folder.model)/config.json", "\(folder.model)/\(SpoiltFolder.weights)",
                "\(folder.folder)/cotangent.safetensors",
            ]
            let before = kept.map(contents)
            for output in kept + ["\(folder.folder)/sub/../inputs.safetensors", "\(folder.folder)/link", "\(folder.folder)/hard"] {
                var request = BackboneRun.Request(directory: folder.model, input: folder.input, output: output)
                request.cotangent = "\(folder.folder)/cotangent.safetensors"
                let error = #expect(throws: BackboneError.self, "\(output)") { try BackboneRun.forward(request) }
                #expect(error?.description.contains("replace") == true, "\(output)")
            }
            #expect(kept.map(contents) == before, "\(folder.name): what is read stays")
            for output in ["\(folder.folder)/sub", "/dev/null", "\(folder.folder)/no/such/place"] {
                let message = folder.refusalWritten(to: output)
                #expect(message?.contains(output) == true, "\(output): \(message ?? "went through")")
            }
            #expect(FileManager.default.fileExists(atPath: "\(folder.folder)/sub") && FileManager.default.fileExists(atPath: "/dev/null"))
        }
    }

    @Test func cotangentsThatDoNotFit() throws {
        try forEachFamily { folder in
            let feature = folder.name.hasPrefix("unet") ? "mid" : "2"
            let expected = try SafetensorsFile(contentsOf: "\(fixtures)/\(folder.name)/expected.safetensors")
            let (sample, map) = (try expected.tensor("sample"), try expected.tensor("features.\(feature)"))
            var poisoned = sample
            poisoned.withUnsafeMutableBufferPointer { $0[3] = .nan }
            let path = "\(folder.folder)/cotangent"
            let cases: [(String, [(String, Tensor)], Bool, [String])] = [
                ("none", [("other", sample)], false, ["cotangent"]),
                ("shape", [("cotangent", map.reshaped([map.count]))], false, ["cotangent", "shape"]),
                ("NaN", [("cotangent", poisoned)], false, ["cotangent", "finite"]),
                ("unknown feature", [("cotangent.features.9", map)], false, ["cotangent.features.9"]),
                ("feature's shape", [("cotangent.features.\(feature)", sample)], false, ["cotangent.features.\(feature)", "shape"]),
                ("a sample that is not computed", [("cotangent", sample)], true, ["cotangent", "sample"]),
            ]
            for (what, tensors, only, words) in cases {
                try SafetensorsWriter.write(tensors: tensors, to: path)
                let message = folder.refusal {
                    $0.cotangent = path
                    $0.features = [feature]
                    $0.featuresOnly = only
                }
                for word in words { #expect(message?.contains(word) == true, "\(folder.name), \(what): \(message ?? "went through")") }
            }
            #expect(folder.refusal { $0.featuresOnly = true }?.contains("features") == true)
            #expect(folder.refusal { $0.features = ["0"] }?.contains("'0'") == true)
        }
    }
}

extension SpoiltFolder {
    /// What is said when a good run is to write to a bad place.
    func refusalWritten(to output: String) -> String? {
        do {
            try BackboneRun.forward(BackboneRun.Request(directory: model, input: input, output: output))
            return nil
        } catch { return "\(error)" }
    }
}
