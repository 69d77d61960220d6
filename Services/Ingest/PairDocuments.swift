import Foundation
import Preferences
import ServiceKit

/// A stored pair as clients see it: what they posted but for the queries of the URLs, with our id, state and reason.
struct PairDocument: Encodable {
    let pair: PreferencePair

    enum Keys: String, CodingKey {
        case id, state, reason, source
        case externalID = "external_id"
        case prompt, dimension, rater, a, b, revision
        case rankingID = "ranking_id"
        case retractedAt = "retracted_at"
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Keys.self)
        let posted = pair.pair
        try container.encode(pair.id, forKey: .id)
        try container.encode(pair.state, forKey: .state)
        // Null is said, not left out: a client can rely on the key.
        try container.encode(pair.reason, forKey: .reason)
        try container.encode(posted.source, forKey: .source)
        try container.encode(posted.externalID, forKey: .externalID)
        try container.encode(posted.prompt, forKey: .prompt)
        try container.encode(posted.dimension, forKey: .dimension)
        try posted.label.encode(to: encoder)
        try container.encode(posted.rater, forKey: .rater)
        try container.encode(posted.a.shown, forKey: .a)
        try container.encode(posted.b.shown, forKey: .b)
        try container.encodeIfPresent(pair.rankingID, forKey: .rankingID)
        // Only of a pair that was changed since it was posted.
        if pair.revision > 0 { try container.encode(pair.revision, forKey: .revision) }
        try container.encodeIfPresent(pair.retractedAt.map(timestampText), forKey: .retractedAt)
    }
}

/// A page of labels.
struct PageDocument<Item: Encodable>: Encodable {
    let items: [Item]
    let next: String?

    init<Label>(page: LabelPage<Label>, _ document: (Label) -> Item) {
        items = page.items.map(document)
        next = page.next
    }

    enum Keys: CodingKey { case items, next }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Keys.self)
        try container.encode(items, forKey: .items)
        // Null is said, not left out: a client can rely on the key.
        try container.encode(next, forKey: .next)
    }
}

/// How many labels are in each state: pairs, and ratings beside them.
struct SummaryDocument: Encodable {
    let pairs, ratings: PairSummary

    enum Keys: CodingKey { case ratings }

    func encode(to encoder: any Encoder) throws {
        try pairs.encode(to: encoder)
        var container = encoder.container(keyedBy: Keys.self)
        try container.encode(ratings, forKey: .ratings)
    }
}

/// The answer to one posted pair.
struct PostedDocument: Encodable {
    /// Nil for a pair that a dry run did not store.
    let id: String?
    let state: PairState
    var dryRun: Bool?

    enum CodingKeys: String, CodingKey {
        case id, state
        case dryRun = "dry_run"
    }
}

/// JSON as it goes out.
func documentBytes(_ document: some Encodable) throws -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return try encoder.encode(document)
}

/// What a client is told about a key that is taken.
func conflictErrors(_ pointers: [String], id: String) -> [ProblemDocument.FieldError] {
    pointers.map { .init(pointer: $0, detail: "differs from \(named(id)), which has the same source and external_id") }
}

/// A label by its id, with what it is: the id's first word says so.
func named(_ id: String) -> String { "the \(id.prefix { $0 != "_" }) \(id)" }

/// RFC 3339 with milliseconds, in UTC.
func timestampText(_ date: Date) -> String { date.formatted(Date.ISO8601FormatStyle(includingFractionalSeconds: true)) }
