import Preferences
import Safetensors
import ServiceKit

/// Reads one posted label strictly: every problem is named by the JSON Pointer of its field, all of them at once. Its `type` says what it
/// is: `pair` (which need not be said), `ranking` or `rating`.
struct PairDecoder: Sendable {
    /// Limits in bytes of UTF-8.
    static let sourceLimit = 200
    static let keyLimit = 500
    static let promptLimit = 100_000
    static let dimensionLimit = DimensionRegistry.nameLimit
    static let raterLimit = 200

    private static let pairFields = [
        "source", "external_id", "prompt", "dimension", "outcome", "rater", "a", "b", "type", "votes", "soft_label", "margin", "strength",
        "presentation",
    ]

    private enum Kind: String, CaseIterable {
        case pair, ranking, rating
    }

    enum Result {
        case label(NewLabel)
        case errors([ProblemDocument.FieldError])
    }

    /// - Parameter dimensions: those that are known.
    func decode(_ json: [UInt8], dimensions: Set<String>) -> Result {
        switch Self.object(json) {
        case .failure(let problem): return .errors([problem.error])
        case .success(let object):
            var fields = FieldReader(object)
            let label = Self.label(&fields, dimensions: dimensions)
            guard let label, fields.errors.isEmpty else { return .errors(fields.errors) }
            return .label(label)
        }
    }

    /// A text that is no JSON object.
    struct NotAnObject: Error {
        let error: ProblemDocument.FieldError
    }

    static func object(_ json: [UInt8]) -> Swift.Result<StrictJSON, NotAnObject> {
        func wrong(_ detail: String) -> Swift.Result<StrictJSON, NotAnObject> {
            .failure(NotAnObject(error: .init(pointer: "", detail: detail)))
        }
        do {
            let object = try StrictJSON.parse(json)
            guard case .object = object else { return wrong("expected a JSON object, found \(object.kind)") }
            return .success(object)
        } catch let error as SafetensorsError {
            return wrong("is not valid JSON: \(error.description.trimmingPrefix("JSON: "))")
        } catch {
            return wrong("is not valid JSON")
        }
    }

    private static func label(_ fields: inout FieldReader, dimensions: Set<String>) -> NewLabel? {
        if fields["type"] != nil {
            guard let kind = fields.word("type", Kind.self) else { return nil }
            switch kind {
            case .pair: break
            case .ranking: return RankingDecoder.decode(&fields, dimensions: dimensions).map(NewLabel.ranking)
            case .rating: return RatingDecoder.decode(&fields, dimensions: dimensions).map(NewLabel.rating)
            }
        }
        return pair(&fields, dimensions: dimensions).map(NewLabel.pair)
    }

    private static func pair(_ fields: inout FieldReader, dimensions: Set<String>) -> NewPair? {
        let key = LabelKey(&fields, dimensions: dimensions)
        let label = LabelFields.decode(&fields)
        let rater = fields.name("rater", limit: raterLimit)
        let a = fields.artifact("a")
        let b = fields.artifact("b")
        fields.unknown(besides: pairFields)
        guard let key, let label, let rater, let a, let b else { return nil }
        return NewPair(
            source: key.source, externalID: key.externalID, prompt: key.prompt, dimension: key.dimension, label: label, rater: rater, a: a,
            b: b)
    }
}

/// What every kind of label begins with.
struct LabelKey {
    let source, externalID, prompt, dimension: String

    init?(_ fields: inout FieldReader, dimensions: Set<String>) {
        let source = fields.name("source", limit: PairDecoder.sourceLimit)
        let key = fields.name("external_id", limit: PairDecoder.keyLimit)
        let prompt = fields.text("prompt", limit: PairDecoder.promptLimit)
        let dimension = Self.dimension(&fields, dimensions)
        guard let source, let key, let prompt, let dimension else { return nil }
        (self.source, externalID, self.prompt, self.dimension) = (source, key, prompt, dimension)
    }

    private static func dimension(_ fields: inout FieldReader, _ known: Set<String>) -> String? {
        guard let text = fields.text("dimension", limit: PairDecoder.dimensionLimit) else { return nil }
        guard known.contains(text) else {
            fields.add(
                "/dimension",
                "is not a known dimension: \(FieldReader.shown(text)); known are \(known.sorted().prefix(30).joined(separator: ", ")). "
                    + "PUT /v1/dimensions/NAME makes another known")
            return nil
        }
        return text
    }
}
