public import Backbones
public import Tensors

/// The values of a reward: a frozen trunk and a head. What crosses threads, and what graphs are made from.
public struct RewardWeights: Sendable {
    public let trunk: WanWeights
    public let head: RewardHead
    /// The block that the head reads, from 1.
    public let block: Int

    /// A trunk with weights of its own and a head.
    ///
    /// `trunk` is frozen here whatever it was before, and an adapter on it is refused: a judge never moves with the generator it judges.
    /// - Throws: `RewardError` when the head does not fit the trunk.
    public init(trunk: WanTransformer3DModel, head: RewardHead, block: Int) throws {
        let configuration = trunk.configuration
        guard (1...configuration.numLayers).contains(block) else {
            throw RewardError("block \(block) is asked for, but the backbone has 1 to \(configuration.numLayers)")
        }
        guard configuration.innerDim == head.configuration.featureWidth else {
            throw RewardError(
                "the head reads tokens of width \(head.configuration.featureWidth), but the backbone's are \(configuration.innerDim) wide: "
                    + "it was trained on another backbone")
        }
        guard trunk.loraWeights == nil else { throw RewardError("the trunk has an adapter attached; a judge reads the plain backbone") }
        let frozen = trunk.replica()
        frozen.setRequiresGradient { _ in false }
        self.trunk = frozen.weights
        self.head = head
        self.block = block
    }

    /// A trained head with its trunk.
    /// - Parameters:
    ///   - folder: the head's folder.
    ///   - trunk: a backbone loaded for this judge alone.
    ///   - name: what the trunk is registered as, such as `wan-demo:1`, for the message.
    /// - Throws: `RewardError` when the backbone is not the one that the head was trained on.
    public init(folder: RewardFolder, trunk: WanTransformer3DModel, name: String) throws {
        let wanted = folder.configuration
        try self.init(trunk: trunk, head: folder.head, block: wanted.block)
        let fingerprint = Self.fingerprint(of: trunk, blocks: wanted.block)
        guard fingerprint == wanted.backboneFingerprint else {
            throw RewardError(
                "the head was trained on \(wanted.backbone) (\(wanted.backboneFingerprint)); \(name) is another backbone (\(fingerprint))")
        }
    }

    /// The same trunk with another head.
    public func with(head: RewardHead) throws -> RewardWeights {
        guard head.configuration.featureWidth == self.head.configuration.featureWidth else {
            throw RewardError("the head's width is another")
        }
        return RewardWeights(trunk: trunk, head: head, block: block)
    }

    private init(trunk: WanWeights, head: RewardHead, block: Int) {
        (self.trunk, self.head, self.block) = (trunk, head, block)
    }

    /// A digest over names, shapes and values of the embeddings and the first blocks of a backbone: which trunk it is, whatever it is called.
    public static func fingerprint(of model: WanTransformer3DModel, blocks: Int) -> String {
        // Four FNV-like lanes over 64-bit words: gigabytes a second, and nobody here defends against forged collisions.
        var lanes: [UInt64] = [0xcbf2_9ce4_8422_2325, 0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f, 0x1656_67b1_9e37_79f9]
        func mix(_ word: UInt64, _ lane: Int) {
            lanes[lane] = (lanes[lane] ^ word) &* 0x0000_0100_0000_01b3
            lanes[lane] ^= lanes[lane] >> 29
        }
        for parameter in model.parameters where belongs(parameter.name, blocks: blocks) {
            for byte in parameter.name.utf8 { mix(UInt64(byte), 0) }
            parameter.variable.tensor.withUnsafeBufferPointer { values in
                for (index, value) in values.enumerated() { mix(UInt64(value.bitPattern), index & 3) }
            }
        }
        return lanes.map { lane in
            let digits = String(lane, radix: 16)
            return String(repeating: "0", count: 16 - digits.count) + digits
        }.joined()
    }

    private static func belongs(_ name: String, blocks: Int) -> Bool {
        if name.hasPrefix("blocks.") { return Int(name.dropFirst(7).prefix { $0 != "." }).map { $0 < blocks } ?? false }
        return name.hasPrefix("patch_embedding.") || name.hasPrefix("condition_embedder.")
    }
}

/// A reward on one thread: frozen trunk up to its block, then the head. Gradients reach the latents and nothing else.
public final class RewardModel {
    public let weights: RewardWeights
    private let trunk: WanTransformer3DModel
    private let head: HeadGraph

    /// A graph over the weights; make one a thread.
    public init(_ weights: RewardWeights) {
        self.weights = weights
        trunk = WanTransformer3DModel(weights: weights.trunk)
        head = HeadGraph(weights.head)
    }

    /// Rewards [B], not normalised.
    /// - Parameters:
    ///   - latents: [B,C,F,H,W] as they are at `timestep`; live where they require a gradient.
    ///   - timestep: 1000·sigma of these latents, one a clip.
    ///   - promptEmbeds: [B,L,D].
    ///   - condition: [B,C₂,F,H,W], joined behind the latents; nil where the backbone takes none.
    ///   - imageEmbeds: [B,I,D]; nil where the backbone takes none.
    /// - Throws: `BackboneError` naming the argument that does not fit.
    public func score(
        latents: Variable, timestep: [Float], promptEmbeds: Variable, condition: Variable?, imageEmbeds: Variable?
    ) throws -> Variable {
        let tokens = try features(
            latents: latents, timestep: timestep, promptEmbeds: promptEmbeds, condition: condition, imageEmbeds: imageEmbeds)
        return head(visual: tokens.visual, text: tokens.text)
    }

    /// What the head reads: the residual stream behind its block [B,N,D], and the text tokens [B,L,D].
    public func features(
        latents: Variable, timestep: [Float], promptEmbeds: Variable, condition: Variable?, imageEmbeds: Variable?
    ) throws -> (visual: Variable, text: Variable) {
        let input = condition.map { concatenate([latents, $0], axis: 1) } ?? latents
        let output = try trunk(
            hiddenStates: input, timestep: timestep, encoderHiddenStates: promptEmbeds, encoderHiddenStatesImage: imageEmbeds,
            features: [weights.block], lastBlock: weights.block)
        return (output.features[weights.block]!, output.text)
    }
}
