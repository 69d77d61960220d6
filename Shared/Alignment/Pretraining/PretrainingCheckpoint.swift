import Backbones
import Safetensors
import Tensors

/// A checkpoint that does not belong to the run that reads it.
public struct PretrainingCheckpointError: Error, CustomStringConvertible, Sendable {
    public let description: String
}

extension Pretraining {
    /// Writes everything that the next step depends on: weights, their average, both optimizers, the step and the recipe.
    public func save(to path: String) throws {
        let parameters = model.parameters
        var tensors = parameters.map { ("model.\($0.name)", $0.variable.tensor) }
        tensors += zip(parameters, average).map { ("average.\($0.name)", $1) }
        tensors += muon.state.map { ("muon.\($0.0)", $0.1) }
        tensors += adamW.state.map { ("adamw.\($0.0)", $0.1) }
        try SafetensorsWriter.write(
            tensors: tensors, metadata: ["step": String(step), "recipe": String(describing: configuration)], to: path)
    }

    /// Goes on from a checkpoint of the same recipe, bit for bit.
    /// - Throws: ``PretrainingCheckpointError`` for another recipe; what the reader throws for a damaged file.
    public func resume(from path: String) throws {
        let file = try SafetensorsFile(contentsOf: path)
        guard let step = file.metadata["step"].flatMap({ Int($0) }), step >= 0 else {
            throw PretrainingCheckpointError(description: "\(path): the step is missing; this is no checkpoint of a pretraining")
        }
        guard file.metadata["recipe"] == String(describing: configuration) else {
            throw PretrainingCheckpointError(
                description: "\(path) belongs to another recipe (\(file.metadata["recipe"] ?? "none")); remove it to start anew")
        }
        let names = model.parameters.map(\.name)
        let weights = try names.map { try file.tensor("model.\($0)") }
        let averages = try names.map { try file.tensor("average.\($0)") }
        try muon.restore(state(file, "muon."))
        try adamW.restore(state(file, "adamw."))
        model.setParameters(weights)
        average = averages
        self.step = step
    }

    private func state(_ file: SafetensorsFile, _ prefix: String) throws -> [(String, Tensor)] {
        try file.names.filter { $0.hasPrefix(prefix) }.map { (String($0.dropFirst(prefix.count)), try file.tensor($0)) }
    }
}
