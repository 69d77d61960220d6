public enum OptimizerError: Error, Equatable, CustomStringConvertible {
    case badState(String)
    public var description: String {
        switch self {
        case .badState(let why): "the optimizer's state cannot be used: \(why)"
        }
    }
}

/// Reads ("step", n) and ("kind.0", …), ("kind.1", …) back.
struct OptimizerState {
    var steps = 0
    var tensors: [String: [Tensor]] = [:]

    init(_ state: [(String, Tensor)], kinds: [String]) throws {
        var byName: [String: Tensor] = [:]
        for (name, tensor) in state { byName[name] = tensor }
        guard let step = byName.removeValue(forKey: "step"), step.count == 1, step.item >= 0, step.item == step.item.rounded() else {
            throw OptimizerError.badState("\"step\" is missing or no whole number")
        }
        steps = Int(step.item)
        for kind in kinds {
            var list: [Tensor] = []
            while let tensor = byName.removeValue(forKey: "\(kind).\(list.count)") { list.append(tensor) }
            tensors[kind] = list
        }
        if let name = byName.keys.sorted().first { throw OptimizerError.badState("\"\(name)\" is unknown or out of order") }
        let counts = kinds.map { tensors[$0]!.count }
        guard counts.allSatisfy({ $0 == counts[0] }) else { throw OptimizerError.badState("\(kinds) hold \(counts) tensors") }
    }
}

func requireMatch(_ parameters: [Variable], _ gradients: [Tensor], _ name: String) {
    precondition(parameters.count == gradients.count, "\(name): \(gradients.count) gradients for \(parameters.count) parameters")
    for (parameter, gradient) in zip(parameters, gradients) {
        precondition(parameter.shape == gradient.shape, "\(name): a gradient of shape \(gradient.shape) for \(parameter.shape)")
    }
}

func requireState(_ parameters: [Variable], _ state: [Tensor], _ name: String) {
    precondition(state.map(\.shape) == parameters.map(\.shape), "\(name): the parameters are not those of the state")
}

/// Scales all gradients by one factor so that their joint Euclidean norm is at most `maximum`; returns the norm before.
@discardableResult
public func clipGradientNorm(_ gradients: inout [Tensor], maximum: Float) -> Float {
    var total = 0.0
    for gradient in gradients { total += gradient.sumOfSquares }
    let norm = Float(total.squareRoot())
    if norm > maximum {
        let factor = maximum / (norm + 1e-6)
        for i in gradients.indices { gradients[i] *= factor }
    }
    return norm
}
