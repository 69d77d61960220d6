/// Whatever a labelling tool posts.
public enum NewLabel: Sendable, Equatable {
    /// A comparison of two latents.
    case pair(NewPair)
    /// N latents in order.
    case ranking(NewRanking)
    /// One latent judged by itself.
    case rating(NewRating)

    /// What was judged.
    public var dimension: String {
        switch self {
        case .pair(let pair): pair.dimension
        case .ranking(let ranking): ranking.dimension
        case .rating(let rating): rating.dimension
        }
    }
}

/// N latents that one rater put in order.
public struct NewRanking: Codable, Sendable, Equatable {
    /// How many latents a ranking may have; their pairs are N·(N−1)/2.
    public static let itemLimit = 20

    /// A latent and its place.
    public struct Item: Codable, Sendable, Equatable {
        /// Where its file lies.
        public var url: String
        /// 64 lower-case hexadecimal digits.
        public var sha256: String
        /// 1 is best; latents of equal rank are tied.
        public var rank: Int

        /// An item from its parts.
        public init(url: String, sha256: String, rank: Int) {
            self.url = url
            self.sha256 = sha256
            self.rank = rank
        }

        var side: PairSide { PairSide(url: url, sha256: sha256) }
    }

    /// The tool or project; with `externalID` the natural key.
    public var source: String
    /// The tool's own key within the source.
    public var externalID: String
    /// What all the latents were generated from.
    public var prompt: String
    /// What was judged.
    public var dimension: String
    /// Who judged, a pseudonym.
    public var rater: String
    /// The latents, in any order.
    public var items: [Item]

    enum CodingKeys: String, CodingKey {
        case source
        case externalID = "external_id"
        case prompt, dimension, rater, items
    }

    /// A ranking from its parts; nothing is checked here.
    public init(source: String, externalID: String, prompt: String, dimension: String, rater: String, items: [Item]) {
        self.source = source
        self.externalID = externalID
        self.prompt = prompt
        self.dimension = dimension
        self.rater = rater
        self.items = items
    }

    /// As it may be shown: without the URLs' queries.
    public var shown: NewRanking {
        var copy = self
        for index in items.indices { copy.items[index].url = PairSide.shown(items[index].url) }
        return copy
    }

    /// The comparisons that follow from it: each two latents once, keyed `external_id#i-j` by the items' numbers from 1.
    /// How far two ranks are apart says nothing about how much better one is, so there is no margin.
    public var pairs: [NewPair] {
        items.indices.flatMap { first in
            items.indices.dropFirst(first + 1).map { second in
                let (a, b) = (items[first], items[second])
                return NewPair(
                    source: source, externalID: "\(externalID)#\(first + 1)-\(second + 1)", prompt: prompt, dimension: dimension,
                    outcome: a.rank == b.rank ? .tie : a.rank < b.rank ? .a : .b, rater: rater, a: a.side, b: b.side)
            }
        }
    }
}

/// One latent that one rater judged by itself.
public struct NewRating: Codable, Sendable, Equatable {
    /// The ends of a scale, both included.
    public struct Scale: Codable, Sendable, Equatable {
        /// The worst.
        public var min: Double
        /// The best.
        public var max: Double

        /// A scale by its ends.
        public init(min: Double, max: Double) {
            self.min = min
            self.max = max
        }

        /// Good is 1 and bad is 0.
        public static let goodBad = Scale(min: 0, max: 1)
    }

    /// The tool or project; with `externalID` the natural key.
    public var source: String
    /// The tool's own key within the source.
    public var externalID: String
    /// What the latent was generated from.
    public var prompt: String
    /// What was judged.
    public var dimension: String
    /// Who judged, a pseudonym.
    public var rater: String
    /// The latent.
    public var latent: PairSide
    /// Where it stands on the scale.
    public var rating: Double
    /// The scale.
    public var scale: Scale

    enum CodingKeys: String, CodingKey {
        case source
        case externalID = "external_id"
        case prompt, dimension, rater, latent, rating, scale
    }

    /// A rating from its parts; nothing is checked here.
    public init(
        source: String, externalID: String, prompt: String, dimension: String, rater: String, latent: PairSide, rating: Double,
        scale: Scale = .goodBad
    ) {
        self.source = source
        self.externalID = externalID
        self.prompt = prompt
        self.dimension = dimension
        self.rater = rater
        self.latent = latent
        self.rating = rating
        self.scale = scale
    }

    /// As it may be shown: without the URL's query.
    public var shown: NewRating {
        var copy = self
        copy.latent = latent.shown
        return copy
    }
}
