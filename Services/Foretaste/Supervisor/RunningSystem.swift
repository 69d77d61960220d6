import Foundation
import ServiceKit

/// What runs, and where: the content of the ready file and of `running.json`.
struct RunningSystem: Codable, Sendable, Equatable {
    /// The URL of the ingest service.
    var ingest: String
    /// The URL of the scoring service.
    var scorer: String
    /// The database, as a libpq URL. May hold a password.
    var databaseURL: String
    /// The API key of this run, with every scope; it ends with the run.
    var apiKey: String
    /// The services' processes by their names.
    var processes: [String: Int32]

    enum CodingKeys: String, CodingKey {
        case ingest
        case scorer
        case databaseURL = "database_url"
        case apiKey = "api_key"
        case processes
    }

    /// Puts it into a file, at once and whole, readable by its owner alone.
    func write(to path: String) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.withoutEscapingSlashes, .sortedKeys]
        try ReadyFile.writeAtomically([UInt8](try encoder.encode(self)) + [UInt8(ascii: "\n")], to: path)
    }
}
