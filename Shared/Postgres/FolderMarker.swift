import Foundation
import Glibc

/// Tells whether a database that lies outside its data folder belongs to the folder that is there now, or to one that had the same path before:
/// an id that was written into both when the database was made.
struct FolderMarker: Sendable {
    /// The copy in the data folder.
    let inFolder: String
    /// The copy beside the database.
    let atHome: String

    /// Nil where the database lies in the data folder itself and goes with it.
    init?(folder: String, places: EmbeddedPlaces) {
        guard places.user != nil else { return nil }
        inFolder = folder + "/database-id"
        atHome = places.home + "/database-id"
    }

    private static func read(_ path: String) -> String? {
        FileManager.default.contents(atPath: path).map {
            String(decoding: $0, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
        }
    }

    /// Whether the two belong together.
    var fits: Bool {
        guard let id = Self.read(inFolder), !id.isEmpty else { return false }
        return id == Self.read(atHome)
    }

    /// Whether the data folder says that it had a database.
    var isInFolder: Bool { FileManager.default.fileExists(atPath: inFolder) }

    /// Marks both anew, for a database that is about to be made.
    func write() throws {
        var random = SystemRandomNumberGenerator()
        let id = (0..<4).map { _ in String(format: "%08x", UInt32.random(in: 0...UInt32.max, using: &random)) }.joined()
        do {
            try FileManager.default.createDirectory(
                atPath: (inFolder as NSString).deletingLastPathComponent, withIntermediateDirectories: true,
                attributes: [.posixPermissions: 0o700])
            for path in [atHome, inFolder] { try Data((id + "\n").utf8).write(to: URL(filePath: path), options: .atomic) }
        } catch {
            throw EmbeddedPostgresError("cannot mark \(inFolder) and \(atHome) as belonging together: \(error.localizedDescription)")
        }
    }

    /// Puts a database that is another folder's out of the way, where it stays. Answers where that is.
    func setAside(_ data: String) throws -> String {
        let base = data + "-of-" + (Self.read(atHome) ?? "an-earlier-folder").prefix(40)
        var place = base
        var number = 1
        while access(place, F_OK) == 0 {
            number += 1
            place = "\(base)-\(number)"
        }
        guard rename(data, place) == 0 else {
            throw EmbeddedPostgresError("cannot rename \(data) to \(place): \(String(cString: strerror(errno)))")
        }
        return place
    }
}
