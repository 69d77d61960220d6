import Foundation
import Glibc

/// Where a private server keeps its data and its socket, and as whom it runs.
///
/// PostgreSQL refuses to run as root, and the user it drops to cannot enter `/root` or a closed checkout. So as root both live outside
/// the folder given, under names made from it; as anybody else the data lies in that folder.
struct EmbeddedPlaces: Sendable, Equatable {
    /// PostgreSQL's data directory.
    let data: String
    /// The folder of the socket; a socket's path has 107 bytes at most.
    let socket: String
    /// The folder that holds the data directory, the logs and the lock.
    let home: String
    /// The user to drop to, when we are root.
    let user: EmbeddedUser?

    init(folder: String) throws {
        let folder = Self.canonical(folder)
        let name = Self.hash(folder)
        if getuid() == 0 {
            user = try EmbeddedUser.unprivileged()
            home = "/var/lib/foretaste/\(name)"
            socket = "/run/foretaste/\(name)"
        } else {
            user = nil
            home = folder + "/postgres"
            let runtime = "/run/user/\(getuid())"
            socket =
                access(runtime, W_OK | X_OK) == 0 ? "\(runtime)/foretaste-\(name)" : "/tmp/foretaste-\(getuid())-\(name)"
        }
        data = home + "/data"
    }

    /// Makes the folders, closed to everybody else: whoever reaches the socket is the database's owner.
    func prepare() throws {
        if user != nil {
            for shared in ["/var/lib/foretaste", "/run/foretaste"] { try Self.makeFolder(shared, mode: 0o711, owner: (0, 0)) }
        } else {
            try FileManager.default.createDirectory(
                atPath: (home as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
        }
        let owner = user.map { ($0.identifier, $0.group) } ?? (getuid(), getgid())
        try Self.makeFolder(home, mode: 0o700, owner: owner)
        try Self.makeFolder(socket, mode: 0o700, owner: owner)
    }

    private static func makeFolder(_ path: String, mode: mode_t, owner: (uid_t, gid_t)) throws {
        if mkdir(path, mode) != 0, errno != EEXIST {
            throw EmbeddedPostgresError("cannot make \(path): \(String(cString: strerror(errno)))")
        }
        var information = stat()
        // Not through a link: in /tmp a stranger may have been here first.
        guard lstat(path, &information) == 0, information.st_mode & S_IFMT == S_IFDIR else {
            throw EmbeddedPostgresError("\(path) is in the way: not a folder")
        }
        if information.st_uid != owner.0 {
            guard getuid() == 0, chown(path, owner.0, owner.1) == 0 else {
                throw EmbeddedPostgresError("\(path) belongs to somebody else (user \(information.st_uid))")
            }
        }
        guard chmod(path, mode) == 0 else { throw EmbeddedPostgresError("cannot chmod \(path): \(String(cString: strerror(errno)))") }
    }

    /// The path with links resolved as far as it exists, so that one folder has one server under any name.
    private static func canonical(_ path: String) -> String {
        var existing = URL(fileURLWithPath: path).standardizedFileURL.path
        var rest: [String] = []
        while true {
            if let resolved = realpath(existing, nil) {
                defer { free(resolved) }
                return ([String(cString: resolved)] + rest.reversed()).joined(separator: "/").replacing("//", with: "/")
            }
            guard existing != "/" else { return path }
            rest.append((existing as NSString).lastPathComponent)
            existing = (existing as NSString).deletingLastPathComponent
        }
    }

    /// 64 bits of FNV-1a in hexadecimal.
    private static func hash(_ text: String) -> String {
        let value = text.utf8.reduce(14_695_981_039_346_656_037 as UInt64) { ($0 ^ UInt64($1)) &* 1_099_511_628_211 }
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}

/// An account of the machine.
struct EmbeddedUser: Sendable, Equatable {
    let name: String
    let identifier: uid_t
    let group: gid_t

    /// `postgres`, or `nobody`.
    static func unprivileged() throws -> EmbeddedUser {
        for name in ["postgres", "nobody"] {
            var entry = passwd()
            var buffer = [CChar](repeating: 0, count: 16384)
            var found: UnsafeMutablePointer<passwd>?
            if getpwnam_r(name, &entry, &buffer, buffer.count, &found) == 0, found != nil {
                return EmbeddedUser(name: name, identifier: entry.pw_uid, group: entry.pw_gid)
            }
        }
        throw EmbeddedPostgresError("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
    }
}
