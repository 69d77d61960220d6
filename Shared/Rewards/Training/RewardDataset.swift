public import Tensors

/// A finished latent with what it was generated from.
public struct RewardClip: Sendable {
    /// Normalised, noise-free [C,F,H,W].
    public let latents: Tensor
    /// [L,D].
    public let promptEmbeds: Tensor
    /// [C₂,F,H,W], or nil where the backbone takes none.
    public let condition: Tensor?
    /// [I,D], or nil where the backbone takes none.
    public let imageEmbeds: Tensor?

    /// A clip from its parts; the backbone checks that they fit.
    public init(latents: Tensor, promptEmbeds: Tensor, condition: Tensor? = nil, imageEmbeds: Tensor? = nil) {
        self.latents = latents
        self.promptEmbeds = promptEmbeds
        self.condition = condition
        self.imageEmbeds = imageEmbeds
    }

    /// A number that stands for all values of some clips, to tell whether two data sets are the same.
    static func digest(_ clips: [RewardClip]) -> UInt64 {
        var digest: UInt64 = 0xcbf2_9ce4_8422_2325
        func mix(_ word: UInt64) {
            digest = (digest ^ word) &* 0x0000_0100_0000_01b3
            digest ^= digest >> 29
        }
        for clip in clips {
            for tensor in [clip.latents, clip.promptEmbeds, clip.condition, clip.imageEmbeds] {
                mix(UInt64(tensor?.count ?? 0))
                for extent in tensor?.shape ?? [] { mix(UInt64(extent)) }
                tensor?.withUnsafeBufferPointer { values in for value in values { mix(UInt64(value.bitPattern)) } }
            }
        }
        return digest
    }

    /// Clips of one key can stand in one batch.
    var shapeKey: [Int] {
        latents.shape + promptEmbeds.shape + (condition?.shape ?? [0]) + (imageEmbeds?.shape ?? [0])
    }
}

/// A comparison of two clips of a data set, by their indices.
public struct RewardPair: Sendable, Equatable {
    public let a: Int
    public let b: Int
    /// What raters say.
    public let target: PairTarget
    /// Pairs of one cluster (a prompt, or a group of candidates) are not independent: intervals are taken over clusters.
    public let cluster: Int
    /// Whether it was read from ratings of the two: a pointwise loss learns those instead.
    public let isRated: Bool

    /// The side that is preferred.
    public var outcome: PairOutcome { target.outcome }

    /// A comparison by several voices.
    public init(a: Int, b: Int, target: PairTarget, cluster: Int, isRated: Bool = false) {
        self.a = a
        self.b = b
        self.target = target
        self.cluster = cluster
        self.isRated = isRated
    }

    /// A comparison by one voice.
    public init(a: Int, b: Int, outcome: PairOutcome, cluster: Int) {
        self.init(a: a, b: b, target: PairTarget(outcome), cluster: cluster)
    }
}

/// A clip of a data set, by its index, that raters judged by itself.
public struct RewardRating: Sendable, Equatable {
    public let clip: Int
    /// From 0, bad, to 1, good.
    public let good: Double

    /// A judgement.
    public init(clip: Int, good: Double) {
        self.clip = clip
        self.good = good
    }
}

/// Clips, each once, comparisons of them, and judgements of single ones.
public struct RewardDataset: Sendable {
    public let clips: [RewardClip]
    public let pairs: [RewardPair]
    /// Learnt by the pointwise loss alone.
    public let ratings: [RewardRating]

