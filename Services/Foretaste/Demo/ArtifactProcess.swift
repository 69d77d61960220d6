import Foundation
import Postgres
import ServiceKit

/// The demo's artifact store: `foretaste artifacts serve` as a process of its own, over HTTP on a free port.
final class ArtifactProcess: Sendable {
    private let child: ChildProcess
    private let readyFile: String

    /// Starts the server over `root`.
    init(root: String, scratch: String, environment: ServiceEnvironment) async throws {
        try FileManager.default.createDirectory(atPath: scratch, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        readyFile = scratch + "/artifacts.ready"
        try? FileManager.default.removeItem(atPath: readyFile)
        child = try await ChildProcess.start(
            ChildProcess.Request(
                path: SupervisorOptions.ownFolder + "/foretaste",
                arguments: ["artifacts", "serve", "--root", root, "--listen", "127.0.0.1:0"],
                environment: environment.merging(["FORETASTE_ARTIFACTS_READY_FILE": readyFile, "FORETASTE_DATA": scratch]).variables))
    }

    private struct Ready: Decodable {
        var url: String
    }

    /// Where it listens, without a slash at the end.
    func url() async throws -> String {
        let deadline = Date().addingTimeInterval(30)
        while Date() < deadline {
            if let data = FileManager.default.contents(atPath: readyFile), let ready = try? JSONDecoder().decode(Ready.self, from: data) {
                return ready.url.hasSuffix("/") ? String(ready.url.dropLast()) : ready.url
            }
            guard child.isRunning else {
                throw CommandFailure(description: "the artifact server ended with status \(await child.exitStatus())")
            }
            try await Task.sleep(for: .milliseconds(20))
        }
        throw CommandFailure(description: "the artifact server did not start within 30 seconds")
    }

    /// Ends the server.
    func stop() async {
        child.signal(SIGTERM)
        if !(await child.ends(within: 10)) { child.signal(SIGKILL) }
    }
}
