public import Tensors

/// A model's values without a graph: what crosses threads, and what replicas are made from. Tensors are shared, not copied.
public struct WanWeights: Sendable {
    public let configuration: WanConfiguration
    /// In diffusers' names and the model's order.
    public let tensors: [(name: String, tensor: Tensor)]
    /// Names of the parameters that require gradients.
    let trainable: Set<String>
    let adapter: LoRAWeights?
    let rotaryTables: RotaryTableCache

    /// A model over these tensors, with leaves of its own.
    public func model() throws -> WanTransformer3DModel { WanTransformer3DModel(weights: self) }
}

extension WanTransformer3DModel {
    /// The values as they are now, to be sent to other threads.
    public var weights: WanWeights {
        WanWeights(
            configuration: configuration, tensors: parameters.map { ($0.name, $0.variable.tensor) },
            trainable: Set(tree.parameters.filter(\.variable.requiresGradient).map(\.name)), adapter: loraWeights,
            rotaryTables: rotaryTables)
    }

    /// A model over the same tensors with leaves of its own: what an optimiser writes into either is not seen by the other.
    public convenience init(weights: WanWeights) {
        var position = 0
        // The tree of one configuration always asks for the same names in the same order.
        try! self.init(
            configuration: weights.configuration, rotaryTables: weights.rotaryTables, trainable: { weights.trainable.contains($0) },
            source: { _, _, _ in
                defer { position += 1 }
                return weights.tensors[position].tensor
            })
        if let adapter = weights.adapter { try! attach(adapter) }
    }

    /// `WanTransformer3DModel(weights: weights)`: new leaves over the same tensors.
    public func replica() -> WanTransformer3DModel { WanTransformer3DModel(weights: weights) }

    /// A model to be trained from nothing, every layer initialised as torch and diffusers do it: uniform within ±1/sqrt(fan in)
    /// for linears and the patch embedding, normal/sqrt(dim) for modulation tables, ones and zeros for norms.
    /// Each parameter has a stream of its own. All parameters require gradients.
    public convenience init(configuration: WanConfiguration, seed: UInt64) {
        var item: UInt32 = 0
        try! self.init(
            configuration: configuration, rotaryTables: RotaryTableCache(), trainable: { _ in true },
            source: { _, shape, initializer in
                var stream = RandomStream(seed: seed, item: item)
                item += 1
                return initializer.tensor(shape: shape, stream: &stream)
            })
    }
}

extension WanWeights {
    /// The same values without a parameter that requires a gradient: for inference, which then keeps no graph.
    public func frozen() -> WanWeights {
        var adapter = adapter
        adapter?.trainable = false
        return WanWeights(
            configuration: configuration, tensors: tensors, trainable: [], adapter: adapter, rotaryTables: rotaryTables)
    }
}

extension WanWeights {
    /// The adapter multiplied into the weights it changes, `W + (alpha / r) B A`: the same function without the adapter's small
    /// matrix products, for sampling.
    public func merged() -> WanWeights {
        guard let adapter else { return frozen() }
        var updates: [String: LoRAWeights.Layer] = [:]
        for layer in adapter.layers { updates["\(layer.name).weight"] = layer }
        let merged = tensors.map { name, tensor -> (name: String, tensor: Tensor) in
            guard let layer = updates[name] else { return (name, tensor) }
            let product = matmul(Variable(layer.b), Variable(layer.a)).tensor
            return (name, tensor + product * layer.scaling)
        }
        return WanWeights(configuration: configuration, tensors: merged, trainable: [], adapter: nil, rotaryTables: rotaryTables)
    }
}
