import Foundation

/// Fetched artifacts by digest: `blobs/<sha256>`, and `parts/` with what is not complete. Any file in it may be deleted at any time.
struct ArtifactCache: Sendable {
    let folder: String
    var blobs: String { folder + "/blobs" }
    var parts: String { folder + "/parts" }

    /// Makes the folders, and the tag that keeps backup programs out (https://bford.info/cachedir/).
    func prepare() throws(ArtifactError) {
        for path in [blobs, parts] {
            do {
                try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            } catch {
                throw .storage(path: path, reason: "the cache's folder cannot be made: \(error.localizedDescription)")
            }
        }
        let tag = folder + "/CACHEDIR.TAG"
        guard access(tag, F_OK) != 0 else { return }
        let text = "Signature: 8a477f597d28d172789f06886806bc55\n# Artifacts fetched by foretaste; safe to delete.\n"
        guard FileManager.default.createFile(atPath: tag, contents: Data(text.utf8)) else {
            throw .storage(path: tag, reason: systemReason())
        }
    }

    func path(_ sha256: String) -> String { blobs + "/" + sha256 }

    /// The cached file's size after its digest was verified; `nil` when there is none. A damaged file is deleted.
    func verified(_ sha256: String) -> Int? {
        guard let found = try? SHA256.digest(ofFile: path(sha256)) else { return nil }
        guard found.hex == sha256 else {
            unlink(path(sha256))
            return nil
        }
        return found.bytes
    }

    /// Moves a complete part to its place, at once.
    func adopt(part: String, sha256: String) throws(ArtifactError) -> String {
        let destination = path(sha256)
        chmod(part, 0o444)
        guard rename(part, destination) == 0 else { throw .storage(path: destination, reason: systemReason()) }
        unlink(part + ".etag")
        return destination
    }
}
