import Postgres

/// A pair in a snapshot, with the label that it had then.
public struct FrozenPair: Sendable, Equatable {
    /// Where it stands, from 0.
    public let position: Int
    /// The pair's id.
    public let id: String
    /// The pair.
    public let pair: NewPair
    /// Its side. Labels of one prompt are on one side.
    public let split: Snapshot.Split

    static let columns = "position, split, id, source, external_id, prompt, dimension, rater, a_url, a_sha256, b_url, b_sha256, label"

    init(_ row: PostgresRow) throws {
        position = try row["position"].int
        id = try row["id"].string
        pair = NewPair(
            source: try row["source"].string, externalID: try row["external_id"].string, prompt: try row["prompt"].string,
            dimension: try row["dimension"].string, label: try row["label"].decode(PairLabel.self), rater: try row["rater"].string,
            a: PairSide(url: try row["a_url"].string, sha256: try row["a_sha256"].string),
            b: PairSide(url: try row["b_url"].string, sha256: try row["b_sha256"].string))
        split = try Snapshot.Split(row["split"])
    }
}

/// What raters say together on two latents for a prompt, whichever of the two a label calls a.
public struct Comparison: Sendable, Equatable {
    /// Its side of the split.
    public let split: Snapshot.Split
    /// What both were generated from.
    public let prompt: String
    /// The first label on it, as `source/external_id`: what a message calls it.
    public let name: String
    /// The latents, a and b as in the first label.
    public let a: PairSide
    public let b: PairSide
    /// The voices for a: one a rater, or as many as a tool counted; a soft label parts one.
    public let forA: Double
    /// The voices for b.
    public let forB: Double
    /// The voices for neither, both being good.
    public let tie: Double
    /// The voices for neither, both being bad.
    public let bothBad: Double
    /// How much better a is, negative for b, the mean over the labels that say so.
    public let margin: Double?
    /// How many raters.
    public let raters: Int
    /// Whether it was read from ratings of the two.
    public let isRated: Bool

    /// All voices.
    public var voices: Double { forA + forB + tie + bothBad }

    static let columns =
        "split, prompt, source, external_id, a_url, a_sha256, b_url, b_sha256, a, b, tie, both_bad, margin, raters, rated"

    init(_ row: PostgresRow) throws {
        split = try Snapshot.Split(row["split"])
        prompt = try row["prompt"].string
        name = "\(try row["source"].string)/\(try row["external_id"].string)"
        a = PairSide(url: try row["a_url"].string, sha256: try row["a_sha256"].string)
        b = PairSide(url: try row["b_url"].string, sha256: try row["b_sha256"].string)
        forA = try row["a"].double
        forB = try row["b"].double
        tie = try row["tie"].double
        bothBad = try row["both_bad"].double
        margin = try row["margin"].optionalDouble
        raters = try row["raters"].int
        isRated = try row["rated"].bool
    }
}

/// What raters say together on a latent that they rated by itself.
public struct RatedLatent: Sendable, Equatable {
    /// Its side of the split.
    public let split: Snapshot.Split
    /// What it was generated from.
    public let prompt: String
    /// The first rating of it, as `source/external_id`.
    public let name: String
    /// The latent.
    public let latent: PairSide
    /// From 0, the worst of the scale, to 1, the best: the mean over raters.
    public let good: Double
    /// How many raters.
    public let raters: Int

    static let columns = "split, prompt, source, external_id, url, sha256, good, raters"

    init(_ row: PostgresRow) throws {
        split = try Snapshot.Split(row["split"])
        prompt = try row["prompt"].string
        name = "\(try row["source"].string)/\(try row["external_id"].string)"
        latent = PairSide(url: try row["url"].string, sha256: try row["sha256"].string)
        good = try row["good"].double
        raters = try row["raters"].int
    }
}

extension Snapshot.Split {
    init(_ cell: PostgresCell) throws {
        let word = try cell.string
        guard let split = Snapshot.Split(rawValue: word) else { throw PreferencesError.unknown("split", word) }
        self = split
    }
}
