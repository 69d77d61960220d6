import CFiles
import Foundation

/// Opens files below a folder without leaving it. No symbolic link below it is followed, and a folder that becomes one meanwhile leads nowhere.
public enum FileRoot {
    /// How a path is followed.
    enum Way: CaseIterable {
        /// By the kernel, in one step (`openat2`, Linux 5.6).
        case kernel
        /// Each component opened relative to the one before.
        case walk
    }

    /// The components of a URL's path, percent-encodings and dot segments resolved; throws when it is ambiguous or climbs out.
    public static func components(ofURLPath path: String) throws(ArtifactError) -> [String] {
        try ArtifactURL("http://localhost" + path).decodedSegments
    }

    /// An open descriptor of the regular file at `components` below `root`; the caller closes it. The root's own path may hold links, because
    /// the operator wrote it.
    public static func open(root: String, components: [String], url: String) throws(ArtifactError) -> (descriptor: Int32, bytes: Int) {
        try open(root: root, components: components, url: url, ways: Way.allCases)
    }

    /// - Parameter ways: those that are tried, one after the other, as far as the system knows them.
    static func open(
        root: String, components: [String], url: String, ways: [Way]
    ) throws(ArtifactError) -> (descriptor: Int32, bytes: Int) {
        for component in components where ["", ".", ".."].contains(component) || component.utf8.contains(where: { $0 == 0 || $0 == 0x2f }) {
            throw .forbidden(url: url, reason: "a part of its path is no plain name")
        }
        let folder = Foundation.open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { throw .notFound(url: url, status: 404) }
        defer { close(folder) }
        var file: Int32 = -1
        var code = ENOSYS
        for way in ways where isUnavailable(code) {
            file =
                switch way {
                case .kernel: foretaste_open_beneath(folder, components.joined(separator: "/"))
                case .walk: walk(folder, components)
                }
            code = file < 0 ? errno : 0
        }
        guard file >= 0 else { throw refusal(code, url) }
        var status = stat()
        guard fstat(file, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            close(file)
            throw .forbidden(url: url, reason: "it is no regular file")
        }
        return (file, Int(status.st_size))
    }

    /// It does not say anything about the path: an older kernel, a container's filter of system calls, a path that is too long for one call,
    /// or a mount that moved just then.
    private static func isUnavailable(_ code: Int32) -> Bool { [ENOSYS, EPERM, ENAMETOOLONG, EAGAIN].contains(code) }

    /// Answers the file's descriptor, or -1 with `errno`.
    private static func walk(_ root: Int32, _ components: [String]) -> Int32 {
        var folder = root
        for component in components.dropLast() {
            let next = openat(folder, component, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
            let code = errno
            if folder != root { close(folder) }
            guard next >= 0 else {
                errno = code
                return -1
            }
            folder = next
        }
        // Not blocking, because opening a FIFO would wait for its writer.
        let file = openat(folder, components.last ?? "", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
        let code = errno
        if folder != root { close(folder) }
        errno = code
        return file
    }

    private static func refusal(_ code: Int32, _ url: String) -> ArtifactError {
        switch code {
        case ENOENT, ENAMETOOLONG: .notFound(url: url, status: 404)
        case ELOOP, ENOTDIR, EXDEV: .forbidden(url: url, reason: "its path goes through a symbolic link, or through what is no folder")
        case ENXIO: .forbidden(url: url, reason: "it is no regular file")
        case EACCES: .forbidden(url: url, reason: "this process may not read it")
        default: .storage(path: url, reason: systemReason(code))
        }
    }
}
