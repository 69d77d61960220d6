import Backbones
import Diffusion
import Tensors

/// At which levels clips are noised, and with which noise: the same for all clips of a noise group.
struct NoiseDraws: Sendable {
    let seed: UInt64
    let levels: Levels

    enum Levels: Sendable {
        /// `count` draws a group; the k-th is uniform in the k-th of `count` equal slices of 0…1.
        case stratified(count: Int)
        /// These sigmas, for every group.
        case fixed([Float])
    }

    var count: Int {
        switch levels {
        case .stratified(let count): count
        case .fixed(let sigmas): sigmas.count
        }
    }

    func sigma(group: Int, draw: Int) -> Float {
        switch levels {
        case .fixed(let sigmas): return sigmas[draw]
        case .stratified(let count):
            var stream = RandomStream(seed: seed, run: RewardStreams.trainingLevel, step: UInt32(draw), item: UInt32(group))
            return (Float(draw) + stream.uniform()) / Float(count)
        }
    }

    func noised(_ latents: Tensor, group: Int, draw: Int) -> Tensor {
        let run: UInt32
        if case .fixed = levels { run = RewardStreams.evaluationNoise } else { run = RewardStreams.trainingNoise }
        var stream = RandomStream(seed: seed, run: run, step: UInt32(draw), item: UInt32(group))
        return FlowMatchSchedule.noised(
            latents, Tensor.normal(shape: latents.shape, &stream), sigma: sigma(group: group, draw: draw))
    }
}

/// What is read of a data set: a clip of a noise group at one of its draws.
struct FeatureEntry: Sendable {
    let clip: Int
    let group: Int
    let draw: Int
}

/// Runs the frozen trunk over noised clips.
struct FeatureExtractor: Sendable {
    let weights: RewardWeights
    let clips: [RewardClip]
    let draws: NoiseDraws

    /// Clips that one evaluation of the trunk takes; a fixed number, since it is part of the rounding.
    static let batch = 8

    /// Entries of one shape in batches, both in order.
    func batches(_ entries: [FeatureEntry]) -> [[Int]] {
        var order: [[Int]] = []
        var members: [[Int]: [Int]] = [:]
        for (index, entry) in entries.enumerated() {
            let key = clips[entry.clip].shapeKey
            if members[key] == nil { order.append(key) }
            members[key, default: []].append(index)
        }
        return order.flatMap { key in
            let all = members[key]!
            return stride(from: 0, to: all.count, by: Self.batch).map { Array(all[$0..<min($0 + Self.batch, all.count)]) }
        }
    }

    /// Tokens of entries of one shape: visual [B,N,D], text [B,L,D].
    func callAsFunction(_ entries: [FeatureEntry]) throws -> (visual: Tensor, text: Tensor) {
        let model = RewardModel(weights)
        let members = entries.map { clips[$0.clip] }
        let latents = Tensor.stack(zip(entries, members).map { draws.noised($1.latents, group: $0.group, draw: $0.draw) })
        let timestep = entries.map { 1000 * draws.sigma(group: $0.group, draw: $0.draw) }
        let tokens = try model.features(
            latents: Variable(latents), timestep: timestep, promptEmbeds: Variable(Tensor.stack(members.map(\.promptEmbeds))),
            condition: members[0].condition == nil ? nil : Variable(Tensor.stack(members.map { $0.condition! })),
            imageEmbeds: members[0].imageEmbeds == nil ? nil : Variable(Tensor.stack(members.map { $0.imageEmbeds! })))
        return (tokens.visual.tensor, tokens.text.tensor)
    }
}

/// The trunk's tokens for every unit and draw of a training set, normalised, in memory.
///
/// The trunk is frozen, so it runs once over the data and not once a step. Where the features do not fit (`budget`), they are computed
/// when asked for; which of the two it is follows from the data alone.
struct FeatureBank: Sendable {
    /// Bytes that cached features may take.
    static let budget = 3 << 30

