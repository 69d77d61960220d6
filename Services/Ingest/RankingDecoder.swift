import Preferences
import Safetensors

/// Reads a ranking: `items`, each a latent with its `rank`, 1 the best; equal ranks are ties.
enum RankingDecoder {
    private static let fields = ["source", "external_id", "prompt", "dimension", "rater", "type", "items"]
    private static let rankLimit = 1000

    static func decode(_ fields: inout FieldReader, dimensions: Set<String>) -> NewRanking? {
        let key = LabelKey(&fields, dimensions: dimensions)
        let rater = fields.name("rater", limit: PairDecoder.raterLimit)
        let items = items(&fields)
        fields.unknown(besides: Self.fields)
        guard let key, let rater, let items else { return nil }
        return NewRanking(
            source: key.source, externalID: key.externalID, prompt: key.prompt, dimension: key.dimension, rater: rater, items: items)
    }

    private static func items(_ fields: inout FieldReader) -> [NewRanking.Item]? {
        let expected = "2 to \(NewRanking.itemLimit) objects with url, sha256 and rank"
        guard let value = fields["items"] else {
            fields.add("/items", "is required: \(expected)")
            return nil
        }
        guard case .array(let values) = value else {
            fields.add("/items", "expected \(expected), found \(value.kind)")
            return nil
        }
        guard (2...NewRanking.itemLimit).contains(values.count) else {
            fields.add("/items", "expected \(expected), found \(values.count)")
            return nil
        }
        var items: [NewRanking.Item] = []
        var seen: [String: Int] = [:]
        for (index, value) in values.enumerated() {
            guard case .object = value else {
                fields.add("/items/\(index)", "expected an object with url, sha256 and rank, found \(value.kind)")
                continue
            }
            var inner = FieldReader(value, at: "/items/\(index)")
            let latent = inner.artifact()
            if inner["rank"] == nil { inner.add("/rank", "is required") }
            let rank = inner.integer("rank", in: 1...rankLimit)
            inner.unknown(besides: ["url", "sha256", "rank"])
            if let latent {
                if let first = seen[latent.sha256] { inner.add("/sha256", "is that of item \(first) too; a latent has one rank") }
                seen[latent.sha256] = seen[latent.sha256] ?? index
            }
            fields.take(inner)
            if let latent, let rank { items.append(.init(url: latent.url, sha256: latent.sha256, rank: rank)) }
        }
        return items.count == values.count ? items : nil
    }
}

/// Reads a rating: `good` or `bad`, or a number on a `scale`.
enum RatingDecoder {
    private static let fields = ["source", "external_id", "prompt", "dimension", "rater", "type", "latent", "rating", "scale"]
    private static let limit = 1e9

    static func decode(_ fields: inout FieldReader, dimensions: Set<String>) -> NewRating? {
        let key = LabelKey(&fields, dimensions: dimensions)
        let rater = fields.name("rater", limit: PairDecoder.raterLimit)
        let latent = fields.artifact("latent")
        let scale = fields["scale"] == nil ? nil : scale(&fields)
        let value = value(&fields, scale: scale)
        fields.unknown(besides: Self.fields)
        guard let key, let rater, let latent, let value else { return nil }
        return NewRating(
            source: key.source, externalID: key.externalID, prompt: key.prompt, dimension: key.dimension, rater: rater, latent: latent,
            rating: value, scale: scale ?? .goodBad)
    }

    /// - Parameter scale: nil where there is none, or a wrong one.
    private static func value(_ fields: inout FieldReader, scale: NewRating.Scale?) -> Double? {
        switch fields["rating"] {
        case nil:
            fields.add("/rating", "is required: good or bad, or a number on the scale")
            return nil
        case .string(let word)?:
            guard word == "good" || word == "bad" else {
                fields.add("/rating", "expected good or bad, or a number on the scale; found \(FieldReader.shown(word))")
                return nil
            }
            if fields["scale"] != nil { fields.add("/scale", "is not possible where the rating is good or bad") }
            return word == "good" ? 1 : 0
        default:
            if fields["scale"] == nil { fields.add("/scale", "is required where the rating is a number: {\"min\":1,\"max\":5}, say") }
            return fields.number("rating", in: (scale?.min ?? -limit)...(scale?.max ?? limit))
        }
    }

    private static func scale(_ fields: inout FieldReader) -> NewRating.Scale? {
        guard var inner = fields.object("scale", of: "an object with min and max") else { return nil }
        for end in ["min", "max"] where inner[end] == nil { inner.add("/\(end)", "is required") }
        let (low, high) = (inner.number("min", in: -limit...limit), inner.number("max", in: -limit...limit))
        inner.unknown(besides: ["min", "max"])
        if let low, let high, low >= high { inner.add("/max", "is not above min") }
        fields.take(inner)
        guard let low, let high, low < high else { return nil }
        return NewRating.Scale(min: low, max: high)
    }
}
