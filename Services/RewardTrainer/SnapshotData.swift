import Backbones
import Foundation
import JobQueue
import Preferences
import Rewards
import Safetensors
import Tensors

/// A frozen snapshot's latents, fetched and read: what a head is trained and measured on.
struct SnapshotData: Sendable {
    /// Pairs to train on.
    let train: RewardDataset
    /// Pairs of prompts that training never sees; nil where the snapshot has a single prompt.
    let heldOut: RewardDataset?
    /// What all the latents' metadata agree on.
    let vae: String
    let latentChannels: Int
    let conditionChannels: Int
    /// Different latents, each fetched once.
    let clipCount: Int

    /// How many artifacts are on their way at a time.
    private static let transfers = 8

    /// - Parameter progress: told the share done.
    /// - Throws: a permanent ``JobError`` for latents that cannot be used, naming the pair; other errors are worth another try.
    static func load(
        _ snapshot: Snapshot, backbone: ModelVersion, configuration: WanConfiguration, inputs: TrainerInputs,
        progress: @escaping @Sendable (Double) throws -> Void
    ) async throws -> SnapshotData {
        // A pair of a latent with itself, which says nothing, is no comparison; labels that were skipped are in no snapshot.
        guard !snapshot.comparisons.isEmpty || !snapshot.ratedLatents.isEmpty else {
            throw JobError.permanent(
                "there are no usable pairs of dimension '\(snapshot.dimension)' on the backbone \(backbone.name); post some, and look at "
                    + "ops.preferences and ops.quarantine for those that wait or were refused")
        }
        // By digest: the same latent is one clip, however many URLs and labels it has.
        var indexOf: [String: Int] = [:]
        var sides: [(side: PairSide, label: String)] = []
        let latents =
            snapshot.comparisons.flatMap { [($0.a, $0.name), ($0.b, $0.name)] } + snapshot.ratedLatents.map { ($0.latent, $0.name) }
        for (side, label) in latents where indexOf[side.sha256] == nil {
            indexOf[side.sha256] = sides.count
            sides.append((side, label))
        }
        let paths = try await fetch(sides, inputs: inputs) { try progress(0.8 * $0) }
        let names = sides.map(\.label)
        let read = try await NumericThreads.run {
            try zip(paths, names).map { path, name in
                try NumericThreads.checkCancellation()
                return try LatentClip(path: path, pair: name, backbone: backbone.reference, configuration: configuration)
            }
        }
        try progress(1)
        for (clip, name) in zip(read, names) where clip.vae != read[0].vae {
            throw JobError.permanent(
                "the latents belong to different VAEs: those of pair \(names[0]) to '\(read[0].vae)', those of pair \(name) to '\(clip.vae)'"
            )
        }
        let clips = read.map(\.clip)
        func part(_ split: Snapshot.Split) throws -> RewardDataset {
            try dataset(
                snapshot.comparisons.filter { $0.split == split }, snapshot.ratedLatents.filter { $0.split == split }, clips, indexOf)
        }
        let (train, heldOut) = (try part(.train), try part(.heldOut))
        return SnapshotData(
            train: train, heldOut: heldOut.pairs.isEmpty && heldOut.ratings.isEmpty ? nil : heldOut, vae: read[0].vae,
            latentChannels: clips[0].latents.shape[0],
            conditionChannels: clips[0].condition?.shape[0] ?? 0, clipCount: clips.count)
    }

