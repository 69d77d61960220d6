import ArgumentParser
import Backbones
import Diffusion
import Foundation

/// `foretaste backbone inspect`
struct BackboneInspectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "inspect", abstract: "What a diffusers folder holds: class, parameters, latent layout, VAE, schedule, files.",
        discussion: """
            Every weight is read and checked, one tensor after the other. The VAE's and the scheduler's configuration are those beside the \
            model: in DIR itself (vae/, scheduler/) or in the pipeline that it lies in. A flow model without a scheduler has shift 3.
            """)
    @Argument(help: "The model folder, or its pipeline's.") var directory: String
    @Flag(help: "JSON, for programs.") var json = false

    func run() throws {
        let folder = try PipelineFolder(directory)
        let schedule = try folder.schedulerConfiguration.map { try SchedulerConfiguration(contentsOf: $0) }
        let report = InspectionReport(model: try BackboneInspection(folder), schedule: schedule)
        guard json else { return print(report.text) }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        print(String(decoding: try encoder.encode(report), as: UTF8.self))
    }
}

/// A model and the noise it was trained on.
struct InspectionReport: Encodable {
    let model: BackboneInspection
    /// Nil when the folder does not say.
    let schedule: SchedulerConfiguration?

    /// A flow model without a scheduler's configuration has shift 3.
    static let flowShift = 3.0

    /// Lines "name   value".
    var text: String {
        var fields = model.fields
        if let schedule {
            fields += schedule.fields.enumerated().map { ($0.offset == 0 ? "schedule" : $0.element.name, $0.element.value) }
        } else if model.predictsFlow {
            fields += [("schedule", "none beside the model"), ("noise", "flow matching"), ("shift", "\(Self.flowShift), the default")]
        } else {
            fields.append(("schedule", "none beside the model: prediction and betas are unknown"))
        }
        let width = fields.map(\.name.count).max() ?? 0
        return fields.map { $0.name + String(repeating: " ", count: width - $0.name.count + 2) + $0.value }.joined(separator: "\n")
    }

    func encode(to encoder: any Encoder) throws {
        try model.encode(to: encoder)
        var container = encoder.container(keyedBy: Key.self)
        try container.encode(ScheduleReport(schedule, flow: model.predictsFlow), forKey: .schedule)
    }

    private enum Key: String, CodingKey { case schedule }
}

/// A schedule with diffusers' names for its numbers.
private struct ScheduleReport: Encodable {
    let schedule: SchedulerConfiguration?
    let flow: Bool

    init(_ schedule: SchedulerConfiguration?, flow: Bool) {
        self.schedule = schedule
        self.flow = flow
    }

    private enum Key: String, CodingKey {
        case className = "class"
        case noise
        case predictionType = "prediction_type"
        case shift
        case usesDynamicShifting = "use_dynamic_shifting"
        case trainingSteps = "num_train_timesteps"
        case betaSchedule = "beta_schedule"
        case betaStart = "beta_start"
        case betaEnd = "beta_end"
        case stepsOffset = "steps_offset"
        case spacing = "timestep_spacing"
        case setAlphaToOne = "set_alpha_to_one"
        case clipRange = "clip_sample_range"
        case rescaleBetasZeroSNR = "rescale_betas_zero_snr"
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encode(schedule?.className, forKey: .className)
        switch schedule?.noise {
        case .flowMatching(let flow)?:
            try encode(&container, shift: flow.shift)
            try container.encode(flow.trainingSteps, forKey: .trainingSteps)
            try container.encode(flow.dynamic != nil, forKey: .usesDynamicShifting)
        case .variancePreserving(let noise)?:
            try container.encode("vp", forKey: .noise)
            try container.encode(noise.prediction.rawValue, forKey: .predictionType)
            try container.encode(noise.trainingSteps, forKey: .trainingSteps)
            try container.encode(noise.betaSchedule.rawValue, forKey: .betaSchedule)
            try container.encode(noise.betaStart, forKey: .betaStart)
            try container.encode(noise.betaEnd, forKey: .betaEnd)
            try container.encode(noise.stepsOffset, forKey: .stepsOffset)
            try container.encode(noise.spacing.rawValue, forKey: .spacing)
            try container.encode(noise.setAlphaToOne, forKey: .setAlphaToOne)
            try container.encode(noise.clipRange, forKey: .clipRange)
            try container.encode(noise.rescaleBetasZeroSNR, forKey: .rescaleBetasZeroSNR)
        case nil where flow: try encode(&container, shift: InspectionReport.flowShift)
        case nil: break
        }
    }

    private func encode(_ container: inout KeyedEncodingContainer<Key>, shift: Double) throws {
        try container.encode("flow", forKey: .noise)
        try container.encode("flow_prediction", forKey: .predictionType)
        try container.encode(shift, forKey: .shift)
    }
}
