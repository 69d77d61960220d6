import Preferences
import Safetensors

/// The fields of a pair that say what the rater thinks: of a posted pair, and of a correction.
enum LabelFields {
    static let names = ["outcome", "votes", "soft_label", "margin", "strength", "presentation"]

    /// The most voices of one label.
    private static let voteLimit = 1_000_000
    private static let marginLimit = 1e9

    /// The outcome may be left out where votes or a soft label give it. What is said twice must agree: a contradiction is most likely a
    /// mistake in an export, such as swapped sides.
    static func decode(_ fields: inout FieldReader) -> PairLabel? {
        let before = fields.errors.count
        let given = fields.word("outcome", Outcome.self)
        let votes = fields["votes"] == nil ? nil : votes(&fields)
        let soft = fields.number("soft_label", in: 0...1)
        let margin = fields.number("margin", in: 0...marginLimit)
        let strength = fields.integer("strength", in: 0...3)
        let presentation = fields.word("presentation", Presentation.self)
        if fields["outcome"] == nil, fields["votes"] == nil, fields["soft_label"] == nil { fields.add("/outcome", "is required") }
        guard fields.errors.count == before else { return nil }
        guard let outcome = given ?? soft.map({ $0 > 0.5 ? .a : $0 < 0.5 ? .b : .tie }) ?? votes?.outcome else { return nil }
        let label = PairLabel(outcome, votes: votes, softLabel: soft, margin: margin, strength: strength, presentation: presentation)
        check(label, &fields)
        return label
    }

    private static func votes(_ fields: inout FieldReader) -> Votes? {
        guard var inner = fields.object("votes", of: "an object with counts for a and b, and for tie and both_bad where there are any")
        else {
            return nil
        }
        func count(_ field: String) -> Int? { inner.integer(field, in: 0...voteLimit) }
        for side in ["a", "b"] where inner[side] == nil { inner.add("/\(side)", "is required") }
        let votes = Votes(a: count("a") ?? 0, b: count("b") ?? 0, tie: count("tie") ?? 0, bothBad: count("both_bad") ?? 0)
        inner.unknown(besides: ["a", "b", "tie", "both_bad"])
        fields.take(inner)
        guard votes.a + votes.b + votes.tie + votes.bothBad > 0 else {
            if inner.errors.isEmpty { fields.add("/votes", "nobody voted") }
            return nil
        }
        return votes
    }

    private static func check(_ label: PairLabel, _ fields: inout FieldReader) {
        let outcome = label.outcome
        if let votes = label.votes {
            switch outcome {
            case .skip: fields.add("/votes", "are not possible where the outcome is skip")
            case .a where votes.b > votes.a: fields.add("/votes", "have more for b than for a, but the outcome is a")
            case .b where votes.a > votes.b: fields.add("/votes", "have more for a than for b, but the outcome is b")
            default: break
            }
        }
        if let soft = label.softLabel {
            switch outcome {
            case .a where soft <= 0.5, .b where soft >= 0.5, .tie where soft != 0.5:
                fields.add(
                    "/soft_label",
                    "is \(soft), the probability that a is preferred, but the outcome is \(outcome.rawValue); above 0.5 goes with a, below with b, 0.5 with tie"
                )
            case .skip, .bothBad: fields.add("/soft_label", "is not possible where the outcome is \(outcome.rawValue)")
            default: break
            }
        }
        for (field, value) in [("margin", label.margin), ("strength", label.strength.map(Double.init))] {
            guard let value else { continue }
            switch outcome {
            case .a, .b:
                if field == "strength", value == 0 {
                    fields.add("/strength", "is 0, but the outcome is \(outcome.rawValue); expected 1 to 3")
                }
            case .tie: if value != 0 { fields.add("/\(field)", "is \(FieldReader.shown(value)), but the outcome is tie") }
            case .bothBad, .skip: fields.add("/\(field)", "is not possible where the outcome is \(outcome.rawValue)")
            }
        }
    }
}
