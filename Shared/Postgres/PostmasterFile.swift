import Foundation
import Glibc

/// What `postmaster.pid` in a data directory says about the server that runs there.
struct PostmasterFile: Sendable, Equatable {
    enum Status: String, Sendable { case starting, ready, stopping, standby, unknown }

    let process: pid_t
    let port: Int
    let socketDirectory: String
    let status: Status

    /// The file's text: one thing a line, the process first and the status eighth.
    init?(_ text: String) {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false).map { $0.trimmingCharacters(in: .whitespaces) }
        guard let process = lines.first.flatMap({ pid_t($0) }) else { return nil }
        self.process = process
        port = lines.count > 3 ? Int(lines[3]) ?? 5432 : 5432
        socketDirectory = lines.count > 4 ? lines[4] : ""
        status = lines.count > 7 ? Status(rawValue: lines[7]) ?? .unknown : .starting
    }

    /// The file of a data directory, if a living server wrote it.
    static func ofRunningServer(in directory: String) -> PostmasterFile? {
        guard let data = FileManager.default.contents(atPath: directory + "/postmaster.pid"),
            let file = PostmasterFile(String(decoding: data, as: UTF8.self)), file.isAlive
        else { return nil }
        return file
    }

    /// Whether the process exists and is a PostgreSQL server: after a reboot the number may be anybody's.
    private var isAlive: Bool {
        guard kill(process, 0) == 0 || errno == EPERM else { return false }
        return Self.processName(process)?.hasPrefix("postgres") ?? false
    }

    /// Whether whoever started the server is gone. It was sent its parent-death signal then, and is about to stop.
    var isOrphaned: Bool {
        guard let status = FileManager.default.contents(atPath: "/proc/\(process)/status"),
            let parent = String(decoding: status, as: UTF8.self).firstMatch(of: /PPid:\s+(\d+)/)?.output.1
        else { return false }
        // In a container the program itself may be process 1.
        return parent == "1" && !(Self.processName(1)?.hasPrefix("foretaste") ?? false)
    }

    private static func processName(_ process: pid_t) -> String? {
        FileManager.default.contents(atPath: "/proc/\(process)/comm").map { String(decoding: $0, as: UTF8.self) }
    }
}
