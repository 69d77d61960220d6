import Diffusion
import Foundation
import Testing

#if canImport(Glibc)
    import Glibc
#endif

/// The folders of the hub as they are published, and what is refused in them.
struct SchedulerConfigurationTests {
    static let stableDiffusion15 = #"""
        {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
         "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
         "trained_betas": null, "clip_sample": false}
        """#
    static let stableDiffusion21 = #"""
        {"_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
         "beta_start": 0.00085, "clip_sample": false, "num_train_timesteps": 1000, "prediction_type": "v_prediction",
         "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null}
        """#
    static let stableDiffusionXL = #"""
        {"_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0", "beta_end": 0.012,
         "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": false, "interpolation_type": "linear",
         "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": false,
         "skip_prk_steps": true, "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": null, "use_karras_sigmas": false}
        """#
    static let stableDiffusion35 = #"""
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.31.0.dev0", "base_image_seq_len": 256,
         "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15, "num_train_timesteps": 1000, "shift": 3.0,
         "use_dynamic_shifting": false}
        """#
    static let wan = #"""
        {"_class_name": "UniPCMultistepScheduler", "_diffusers_version": "0.33.0.dev0", "beta_end": 0.02, "beta_schedule": "linear",
         "beta_start": 0.0001, "disable_corrector": [], "dynamic_thresholding_ratio": 0.995, "final_sigmas_type": "zero",
         "flow_shift": 5.0, "lower_order_final": true, "num_train_timesteps": 1000, "predict_x0": true,
         "prediction_type": "flow_prediction", "rescale_betas_zero_snr": false, "sample_max_value": 1.0, "solver_order": 2,
         "solver_p": null, "solver_type": "bh2", "steps_offset": 0, "thresholding": false, "timestep_spacing": "linspace",
         "trained_betas": null, "use_beta_sigmas": false, "use_exponential_sigmas": false, "use_flow_sigmas": true,
         "use_karras_sigmas": false}
        """#

    static func read(_ text: String) throws -> SchedulerConfiguration { try SchedulerConfiguration(json: Array(text.utf8)) }

    @Test(arguments: [stableDiffusion15, stableDiffusionXL])
    func `Stable Diffusion's folders are read as the noise of LPO's rollouts`(text: String) throws {
        let configuration = try Self.read(text)
        #expect(configuration.noise == .variancePreserving(.stableDiffusion))
        #expect(configuration.summaryLines.contains("betas: scaled_linear 0.00085 to 0.012"))
        #expect(configuration.summaryLines.contains("spacing: leading, offset 1"))
        #expect(configuration.summaryLines.first == "scheduler: \(configuration.className), read as DDIM")
    }

    @Test func `Version 2.1's folder predicts v`() throws {
        var expected = DDIMConfiguration.stableDiffusion
        expected.prediction = .velocity
        let configuration = try Self.read(Self.stableDiffusion21)
        #expect(configuration.noise == .variancePreserving(expected))
        #expect(configuration.summaryLines.first == "scheduler: DDIMScheduler")
    }

    @Test func `Flow matching folders give their shift, Wan's its flow_shift`() throws {
        var expected = FlowMatchConfiguration()
        expected.shift = 3
        #expect(try Self.read(Self.stableDiffusion35).noise == .flowMatching(expected))
        expected.shift = 5
        let configuration = try Self.read(Self.wan)
        #expect(configuration.noise == .flowMatching(expected))
        #expect(configuration.summaryLines.contains("shift: 5.0"))
    }

    @Test func `What is missing has DDIM's defaults, not those of the class that the folder names`() throws {
        let configuration = try Self.read(#"{"_class_name": "PNDMScheduler"}"#)
        #expect(configuration.noise == .variancePreserving(DDIMConfiguration()))
        #expect(configuration.summaryLines.contains("clip: the clean estimate to ±1.0"))
        #expect(configuration.summaryLines.contains("last step goes to: clean data"))
    }

    /// A member put in front of a folder's text, and the word that the message must have beside the key.
    static let refusals: [(base: String, member: String, says: String)] = [
        (stableDiffusion15, #""sharpness": 2"#, "'sharpness'"),
        (stableDiffusion15, #""thresholding": true"#, "thresholding is true"),
        (stableDiffusion15, #""prediction_type": "score""#, "prediction_type is 'score'"),
        (stableDiffusion15, #""timestep_spacing": "sideways""#, "timestep_spacing is 'sideways'"),
        (stableDiffusion15, #""timestep_spacing": 3"#, "timestep_spacing must be a text"),
        (stableDiffusion15, #""clip_sample_range": -1"#, "clip_sample_range is -1.0"),
        (stableDiffusion15, #""rescale_betas_zero_snr": true"#, "rescale_betas_zero_snr"),
        (stableDiffusion15, #""steps_offset": 1"#, "duplicate key 'steps_offset'"),
        (stableDiffusionXL, #""timestep_type": "continuous""#, "timestep_type is 'continuous'"),
        (stableDiffusionXL, #""sigma_max": 700.0"#, "sigma_max"),
        (stableDiffusion35, #""invert_sigmas": true"#, "invert_sigmas is true"),
        (stableDiffusion35, #""use_karras_sigmas": true"#, "use_karras_sigmas is true"),
        (stableDiffusion35, #""use_exponential_sigmas": true"#, "use_exponential_sigmas is true"),
        (stableDiffusion35, #""use_beta_sigmas": true"#, "use_beta_sigmas is true"),
        (stableDiffusion35, #""use_beta_sigmas": 1"#, "use_beta_sigmas must be true or false"),
        (stableDiffusion35, #""stochastic_sampling": true"#, "stochastic_sampling is true"),
        (stableDiffusion35, #""shift_terminal": 0.1"#, "shift_terminal"),
        (stableDiffusion35, #""time_shift_type": "sideways""#, "time_shift_type is 'sideways'"),
        (stableDiffusion35, #""beta_start": 0.1"#, "'beta_start'"),
        (wan, #""use_dynamic_shifting": true"#, "use_dynamic_shifting is true"),
        (wan, #""shift": 3.0"#, "'shift'"),
        ("{}", #""_class_name": "LCMScheduler""#, "'LCMScheduler'"),
        ("{}", #""_class_name": 3"#, "_class_name"),
        ("{}", #""_class_name": "DDIMScheduler", "num_train_timesteps": 0"#, "num_train_timesteps is 0"),
        ("{}", #""_class_name": "DDIMScheduler", "num_train_timesteps": 1e3"#, "num_train_timesteps must be a whole number"),
        ("{}", #""_class_name": "DDIMScheduler", "beta_start": 0.5"#, "beta_start 0.5 is above beta_end"),
        ("{}", #""_class_name": "DDIMScheduler", "beta_end": 7"#, "beta_end is 7.0"),
        ("{}", #""_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2]"#, "trained_betas is an array"),
        ("{}", #""_class_name": "DDIMScheduler", "num_train_timesteps": 5, "steps_offset": 5"#, "steps_offset 5"),
        ("{}", #""_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0"#, "shift is 0.0"),
        ("{}", #""_class_name": "FlowMatchEulerDiscreteScheduler", "shift": "3""#, "shift must be a number"),
        ("{}", #""_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": true"#, "prediction_type must be 'flow_prediction'"),
    ]

    @Test(arguments: refusals) func `What would change numbers is refused by name`(base: String, member: String, says: String) {
        let separator = base == "{}" ? "" : ", "
        let text = "{" + member + separator + base.dropFirst()
        do {
            _ = try Self.read(text)
            Issue.record("accepted: \(text)")
        } catch { #expect("\(error)".contains(says), "\(error)") }
    }

    @Test func `A file is read from its path, and a pipe, a folder or a large file is refused at once`() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("foretaste-scheduler-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let path = folder + "/scheduler_config.json"
        try Data(Self.wan.utf8).write(to: URL(filePath: path))
        try FileManager.default.createSymbolicLink(atPath: folder + "/link", withDestinationPath: path)
        #expect(try SchedulerConfiguration(contentsOf: path) == SchedulerConfiguration(contentsOf: folder + "/link"))

        try Data(repeating: 32, count: 2 << 20).write(to: URL(filePath: folder + "/large"))
        #expect(mkfifo(folder + "/pipe", 0o600) == 0)
        for name in ["missing", "large", "pipe", ""] {
            #expect(throws: DiffusionError.self) { try SchedulerConfiguration(contentsOf: "\(folder)/\(name)") }
        }
    }
}