    let extractor: FeatureExtractor
    let groups: [NoiseGroups.Unit]
    let normalization: FeatureNormalization
    /// By unit · draws + draw: visual tokens [N,D]; empty when nothing is cached.
    private let visual: [Tensor]
    /// By unit: text tokens [L,D].
    private let text: [Tensor]

    var isCached: Bool { !visual.isEmpty }

    /// - Parameter progress: told the share done; throws to stop.
    init(
        extractor: FeatureExtractor, units: [NoiseGroups.Unit], budget: Int = FeatureBank.budget, progress: (Double) throws -> Void
    ) throws {
        self.extractor = extractor
        groups = units
        let draws = extractor.draws.count
        let entries = units.flatMap { unit in (0..<draws).map { FeatureEntry(clip: unit.clip, group: unit.group, draw: $0) } }
        let batches = extractor.batches(entries)
        let configuration = extractor.weights.trunk.configuration
        let tokens = entries.reduce(0) { total, entry in
            let shape = extractor.clips[entry.clip].latents.shape
            return total + zip(shape.dropFirst(), configuration.patchSize).reduce(1) { $0 * ($1.0 / $1.1) }
        }
        let fits = tokens * configuration.innerDim * 4 <= budget
        // Statistics need a sample only; all of it when it is kept anyway.
        let sampled = fits ? batches : Array(batches.prefix(max(4, batches.count / 64)))

        var visual = [Tensor?](repeating: nil, count: fits ? entries.count : 0)
        var text = [Tensor?](repeating: nil, count: fits ? units.count : 0)
        var visualStatistics = ChannelStatistics(width: configuration.innerDim)
        var textStatistics = visualStatistics
        // In waves, so that progress is told and a cancellation is heard.
        let wave = 16
        for start in stride(from: 0, to: sampled.count, by: wave) {
            let now = Array(sampled[start..<min(start + wave, sampled.count)])
            for (batch, tokens) in zip(now, try parallelMap(now.count) { index in try extractor(now[index].map { entries[$0] }) }) {
                for (row, entry) in batch.enumerated() {
                    let (own, words) = (Self.row(tokens.visual, row), Self.row(tokens.text, row))
                    visualStatistics.add(own)
                    if entry % draws == 0 { textStatistics.add(words) }
                    guard fits else { continue }
                    visual[entry] = own
                    if entry % draws == 0 { text[entry / draws] = words }
                }
            }
            try progress(Double(start + now.count) / Double(sampled.count))
        }
        let normalization = FeatureNormalization(visual: visualStatistics, text: textStatistics)
        self.normalization = normalization
        let (raw, words) = (visual, text)
        self.visual = try parallelMap(raw.count) { Self.normalized(raw[$0]!, normalization.visual) }
        self.text = try parallelMap(words.count) { Self.normalized(words[$0]!, normalization.text) }
    }

    /// Normalised tokens of units at draws, all of one shape.
    func tokens(_ wanted: [(unit: Int, draw: Int)]) throws -> (visual: Tensor, text: Tensor) {
        let draws = extractor.draws.count
        if isCached {
            return (Tensor.stack(wanted.map { visual[$0.unit * draws + $0.draw] }), Tensor.stack(wanted.map { text[$0.unit] }))
        }
        let entries = wanted.map { FeatureEntry(clip: groups[$0.unit].clip, group: groups[$0.unit].group, draw: $0.draw) }
        let tokens = try extractor(entries)
        return (normalization.visual(Variable(tokens.visual)).tensor, normalization.text(Variable(tokens.text)).tensor)
    }

    private static func row(_ tokens: Tensor, _ row: Int) -> Tensor {
        tokens[row..<row + 1].reshaped(Array(tokens.shape.dropFirst()))
    }

    private static func normalized(_ tokens: Tensor, _ apply: (Variable) -> Variable) -> Tensor {
        apply(Variable(tokens.reshaped([1] + tokens.shape))).tensor.reshaped(tokens.shape)
    }
}
