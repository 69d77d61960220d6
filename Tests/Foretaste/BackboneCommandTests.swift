import Foundation
import Safetensors
import Tensors
import Testing

private let fixtures =
    URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().path(percentEncoded: false)
    + "Backbones/Fixtures"
private let weights = "diffusion_pytorch_model.safetensors"

extension ForetasteProcessTests {
    /// `foretaste backbone` on models of every family.
    @Suite(.serialized) struct BackboneCommands {
        /// A family's fixture, where its pipeline keeps the model, and the VAE and schedule that its published models have.
        struct Family: Sendable, CustomTestStringConvertible {
            let name, part, last, vae, scheduler: String
            let says: [String]
            var testDescription: String { name }
        }

        static let families = [
            Family(
                name: "t2v", part: "transformer", last: "3",
                vae: #"{"_class_name": "AutoencoderKLWan", "z_dim": 16, "base_dim": 96}"#,
                scheduler: #"""
                    {"_class_name": "UniPCMultistepScheduler", "flow_shift": 5.0, "prediction_type": "flow_prediction",
                     "use_flow_sigmas": true, "num_train_timesteps": 1000}
                    """#,
                says: ["WanTransformer3DModel", "CFHW", "AutoencoderKLWan", "pixels / 8, frames / 4", "5.0"]),
            Family(
                name: "sd35", part: "transformer", last: "3",
                vae:
                    #"{"_class_name": "AutoencoderKL", "block_out_channels": [1, 2, 4, 4], "latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}"#,
                scheduler: #"{"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.5}"#,
                says: ["SD3Transformer2DModel", "CHW", "AutoencoderKL", "pixels / 8", "(z - 0.0609) x 1.5305", "3.5"]),
            Family(
                name: "unet-sdxl", part: "unet", last: "mid",
                vae:
                    #"{"_class_name": "AutoencoderKL", "block_out_channels": [1, 2, 4, 4], "latent_channels": 4, "scaling_factor": 0.13025}"#,
                scheduler: #"""
                    {"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
                     "prediction_type": "epsilon", "steps_offset": 1, "timestep_spacing": "leading"}
                    """#,
                says: ["UNet2DConditionModel", "CHW", "z x 0.13025", "scaled_linear 0.00085 to 0.012", "epsilon", "offset 1", "down.0"]),
        ]

        /// A family's model in a pipeline's folder. - Returns: the pipeline's folder.
        private func pipeline(_ family: Family, in folder: String, scheduler: String? = nil) throws -> String {
            let path = folder + "/pipeline"
            func write(_ name: String, _ text: String) throws {
                let file = URL(filePath: path + "/" + name)
                try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
                try Data(text.utf8).write(to: file)
            }
            try write("model_index.json", #"{"_class_name": "SomePipeline"}"#)
            try write("vae/config.json", family.vae)
            try write("scheduler/scheduler_config.json", scheduler ?? family.scheduler)
            try FileManager.default.createDirectory(atPath: "\(path)/\(family.part)", withIntermediateDirectories: true)
            for name in ["config.json", weights] {
                try FileManager.default.copyItem(atPath: "\(fixtures)/\(family.name)/\(name)", toPath: "\(path)/\(family.part)/\(name)")
            }
            return path
        }

        @Test(arguments: families) func forwardEqualsDiffusers(family: Family) async throws {
            try await withTemporaryFolder { folder in
                let path = try pipeline(family, in: folder)
                let expected = try SafetensorsFile(contentsOf: "\(fixtures)/\(family.name)/expected.safetensors")
                for (directory, more) in [(path, []), ("\(path)/\(family.part)", ["--precision", "bfloat16x3", "--threads", "1"])] {
                    let ended = try await Program.run(
                        [
                            "backbone", "forward", directory, "--input", "\(fixtures)/\(family.name)/inputs.safetensors", "--output",
                            folder + "/out", "--features", family.last, "--cotangent",
                            "\(fixtures)/\(family.name)/cotangent.safetensors",
                        ] + more, in: folder)
                    try #require(ended.status == 0, "\(ended.errors)")
                    let out = try SafetensorsFile(contentsOf: folder + "/out")
                    #expect(Set(out.names).isSuperset(of: ["sample", "features.\(family.last)", "grad_encoder_hidden_states"]))
                    for name in out.names {
                        let tolerance: Float = name.hasPrefix("grad") ? 1e-3 : 1e-4
                        #expect(try out.tensor(name).relativeError(to: expected.tensor(name)) < tolerance, "\(name)")
                    }
                }
                let half = try await Program.run(
                    [
                        "backbone", "forward", path, "--input", "\(fixtures)/\(family.name)/inputs.safetensors", "--output",
                        folder + "/half",
                        "--features", family.last, "--features-only",
                    ], in: folder)
                try #require(half.status == 0, "\(half.errors)")
                #expect(try SafetensorsFile(contentsOf: folder + "/half").names == ["features.\(family.last)"])
            }
        }

        @Test(arguments: families) func inspectReadsWhatAPipelineSays(family: Family) async throws {
            try await withTemporaryFolder { folder in
                let path = try pipeline(family, in: folder)
                for directory in [path, "\(path)/\(family.part)"] {
                    let ended = try await Program.run(["backbone", "inspect", directory], in: folder)
                    try #require(ended.status == 0, "\(ended.errors)")
                    for word in family.says + ["SomePipeline", weights] { #expect(ended.output.contains(word), "\(word): \(ended.output)") }
                }
                let ended = try await Program.run(["backbone", "inspect", path, "--json"], in: folder)
                let json = try #require(try JSONSerialization.jsonObject(with: Data(ended.output.utf8)) as? [String: Any])
                #expect(json["class"] as? String == family.says[0] && json["layout"] as? String == family.says[1])
                #expect((json["parameters"] as? Int ?? 0) > 10_000 && (json["shards"] as? [Any])?.count == 1)
                let schedule = try #require(json["schedule"] as? [String: Any])
                if family.part == "unet" {
                    #expect(schedule["noise"] as? String == "vp" && schedule["prediction_type"] as? String == "epsilon")
                    #expect(schedule["steps_offset"] as? Int == 1 && schedule["beta_schedule"] as? String == "scaled_linear")
                } else {
                    #expect(schedule["noise"] as? String == "flow" && schedule["shift"] as? Double == (family.name == "t2v" ? 5 : 3.5))
                }
                try FileManager.default.removeItem(atPath: path + "/scheduler")
                let without = try await Program.run(["backbone", "inspect", path, "--json"], in: folder)
                let bare = try #require(try JSONSerialization.jsonObject(with: Data(without.output.utf8)) as? [String: Any])
                // A flow model without a scheduler has shift 3; of the others nothing can be said.
                #expect((bare["schedule"] as? [String: Any])?["shift"] as? Double == (family.part == "unet" ? nil : 3))
                #expect((bare["schedule"] as? [String: Any])?["class"] is NSNull)
            }
        }

        @Test func aScheduleThatMakesNoSenseIsRefusedByName() async throws {
            let cases = [
                (#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": -3.0}"#, "shift"),
                (#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "no_such_key": 1}"#, "no_such_key"),
                (#"{"shift": 3.0}"#, "_class_name"), ("{", "scheduler_config.json"),
            ]
            for (scheduler, word) in cases {
                try await withTemporaryFolder { folder in
                    let path = try pipeline(Self.families[1], in: folder, scheduler: scheduler)
                    let ended = try await Program.run(["backbone", "inspect", path], in: folder)
                    #expect(ended.status == 1 && ended.errors.contains(word) && ended.output.isEmpty, "\(word): \(ended)")
                }
            }
        }

        @Test func profilePrintsWhereTheTimeGoes() async throws {
            try await withTemporaryFolder { folder in
                for (name, size, more) in [("t2v", "4x6", ["--frames", "3", "--backward"]), ("sd3", "6x4", []), ("unet-sd15", "8x8", [])] {
                    let ended = try await Program.run(
                        ["backbone", "profile", "\(fixtures)/\(name)", "--size", size, "--text-length", "5", "--repetitions", "1"] + more,
                        in: folder)
                    #expect(ended.status == 0 && ended.output.contains("linear") && ended.output.contains("GFLOP/s"), "\(name): \(ended)")
                }
                for wrong in ["4", "0x4", "4x4x4", "axb"] {
                    let ended = try await Program.run(["backbone", "profile", "\(fixtures)/t2v", "--size", wrong], in: folder)
                    #expect((1...127).contains(ended.status) && ended.errors.contains("--size"), "\(ended)")
                }
            }
        }
    }

    /// What a process does with folders and files that are out to hurt it. What is refused stands in the tables of BackbonesTests; here a
    /// few of each kind are held to the limits that only a process has.
    @Suite(.serialized) struct HostileBackbones {
        private struct Ended { let status: Int32, output, errors: String, seconds: Double }

        /// Runs the command line with a gigabyte of address space.
        private func limited(_ arguments: [String], in folder: String) throws -> Ended {
            let process = Process()
            process.executableURL = URL(filePath: "/bin/sh")
            process.arguments = ["-c", "ulimit -v 1048576; exec \"$0\" \"$@\"", Program.programs + "/foretaste"] + arguments
            process.environment = ProcessInfo.processInfo.environment.merging(["OPENBLAS_NUM_THREADS": "1"]) { $1 }
            let (output, errors) = (URL(filePath: folder + "/.stdout"), URL(filePath: folder + "/.stderr"))
            for file in [output, errors] { try Data().write(to: file) }
            process.standardOutput = try FileHandle(forWritingTo: output)
            process.standardError = try FileHandle(forWritingTo: errors)
            let started = ContinuousClock.now
            try process.run()
            process.waitUntilExit()
            // A signal is no exit status.
            return Ended(
                status: process.terminationReason == .exit ? process.terminationStatus : 128 + process.terminationStatus,
                output: try String(contentsOf: output, encoding: .utf8), errors: try String(contentsOf: errors, encoding: .utf8),
                seconds: (ContinuousClock.now - started) / .seconds(1))
        }

        private struct Place { let model, input, output: String }

        /// What is spoilt, how, and what must be said of it.
        private func cases(_ latent: String) -> [(what: String, word: String, spoil: (Place) throws -> Void)] {
            func edit(_ path: String, _ change: (inout Data) -> Void) throws {
                var data = try Data(contentsOf: URL(filePath: path))
                change(&data)
                try data.write(to: URL(filePath: path))
            }
            /// Both have the same length, so that the header's stays right.
            func replace(_ path: String, _ old: String, _ new: String) throws {
                try edit(path) { data in
                    if let range = data.range(of: Data(old.utf8)) { data.replaceSubrange(range, with: Data(new.utf8)) }
                }
            }
            func huge(_ path: String, _ header: String, bytes: Int) throws {
                var data = withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian) { Data($0) }
                data.append(Data(header.utf8))
                try data.write(to: URL(filePath: path))
                guard truncate(path, off_t(data.count + bytes)) == 0 else { throw POSIXError(.EFBIG) }
            }
            return [
                ("trailing bytes", weights, { place in try edit("\(place.model)/\(weights)") { $0.append(contentsOf: [0, 0]) } }),
                ("truncated", weights, { place in try edit("\(place.model)/\(weights)") { $0.removeLast(5) } }),
                (
                    "a header's length", weights,
                    { place in
                        try edit("\(place.model)/\(weights)") { $0.replaceSubrange(0..<8, with: [255, 255, 255, 255, 255, 255, 255, 127]) }
                    }
                ),
                (
                    "a dtype", "F99",
                    { place in
                        try replace("\(place.model)/\(weights)", "\"F32\"", "\"F99\"")
                        try replace("\(place.model)/\(weights)", "\"BF16\"", "\"F99\" ")
                    }
                ),
                (
                    "an absurd configuration", "config.json",
                    { place in
                        let name = try String(contentsOfFile: "\(place.model)/config.json", encoding: .utf8)
                        let key = name.contains("num_layers") ? "num_layers" : "layers_per_block"
                        let changed = name.replacing(try Regex("\"\(key)\": [0-9]+"), with: "\"\(key)\": 1000000000")
                        try Data(changed.utf8).write(to: URL(filePath: "\(place.model)/config.json"))
                    }
                ),
                (
                    "an index that leads out", "weight_map",
                    { place in
                        try Data(#"{"weight_map": {"a": "../inputs.safetensors"}}"#.utf8)
                            .write(to: URL(filePath: "\(place.model)/\(weights).index.json"))
                    }
                ),
                (
                    "an endless configuration", "config.json",
                    { place in
                        try FileManager.default.removeItem(atPath: "\(place.model)/config.json")
                        try FileManager.default.createSymbolicLink(atPath: "\(place.model)/config.json", withDestinationPath: "/dev/zero")
                    }
                ),
                (
                    "an input of eight gigabytes", latent,
                    { place in
                        let axes = latent == "sample" ? "[1,4,16384,32768]" : "[1,20,1,16384,6553]"
                        let bytes = latent == "sample" ? 4 * 4 * 16384 * 32768 : 4 * 20 * 16384 * 6553
                        try huge(
                            place.input, "{\"\(latent)\":{\"dtype\":\"F32\",\"shape\":\(axes),\"data_offsets\":[0,\(bytes)]}}", bytes: bytes
                        )
                    }
                ),
                (
                    "weights of eight gigabytes", "'x'",
                    { place in
                        let bytes = 8 << 30
                        try huge(
                            "\(place.model)/\(weights)",
                            "{\"x\":{\"dtype\":\"F32\",\"shape\":[\(bytes / 4)],\"data_offsets\":[0,\(bytes)]}}", bytes: bytes)
                    }
                ),
                ("no input", "absent", { place in try FileManager.default.moveItem(atPath: place.input, toPath: place.input + ".absent") }),
            ]
        }

        @Test(arguments: [("t2v", "hidden_states"), ("sd35", "hidden_states"), ("unet-sdxl", "sample")])
        func isRefusedWithinTheLimits(name: String, latent: String) async throws {
            for index in cases(latent).indices {
                try await withTemporaryFolder { folder in
                    let place = Place(model: folder + "/model", input: folder + "/inputs.safetensors", output: folder + "/out.safetensors")
                    try FileManager.default.createDirectory(atPath: place.model, withIntermediateDirectories: true)
                    for file in ["config.json", weights] {
                        try FileManager.default.copyItem(atPath: "\(fixtures)/\(name)/\(file)", toPath: "\(place.model)/\(file)")
                    }
                    try FileManager.default.copyItem(atPath: "\(fixtures)/\(name)/inputs.safetensors", toPath: place.input)
                    let arguments = ["backbone", "forward", place.model, "--input", place.input, "--output", place.output]
                    let whole = try limited(arguments, in: folder)
                    #expect(whole.status == 0, "\(name): \(whole)")
                    try FileManager.default.removeItem(atPath: place.output)

                    let (what, word, spoil) = cases(latent)[index]
                    try spoil(place)
                    let ended = try limited(arguments, in: folder)
                    #expect((1...127).contains(ended.status), "\(name), \(what): \(ended)")
                    let said = word == "absent" ? "inputs.safetensors" : word == "'x'" ? "missing" : word
                    #expect(ended.errors.contains(said) && ended.output.isEmpty, "\(name), \(what): \(ended)")
                    #expect(ended.seconds < 10, "\(name), \(what): \(ended.seconds) s")
                    #expect(!FileManager.default.fileExists(atPath: place.output), "\(name), \(what): an output is left")
                }
            }
        }
    }
}
