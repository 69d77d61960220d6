import Safetensors
import Tensors

extension RewardTrainingState {
    /// The state as a safetensors file: `head.*`, `optimizer.*`, `losses`, and the step in the metadata.
    public func encoded() -> [UInt8] {
        let head = zip(head.configuration.parameters, head.tensors).map { ("head.\($0.name)", $1) }
        let optimizer = optimizer.state.map { ("optimizer.\($0.0)", $0.1) }
        return SafetensorsWriter.data(
            tensors: head + optimizer + [("losses", Tensor(losses, shape: [losses.count]))],
            metadata: ["format": "foretaste-reward-training", "step": "\(step)"])
    }
}

extension RewardTraining {
    /// The state that `RewardTrainingState.encoded()` wrote, for the same data and settings.
    /// - Throws: `RewardError` or `SafetensorsError` when the bytes are no such state, or one of another head.
    public func state(decoding bytes: [UInt8]) throws -> RewardTrainingState {
        let file = try SafetensorsFile(data: bytes)
        guard file.metadata["format"] == "foretaste-reward-training", let step = file.metadata["step"].flatMap({ Int($0) }),
            (0...configuration.steps).contains(step)
        else { throw RewardError("the checkpoint is not one of this training") }
        var state = initialState
        state.head = try RewardHead(configuration: state.head.configuration, normalization: state.head.normalization) { name in
            file.entries["head.\(name)"] == nil ? nil : try file.tensor("head.\(name)")
        }
        let optimizer = try file.names.filter { $0.hasPrefix("optimizer.") }.map { (String($0.dropFirst(10)), try file.tensor($0)) }
        if step > 0 { try state.optimizer.restore(optimizer) }
        state.losses = try file.tensor("losses").array
        state.step = step
        guard state.losses.count == step else { throw RewardError("the checkpoint has \(state.losses.count) losses for \(step) steps") }
        return state
    }
}
