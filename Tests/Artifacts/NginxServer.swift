import Foundation
import NetworkTesting

@testable import Artifacts

/// A real nginx with a folder and a configuration of its own, on a free port of loopback, as the user that runs the tests. It ends with this
/// object, or with this process, whose end closes its standard input.
final class NginxServer {
    let port: Int
    let folder: TemporaryFolder
    var url: String { "http://127.0.0.1:\(port)" }
    private var process: Process
    private var input: Pipe

    /// One line of the access log: what was asked for and what was answered.
    struct Line: Equatable {
        let path: String
        let status: Int
        let range: String?
        let ifRange: String?
        let sent: Int
    }

    /// - Parameter locations: `location … { … }` blocks; what they don't cover is a file below `folder`'s `files`.
    /// - Parameter http: directives of the `http` block.
    init(locations: String = "", http: String = "") throws {
        let folder = try TemporaryFolder()
        self.folder = folder
        for name in ["files", "temporary"] {
            try FileManager.default.createDirectory(atPath: "\(folder.path)/\(name)", withIntermediateDirectories: true)
        }
        // Workers of a root nginx would be somebody who may not enter the folder.
        let user = geteuid() == 0 ? "user root;" : ""
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map { "\($0)_temp_path \(folder.path)/temporary/\($0);" }.joined(separator: " ")
        var last: any Error = Failure(words: "no port was tried")
        for _ in 0..<5 {
            // Between the look and nginx's own bind somebody else may take the port: then another.
            let (reserved, port) = try Loopback.reserve()
            close(reserved)
            let configuration = """
                \(user) worker_processes 2; pid \(folder.path)/pid; error_log \(folder.path)/error.log;
                events { worker_connections 256; }
                http {
                  \(temporary)
                  log_format line '$request_uri $status "$http_range" "$http_if_range" $body_bytes_sent';
                  access_log \(folder.path)/access.log line;
                  default_type application/octet-stream; sendfile off; keepalive_timeout 5;
                  \(http)
                  server { listen 127.0.0.1:\(port); root \(folder.path)/files; \(locations) }
                }
                """
            try Data(configuration.utf8).write(to: URL(filePath: "\(folder.path)/nginx.conf"))
            do {
                (process, input) = try Self.start(folder.path, port)
                self.port = port
                return
            } catch { last = error }
        }
        throw last
    }

    deinit { stop() }

    /// Ends it as a crash does, transfers in the middle.
    func kill() { stop() }

    /// Starts it again, on the same port.
    /// - Parameter directive: one that it does not have any more.
    func restart(without directive: String? = nil) throws {
        if let directive {
            let file = URL(filePath: folder.path + "/nginx.conf")
            let configuration = try String(contentsOf: file, encoding: .utf8)
            try Data(configuration.replacing(directive, with: "").utf8).write(to: file)
        }
        (process, input) = try Self.start(folder.path, port)
    }

    private func stop() {
        if let master = Self.master(folder.path) {
            for one in [master] + Self.children(master) { Foundation.kill(one, SIGKILL) }
        }
        try? input.fileHandleForWriting.close()
        while process.isRunning { Thread.sleep(forTimeInterval: 0.002) }
    }

    func write(_ name: String, _ bytes: [UInt8]) throws { try folder.write("files/" + name, bytes) }

    /// The requests that have been answered. nginx writes a line when a request ends.
    var log: [Line] {
        let text = (try? String(contentsOfFile: folder.path + "/access.log", encoding: .utf8)) ?? ""
        return text.split(separator: "\n").map { line in
            let quoted = line.split(separator: "\"", omittingEmptySubsequences: false).map(String.init)
            let first = quoted[0].split(separator: " ")
            func value(_ text: String) -> String? { text == "-" ? nil : text.replacing("\\x22", with: "\"") }
            return Line(
                path: String(first[0]), status: Int(first[1]) ?? 0, range: value(quoted[1]), ifRange: value(quoted[3]),
                sent: Int(quoted[4].trimmingCharacters(in: .whitespaces)) ?? -1)
        }
    }

    /// The log once it has so many lines: nginx writes one after the answer has gone, which may be later than we have it.
    func log(atLeast count: Int) async throws -> [Line] {
        try await until { log.count >= count }
        return log
    }

    private static func start(_ folder: String, _ port: Int) throws -> (Process, Pipe) {
        unlink(folder + "/pid")
        let process = Process()
        let input = Pipe()
        process.executableURL = URL(filePath: "/bin/sh")
        process.arguments = [
            "-c",
            """
            PATH="$PATH:/usr/sbin"; exec 3<&0
            nginx -p "$1" -e "$1/error.log" -c "$1/nginx.conf" -g 'daemon off;' </dev/null 2>>"$1/error.log" & pid=$!
            (cat <&3 >/dev/null; kill "$pid" 2>/dev/null) & watch=$!
            wait "$pid"; kill "$watch" 2>/dev/null
            """, "nginx", folder,
        ]
        process.standardInput = input
        // Dispatch's threads block signals, and a child inherits that: a shell that never hears of its child's end waits for ever.
        var (none, before) = (sigset_t(), sigset_t())
        sigemptyset(&none)
        pthread_sigmask(SIG_SETMASK, &none, &before)
        defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
        try process.run()
        for _ in 0..<1000 {
            if master(folder) != nil, let connection = try? Loopback.connect(to: port) {
                close(connection)
                return (process, input)
            }
            guard process.isRunning else { break }
            Thread.sleep(forTimeInterval: 0.01)
        }
        if let master = master(folder) { Foundation.kill(master, SIGKILL) }
        process.terminate()
        throw Failure(words: (try? String(contentsOfFile: folder + "/error.log", encoding: .utf8)) ?? "it said nothing")
    }

    struct Failure: Error, CustomStringConvertible {
        let words: String
        var description: String { "nginx did not start (package nginx-light, scripts/install-system-packages): \(words)" }
    }

    /// nginx writes it when it listens.
    private static func master(_ folder: String) -> pid_t? {
        (try? String(contentsOfFile: folder + "/pid", encoding: .utf8)).flatMap { pid_t($0.trimmingCharacters(in: .newlines)) }
    }

    private static func children(_ pid: pid_t) -> [pid_t] {
        let text = (try? String(contentsOfFile: "/proc/\(pid)/task/\(pid)/children", encoding: .utf8)) ?? ""
        return text.split(separator: " ").compactMap { pid_t($0) }
    }
}