    /// - Throws: `RewardError` for a pair of a clip that is not there, or a clip that is not finite.
    public init(clips: [RewardClip], pairs: [RewardPair], ratings: [RewardRating] = []) throws {
        for (index, clip) in clips.enumerated() {
            guard clip.latents.shape.count == 4 else {
                throw RewardError("clip \(index) has latents \(clip.latents.shape), expected [C,F,H,W]")
            }
            guard clip.latents.isFinite, clip.promptEmbeds.isFinite, clip.condition?.isFinite ?? true, clip.imageEmbeds?.isFinite ?? true
            else { throw RewardError("clip \(index) holds values that are not finite") }
        }
        for (index, pair) in pairs.enumerated() where !clips.indices.contains(pair.a) || !clips.indices.contains(pair.b) || pair.a == pair.b
        {
            throw RewardError("pair \(index) compares clips \(pair.a) and \(pair.b) of \(clips.count)")
        }
        for (index, rating) in ratings.enumerated() where !clips.indices.contains(rating.clip) || !(0...1).contains(rating.good) {
            throw RewardError("rating \(index) says \(rating.good) about clip \(rating.clip) of \(clips.count)")
        }
        self.clips = clips
        self.pairs = pairs
        self.ratings = ratings
    }
}

/// Clips that get the same noise, and which of the comparisons it serves.
///
/// Both sides of a pair share noise and level (lower variance: the difference is the clips', not the noise's). So clips that are
/// compared with each other, directly or through others, form a group; a large one is cut into parts of a few clips, and a clip that is
/// needed in two parts is noised twice, or else a web of comparisons across a whole data set would see a handful of noises only.
struct NoiseGroups {
    /// A clip inside a group.
    struct Unit: Equatable, Sendable {
        let clip: Int
        let group: Int
    }

    private(set) var units: [Unit] = []
    /// For each pair, the units of its sides.
    private(set) var sides: [(a: Int, b: Int)] = []
    /// For each clip that stands by itself, its unit.
    private(set) var alone: [Int] = []
    private(set) var count = 0

    static let largest = 16

    /// - Parameter clips: those that are judged by themselves; each shares the unit of a pair, or has one of its own.
    init(_ pairs: [RewardPair], alone clips: [Int] = []) {
        sides = Array(repeating: (0, 0), count: pairs.count)
        for members in PairGraph.components(pairs.map { ($0.a, $0.b) }) {
            var unitOf: [Int: Int] = [:]
            var group = count
            count += 1
            for index in members {
                let pair = pairs[index]
                let fresh = [pair.a, pair.b].count { unitOf[$0] == nil }
                if unitOf.count + fresh > Self.largest {
                    unitOf = [:]
                    group = count
                    count += 1
                }
                for clip in [pair.a, pair.b] where unitOf[clip] == nil {
                    unitOf[clip] = units.count
                    units.append(Unit(clip: clip, group: group))
                }
                sides[index] = (unitOf[pair.a]!, unitOf[pair.b]!)
            }
        }
        guard !clips.isEmpty else { return }
        var unitOf: [Int: Int] = [:]
        for (index, unit) in units.enumerated() where unitOf[unit.clip] == nil { unitOf[unit.clip] = index }
        for clip in clips {
            if unitOf[clip] == nil {
                unitOf[clip] = units.count
                units.append(Unit(clip: clip, group: count))
                count += 1
            }
            alone.append(unitOf[clip]!)
        }
    }
}

/// Comparisons as edges between clips.
public enum PairGraph {
    /// Indices of comparisons by connected component; components, and comparisons inside one, in the order given.
    public static func components(_ pairs: [(Int, Int)]) -> [[Int]] {
        var parent: [Int: Int] = [:]
        func root(_ clip: Int) -> Int {
            var node = clip
            while let next = parent[node], next != node {
                parent[node] = parent[next] ?? next
                node = next
            }
            return node
        }
        for (a, b) in pairs {
            let (x, y) = (root(a), root(b))
            parent[x] = min(x, y)
            parent[y] = min(x, y)
        }
        var order: [Int] = []
        var members: [Int: [Int]] = [:]
        for (index, pair) in pairs.enumerated() {
            let root = root(pair.0)
            if members[root] == nil { order.append(root) }
            members[root, default: []].append(index)
        }
        return order.map { members[$0]! }
    }
}
