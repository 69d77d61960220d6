import Testing

@testable import Tensors

/// Compares an operation's backward pass with central differences of its forward pass, for every element of every input.
///
/// Each input is checked twice: with all inputs live, and as the only live one (the others frozen), which must give the same gradient and none
/// for the frozen ones.
func checkGradients(
    _ inputs: [Tensor], step: Float = 1e-2, tolerance: Float = 5e-3, sourceLocation: SourceLocation = #_sourceLocation,
    _ operation: ([Variable]) -> Variable
) {
    var stream = RandomStream(seed: 99)
    let cotangent = Tensor.normal(shape: operation(inputs.map { Variable($0) }).shape, &stream)
    func loss(_ tensors: [Tensor]) -> Double {
        let result = operation(tensors.map { Variable($0) })
        #expect(!result.requiresGradient && result.isLeaf, "inference keeps no graph", sourceLocation: sourceLocation)
        return zip(result.tensor.array, cotangent.array).reduce(0) { $0 + Double($1.0) * Double($1.1) }
    }
    let live = inputs.map { Variable($0, requiresGradient: true) }
    operation(live).backward(cotangent)
    for i in inputs.indices {
        guard let gradient = live[i].gradient else {
            Issue.record("input \(i) has no gradient", sourceLocation: sourceLocation)
            continue
        }
        let numeric = Tensor(shape: inputs[i].shape) { buffer in
            for element in buffer.indices {
                func moved(_ by: Float) -> Double {
                    var tensors = inputs
                    tensors[i].withUnsafeMutableBufferPointer { $0[element] += by }
                    return loss(tensors)
                }
                buffer[element] = Float((moved(step) - moved(-step)) / Double(2 * step))
            }
        }
        let error = gradient.relativeError(to: numeric)
        #expect(error < tolerance, "gradient of input \(i): \(gradient) against differences \(numeric)", sourceLocation: sourceLocation)

        let alone = inputs.enumerated().map { Variable($1, requiresGradient: $0 == i) }
        operation(alone).backward(cotangent)
        #expect(alone[i].gradient == gradient, "input \(i) alone live", sourceLocation: sourceLocation)
        for j in inputs.indices where j != i {
            #expect(alone[j].gradient == nil, "input \(j) is frozen", sourceLocation: sourceLocation)
        }

        // A second contribution adds to the first.
        let twice = inputs.enumerated().map { Variable($1, requiresGradient: $0 == i) }
        twice[i].gradient = gradient
        operation(twice).backward(cotangent)
        #expect(twice[i].gradient!.relativeError(to: gradient * 2) < 1e-5, "input \(i) accumulates", sourceLocation: sourceLocation)
    }
}

/// Standard normal tensors of the given shapes.
func normals(_ shapes: [Int]..., seed: UInt64 = 1) -> [Tensor] {
    shapes.enumerated().map { index, shape in
        var stream = RandomStream(seed: seed, item: UInt32(index))
        return Tensor.normal(shape: shape, &stream)
    }
}
