public import Foundation
public import Postgres

/// What can be judged: a name and what raters are asked.
public struct JudgedDimension: Codable, Sendable, Equatable {
    /// `overall`, `vq`, `mq`, `ta`, or the project's own.
    public let name: String
    /// The question.
    public let description: String
    /// When it was defined.
    public let createdAt: Date
}

/// The known dimensions. Labels of others are refused.
public struct DimensionRegistry: Sendable {
    /// The longest name.
    public static let nameLimit = 64

    private let client: PostgresClient

    /// The registry in the client's database.
    public init(client: PostgresClient) {
        self.client = client
    }

    /// Whether a text can be a dimension's name: letters, digits, `_`, `.` and `-`, not beginning with the last three.
    public static func isName(_ text: String) -> Bool {
        text.utf8.count <= nameLimit && text.wholeMatch(of: /[A-Za-z0-9][A-Za-z0-9_.-]*/) != nil
    }

    /// All of them, by name.
    public func list(on connection: PostgresConnection? = nil) async throws -> [JudgedDimension] {
        try await client.query(
            "select name, description, created_at from preferences.dimension order by name collate \"C\"", [], on: connection
        ).map {
            JudgedDimension(name: try $0["name"].string, description: try $0["description"].string, createdAt: try $0["created_at"].date)
        }
    }

    /// Makes one known, or gives a known one another description unless `description` is empty.
    /// - Returns: whether it is new.
    @discardableResult
    public func define(_ name: String, description: String = "", on connection: PostgresConnection? = nil) async throws -> Bool {
        try await client.query(
            "select preferences.define_dimension($1, $2) as new", [.string(name), .string(description)], on: connection)[0]["new"].bool
    }
}
