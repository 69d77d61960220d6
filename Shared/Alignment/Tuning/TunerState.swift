public import Safetensors
public import Backbones
public import Tensors

extension LatentTuner {
    /// Everything that a resumed run needs to equal an uninterrupted one bit for bit: adapter, both optimizers, the base's statistics
    /// and the records. Meant for a safetensors file; the settings and inputs come with the job.
    public var state: (tensors: [(String, Tensor)], metadata: [String: String]) {
        var tensors = model.loraParameters.map { ("adapter.\($0.name)", $0.variable.tensor) }
        tensors += clipOptimizer.state.map { ("clip.\($0.0)", $0.1) }
        tensors += rewardOptimizer.state.map { ("reward.\($0.0)", $0.1) }
        tensors += [("base.mean", base.mean), ("base.deviation", base.deviation), ("base.energy", base.energy)].map {
            ($0.0, Tensor($0.1, shape: [$0.1.count]))
        }
        tensors.append(("records", Tensor(records.flatMap(\.row), shape: [records.count, TuningRecord.columns])))
        return (tensors, ["format": Self.stateFormat, "iteration": "\(iteration)", "seed": "\(configuration.seed)"])
    }

    /// The state as a safetensors file in memory.
    public var stateData: [UInt8] {
        let state = state
        return SafetensorsWriter.data(tensors: state.tensors, metadata: state.metadata)
    }

    /// A tuner that continues where `state` was taken; settings and inputs must be those of that run. The base is not measured again.
    /// - Throws: `TuningError` or `SafetensorsError` naming what is missing or does not fit.
    public convenience init(
        generator: WanWeights, data: TuningData, judge: LatentJudgeMaker?, configuration: TuningConfiguration,
        resuming file: SafetensorsFile
    ) throws {
        guard file.metadata["format"] == Self.stateFormat else { throw TuningError("the checkpoint is no tuner's state") }
        guard file.metadata["seed"] == "\(configuration.seed)" else {
            throw TuningError("the checkpoint has seed \(file.metadata["seed"] ?? "none"), but this run has \(configuration.seed)")
        }
        let columns = try ["mean", "deviation", "energy"].map { try file.tensor("base.\($0)").array }
        guard columns.allSatisfy({ $0.count == configuration.steps }) else {
            throw TuningError("the checkpoint was made with \(columns[0].count) steps, but this run has \(configuration.steps)")
        }
        try self.init(
            generator: generator, data: data, judge: judge, configuration: configuration,
            base: BaseStatistics(mean: columns[0], deviation: columns[1], energy: columns[2]))
        for (name, variable) in model.loraParameters {
            let tensor = try file.tensor("adapter.\(name)")
            guard tensor.shape == variable.tensor.shape else {
                throw TuningError("the checkpoint's adapter.\(name) has shape \(tensor.shape), expected \(variable.tensor.shape)")
            }
            variable.tensor = tensor
        }
        func optimizerState(_ prefix: String) throws -> [(String, Tensor)] {
            try file.names.filter { $0.hasPrefix(prefix) }.map { (String($0.dropFirst(prefix.count)), try file.tensor($0)) }
        }
        try clipOptimizer.restore(optimizerState("clip."))
        try rewardOptimizer.restore(optimizerState("reward."))
        let table = try file.tensor("records")
        guard table.shape.count == 2, table.shape[1] == TuningRecord.columns else {
            throw TuningError("the checkpoint's records have shape \(table.shape)")
        }
        let values = table.array
        records = (0..<table.shape[0]).map { row in
            TuningRecord(row: Array(values[row * TuningRecord.columns..<(row + 1) * TuningRecord.columns]))
        }
    }

    private static var stateFormat: String { "foretaste-tuner-1" }
}

extension TuningRecord {
    static let columns = 8

    var row: [Float] {
        [Float(iteration), Float(step), reward, rewardLoss, clipLoss, energyRatio, rewardGradientNorm, clipGradientNorm]
    }

    init(row: [Float]) {
        self.init(
            iteration: Int(row[0]), step: Int(row[1]), reward: row[2], rewardLoss: row[3], clipLoss: row[4], energyRatio: row[5],
            rewardGradientNorm: row[6], clipGradientNorm: row[7])
    }
}
