import Foundation
import Postgres
import Preferences
import ServiceKit

/// A stored label of any kind as clients see it. What it is, its id says.
enum LabelDocument {
    /// The document behind an id, nil when there is none.
    static func load(
        _ id: String, from store: PreferenceStore, on connection: PostgresConnection? = nil, isTrial: Bool = false
    ) async throws -> Data? {
        guard !id.utf8.contains(0) else { return nil }
        if id.hasPrefix("ranking_") {
            return try await store.ranking(id, on: connection).map { try documentBytes(RankingDocument(ranking: $0), isTrial: isTrial) }
        }
        if id.hasPrefix("rating_") {
            return try await store.rating(id, on: connection).map { try documentBytes(RatingDocument(rating: $0), isTrial: isTrial) }
        }
        return try await store.get(id, on: connection).map { try documentBytes(PairDocument(pair: $0), isTrial: isTrial) }
    }

    static func notFound(_ id: String) -> Problem { .notFound("There is no pair, ranking or rating with the id '\(id.prefix(80))'.") }
}

/// A ranking with the ids of the pairs that were read from it.
struct RankingDocument: Encodable {
    let ranking: StoredRanking

    enum Keys: String, CodingKey {
        case id, type, state, pairs
        case retractedAt = "retracted_at"
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Keys.self)
        try container.encode(ranking.id, forKey: .id)
        try container.encode("ranking", forKey: .type)
        try container.encode(ranking.state, forKey: .state)
        try container.encode(ranking.pairs, forKey: .pairs)
        try container.encodeIfPresent(ranking.retractedAt.map(timestampText), forKey: .retractedAt)
        try ranking.ranking.shown.encode(to: encoder)
    }
}

/// A rating; `good` and `bad` are 1 and 0 on a scale from 0 to 1.
struct RatingDocument: Encodable {
    let rating: StoredRating

    enum Keys: String, CodingKey {
        case id, type, state, reason, revision
        case retractedAt = "retracted_at"
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Keys.self)
        try container.encode(rating.id, forKey: .id)
        try container.encode("rating", forKey: .type)
        try container.encode(rating.state, forKey: .state)
        try container.encode(rating.reason, forKey: .reason)
        if rating.revision > 0 { try container.encode(rating.revision, forKey: .revision) }
        try container.encodeIfPresent(rating.retractedAt.map(timestampText), forKey: .retractedAt)
        try rating.rating.shown.encode(to: encoder)
    }
}

/// What was said about a label, oldest first.
struct HistoryDocument: Encodable {
    let id: String
    let revisions: [LabelRevision]

    struct Entry: Encodable {
        let revision: Int
        let action: String
        let label: JSONText
        let by: String
        let at: String
        let reason: String?
    }

    enum Keys: CodingKey { case id, items }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Keys.self)
        try container.encode(id, forKey: .id)
        try container.encode(
            revisions.map {
                Entry(
                    revision: $0.number, action: $0.action, label: JSONText($0.label), by: $0.actor, at: timestampText($0.at),
                    reason: $0.reason)
            }, forKey: .items)
    }
}

/// JSON that is text already, to stand inside a document.
struct JSONText: Encodable {
    private let value: Value

    /// - Parameter text: JSON that our own database wrote.
    init(_ text: String) { value = (try? JSONDecoder().decode(Value.self, from: Data(text.utf8))) ?? .null }

    func encode(to encoder: any Encoder) throws { try value.encode(to: encoder) }

    private enum Value: Codable {
        case null
        case bool(Bool)
        case number(Double)
        case string(String)
        case array([Value])
        case object([String: Value])

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if container.decodeNil() {
                self = .null
            } else if let value = try? container.decode(Bool.self) {
                self = .bool(value)
            } else if let value = try? container.decode(Double.self) {
                self = .number(value)
            } else if let value = try? container.decode(String.self) {
                self = .string(value)
            } else if let value = try? container.decode([Value].self) {
                self = .array(value)
            } else {
                self = .object(try container.decode([String: Value].self))
            }
        }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.singleValueContainer()
            switch self {
            case .null: try container.encodeNil()
            case .bool(let value): try container.encode(value)
            case .number(let value): try container.encode(value)
            case .string(let value): try container.encode(value)
            case .array(let value): try container.encode(value)
            case .object(let value): try container.encode(value)
            }
        }
    }
}
