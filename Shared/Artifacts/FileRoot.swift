import Foundation

/// Opens files below a folder without leaving it: each component is opened relative to the one before, and symbolic links are refused.
public enum FileRoot {
    /// The components of a URL's path, percent-encodings and dot segments resolved; throws when it is ambiguous or climbs out.
    public static func components(ofURLPath path: String) throws(ArtifactError) -> [String] {
        try ArtifactURL("http://localhost" + path).decodedSegments
    }

    /// An open descriptor of the regular file at `components` below `root`; the caller closes it. The root's own path may hold links, because
    /// the operator wrote it.
    public static func open(root: String, components: [String], url: String) throws(ArtifactError) -> (descriptor: Int32, bytes: Int) {
        var folder = Foundation.open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { throw .notFound(url: url, status: 404) }
        defer { close(folder) }
        for component in components.dropLast() {
            let next = openat(folder, component, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
            guard next >= 0 else { throw refusal(errno, url) }
            close(folder)
            folder = next
        }
        // Not blocking, because opening a FIFO would wait for its writer.
        let file = openat(folder, components.last ?? "", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
        guard file >= 0 else { throw refusal(errno, url) }
        var status = stat()
        guard fstat(file, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            close(file)
            throw .forbidden(url: url, reason: "it is no regular file")
        }
        return (file, Int(status.st_size))
    }

    private static func refusal(_ code: Int32, _ url: String) -> ArtifactError {
        switch code {
        case ENOENT: .notFound(url: url, status: 404)
        case ELOOP, ENOTDIR: .forbidden(url: url, reason: "its path goes through a symbolic link, or through what is no folder")
        case ENXIO: .forbidden(url: url, reason: "it is no regular file")
        case EACCES: .forbidden(url: url, reason: "this process may not read it")
        default: .storage(path: url, reason: systemReason(code))
        }
    }
}
