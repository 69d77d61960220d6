import Foundation
public import Tensors

/// What a LoRA changes: `W x + (alpha / rank) B A x` on every linear and convolution whose name ends with one of the targets.
public struct LoRAConfiguration: Sendable, Equatable {
    public var rank: Int
    public var alpha: Float
    /// Ends of names at a dot, such as `attn1.to_q`, `to_out.0`, `ffn.net.0.proj`, or whole names.
    public var targets: [String]

    /// Query, key, value and output of both attentions.
    public static let attentionTargets = ["attn1", "attn2"].flatMap { attention in
        ["to_q", "to_k", "to_v", "to_out.0"].map { "\(attention).\($0)" }
    }

    /// Alpha is the rank unless given, as a file without metadata means it.
    public init(rank: Int, alpha: Float? = nil, targets: [String] = attentionTargets) {
        self.rank = rank
        self.alpha = alpha ?? Float(rank)
        self.targets = targets
    }
}

/// The adapter of one layer: A [rank,in], B [out,rank], or for a convolution A [rank,in,k,k], B [out,rank,1,1].
struct LoRALayer {
    let a: Parameter
    let b: Parameter
    let scaling: Float
}

/// An adapter's values, apart from a graph.
public struct LoRAWeights: Sendable {
    /// One adapted layer: its name in the model, A [rank,in] and B [out,rank], or for a convolution A [rank,in,k,k] and B [out,rank,1,1].
    public struct Layer: Sendable {
        public let name: String
        public var a: Tensor
        public var b: Tensor
        /// The factor on `B A x`: alpha / rank.
        public let scaling: Float

        var rank: Int { a.shape[0] }
        var alpha: Float { scaling * Float(rank) }
    }
    public var layers: [Layer]
    /// The part of a diffusers pipeline that is adapted, `transformer` or `unet`: what precedes the keys in a file. Nil when a file does
    /// not say it.
    public let component: String?
    var trainable = true

    /// Layers in the order of the model's.
    public init(layers: [Layer], component: String? = "transformer") {
        self.layers = layers
        self.component = component
    }
}

extension BackboneModel {
    /// Attaches a new adapter that changes nothing yet: A kaiming-uniform, B zero, both requiring gradients; the model's own
    /// parameters are left as they are. A former adapter is replaced.
    /// - Throws: `BackboneError` when a target names no linear, or the rank is out of range.
    public func attachLoRA(_ configuration: LoRAConfiguration, seed: UInt64) throws {
        guard (1...4096).contains(configuration.rank), configuration.alpha.isFinite else {
            throw BackboneError("LoRA rank \(configuration.rank) is outside of 1 to 4096")
        }
        for target in configuration.targets where !tree.layers.contains(where: { $0.name.isOrEnds(with: target) }) {
            throw BackboneError("LoRA target '\(target)' names no linear or convolution of the model")
        }
        let targets = tree.layers.filter { layer in configuration.targets.contains { layer.name.isOrEnds(with: $0) } }
        try attach(
            LoRAWeights(
                layers: targets.enumerated().map { index, layer in
                    var stream = RandomStream(seed: seed, item: UInt32(index))
                    let shapes = layer.adapterShapes(rank: configuration.rank)
                    let a = Initializer.uniform(fanIn: shapes.a.dropFirst().reduce(1, *)).tensor(shape: shapes.a, stream: &stream)
                    return .init(
                        name: layer.name, a: a, b: Tensor(zeros: shapes.b),
                        scaling: configuration.alpha / Float(configuration.rank))
                }, component: Self.component))
    }

    /// Attaches an adapter's values. Its parameters require gradients unless `trainable` is false.
    /// - Throws: `BackboneError` naming the layer that the model lacks or whose shape does not fit.
    public func attachLoRA(_ weights: LoRAWeights, trainable: Bool = true) throws {
        var weights = weights
        weights.trainable = trainable
        try attach(weights)
    }

    func attach(_ weights: LoRAWeights) throws {
        if let component = weights.component, component != Self.component {
            throw BackboneError("LoRA: the adapter's keys start with '\(component).', but \(Self.className) is a '\(Self.component)'")
        }
        var byName: [String: LoRAWeights.Layer] = [:]
        for layer in weights.layers { byName[layer.name] = layer }
        let known = Dictionary(uniqueKeysWithValues: tree.layers.map { ($0.name, $0) })
        for layer in weights.layers {
            guard let target = known[layer.name] else {
                throw BackboneError("LoRA: the model has no linear or convolution '\(layer.name)'")
            }
            let rank = layer.a.shape.first ?? 0
            guard rank > 0, (layer.a.shape, layer.b.shape) == target.adapterShapes(rank: rank) else {
                throw BackboneError(
                    "LoRA '\(layer.name)': lora_A \(layer.a.shape) and lora_B \(layer.b.shape) do not fit the weight "
                        + "\(target.weight.variable.tensor.shape)")
            }
        }
        for target in tree.layers {
            target.adapter = byName[target.name].map { layer in
                LoRALayer(
                    a: Parameter(name: "\(layer.name).lora_A.weight", variable: Variable(layer.a, requiresGradient: weights.trainable)),
                    b: Parameter(name: "\(layer.name).lora_B.weight", variable: Variable(layer.b, requiresGradient: weights.trainable)),
                    scaling: layer.scaling)
            }
        }
    }

    /// Removes the adapter; the model is its base again.
    public func detachLoRA() {
        for layer in tree.layers { layer.adapter = nil }
    }

    /// The adapter's parameters (`blocks.0.attn1.to_q.lora_A.weight`, …) in the model's order; empty without an adapter.
    public var loraParameters: [(name: String, variable: Variable)] {
        tree.layers.compactMap(\.adapter).flatMap { [($0.a.name, $0.a.variable), ($0.b.name, $0.b.variable)] }
    }

    /// The adapter's values as they are now; nil without one.
    public var loraWeights: LoRAWeights? {
        let adapted = tree.layers.filter { $0.adapter != nil }
        guard let first = adapted.first?.adapter else { return nil }
        var weights = LoRAWeights(
            layers: adapted.map { layer in
                let adapter = layer.adapter!
                return .init(name: layer.name, a: adapter.a.variable.tensor, b: adapter.b.variable.tensor, scaling: adapter.scaling)
            }, component: Self.component)
        weights.trainable = first.a.variable.requiresGradient
        return weights
    }
}

extension String {
    /// Whether this is `end`, or ends with it behind a dot.
    func isOrEnds(with end: String) -> Bool { self == end || hasSuffix("." + end) }
}