    private static func dataset(
        _ comparisons: [Comparison], _ ratings: [RatedLatent], _ clips: [RewardClip], _ indexOf: [String: Int]
    ) throws -> RewardDataset {
        let edges = comparisons.map { (indexOf[$0.a.sha256]!, indexOf[$0.b.sha256]!) }
        var prompts: [String: Int] = [:]
        for pair in comparisons where prompts[pair.prompt] == nil { prompts[pair.prompt] = prompts.count }
        // Intervals are taken over groups of candidates, or over prompts where comparisons run across the groups.
        let components = PairGraph.components(edges)
        var cluster = comparisons.map { prompts[$0.prompt]! }
        if components.count >= prompts.count {
            for (index, members) in components.enumerated() { for pair in members { cluster[pair] = index } }
        }
        // A comparison counts once, however many voices it has: they say what to learn, not how often.
        return try RewardDataset(
            clips: clips,
            pairs: zip(comparisons, edges).enumerated().map { index, entry in
                let (said, edge) = entry
                return RewardPair(
                    a: edge.0, b: edge.1,
                    target: try PairTarget(a: said.forA, b: said.forB, tie: said.tie, bothBad: said.bothBad, margin: said.margin ?? 0),
                    cluster: cluster[index], isRated: said.isRated)
            },
            ratings: ratings.map { RewardRating(clip: indexOf[$0.latent.sha256]!, good: $0.good) })
    }

    private static func fetch(
        _ sides: [(side: PairSide, label: String)], inputs: TrainerInputs, progress: (Double) throws -> Void
    ) async throws -> [String] {
        try await withThrowingTaskGroup(of: (Int, String).self) { group in
            var paths = [String](repeating: "", count: sides.count)
            var next = 0
            var done = 0
            func add() {
                let (index, side) = (next, sides[next].side)
                group.addTask { (index, try await inputs.file(side.url, sha256: side.sha256)) }
                next += 1
            }
            while next < min(transfers, sides.count) { add() }
            while let (index, path) = try await group.next() {
                paths[index] = path
                done += 1
                if done % 32 == 0 { try progress(Double(done) / Double(sides.count)) }
                if next < sides.count { add() }
            }
            return paths
        }
    }
}

/// A finished latent's file, read and checked against the backbone.
struct LatentClip: Sendable {
    let clip: RewardClip
    let vae: String

    init(path: String, pair: String, backbone: String, configuration: WanConfiguration) throws {
        func failure(_ what: String) -> JobError { .permanent("pair \(pair): \(what)") }
        let file: SafetensorsFile
        do {
            file = try SafetensorsFile(contentsOf: path)
        } catch let error as SafetensorsError {
            throw failure("its latent's file is not sound: \(error)")
        }
        func tensor(_ name: String, rank: Int) throws -> Tensor {
            let tensor = try file.tensor(name)
            guard tensor.shape.count == rank else { throw failure("\(name) has shape \(tensor.shape), expected \(rank) axes") }
            guard tensor.isFinite else { throw failure("\(name) holds values that are not finite") }
            return tensor
        }
        func optional(_ name: String, rank: Int) throws -> Tensor? { file.entries[name] == nil ? nil : try tensor(name, rank: rank) }
        guard let vae = file.metadata["vae"], !vae.isEmpty else { throw failure("its metadata has no 'vae'") }
        let kind = file.metadata["noise.kind"] ?? ""
        guard kind == "flow" else { throw failure("noise.kind is '\(kind)', but the backbone \(backbone) takes 'flow'") }
        let clip = RewardClip(
            latents: try tensor("latents", rank: 4), promptEmbeds: try tensor("prompt_embeds", rank: 2),
            condition: try optional("condition", rank: 4), imageEmbeds: try optional("image_embeds", rank: 2))
        let channels = clip.latents.shape[0] + (clip.condition?.shape[0] ?? 0)
        guard channels == configuration.inChannels else {
            throw failure(
                "latents have \(clip.latents.shape[0]) channels\(clip.condition.map { " and condition \($0.shape[0])" } ?? " and there is no condition"), "
                    + "but the backbone \(backbone) takes \(configuration.inChannels) in all")
        }
        guard clip.promptEmbeds.shape[1] == configuration.textDim else {
            throw failure(
                "prompt_embeds are \(clip.promptEmbeds.shape[1]) wide, but the backbone \(backbone) takes \(configuration.textDim)")
        }
        if let condition = clip.condition, condition.shape.dropFirst() != clip.latents.shape.dropFirst() {
            throw failure("condition has shape \(condition.shape), latents \(clip.latents.shape)")
        }
        self.clip = clip
        self.vae = vae
    }
}
