import Foundation
import Logging
import Postgres
import ServiceKit

/// A service that `foretaste` runs as a process of its own.
struct ServiceProgram: Sendable, Hashable {
    /// The name in the ready file and in `FORETASTE_<NAME>_LISTEN`.
    let name: String
    /// The executable, beside our own.
    let executable: String

    /// Every service.
    static let all = [
        ServiceProgram(name: "ingest", executable: "foretaste-ingest"),
        ServiceProgram(name: "reward-trainer", executable: "foretaste-reward-trainer"),
        ServiceProgram(name: "scorer", executable: "foretaste-latent-scorer"),
        ServiceProgram(name: "generator-tuner", executable: "foretaste-generator-tuner"),
    ]
}

/// Keeps one service alive: starts it, learns its address, starts it again at the same address when it died.
actor SupervisedService {
    nonisolated let program: ServiceProgram
    private let path: String
    private let environment: Environment
    private let output: ServiceOutput
    private let readyFile: String
    private let logger: Logger
    private let changed: @Sendable () async -> Void
    private var listen: String
    private var child: ChildProcess?
    private var task: Task<Void, Never>?
    private var isStopping = false
    private var starts = 0
    private var lastFailure: String?
    /// Where the service listens, once it has said so.
    private(set) var url: String?

    /// - Parameters:
    ///   - folder: the folder of the executable.
    ///   - environment: what the service finds in its environment, the database's URL included.
    ///   - scratch: a folder for the file in which the service reports its address.
    ///   - changed: called when the service has a new process.
    init(
        _ program: ServiceProgram, folder: String, environment: Environment, scratch: String, output: ServiceOutput, logger: Logger,
        changed: @escaping @Sendable () async -> Void
    ) {
        self.program = program
        path = folder + "/" + program.executable
        self.environment = environment
        self.output = output
        self.logger = logger
        self.changed = changed
        readyFile = "\(scratch)/\(program.name).ready.json"
        listen = environment.string(ServiceConfiguration.prefix(service: program.name) + "LISTEN") ?? "127.0.0.1:0"
    }

    /// The service's process now; 0 between two lives.
    var process: Int32 { child.map { $0.isRunning ? $0.identifier : 0 } ?? 0 }

    /// Starts it and keeps it alive from now on.
    func start() {
        guard task == nil else { return }
        task = Task { await self.keepAlive() }
    }

    /// Waits until the service has said where it listens and answers `/readyz` with 200. Throws when it cannot be started at all.
    func waitUntilReady(within seconds: Double) async throws {
        let clock = ContinuousClock()
        let deadline = clock.now + .seconds(seconds)
        var http = HTTPClient()
        http.timeoutSeconds = 3
        var last = "did not say where it listens"
        while true {
            try Task.checkCancellation()
            if let url, process != 0 {
                do {
                    let answer = try await http.get(url + "/readyz")
                    if answer.status == 200 { return }
                    last = "answers \(answer.status): \(String(decoding: answer.body.prefix(300), as: UTF8.self))"
                } catch {
                    last = "\(error)"
                }
            }
            // A first start that fails again and again has a reason that waiting does not cure.
            if let lastFailure, url == nil, starts >= 4 { throw CommandFailure(description: "\(program.executable) \(lastFailure)") }
            guard clock.now < deadline else {
                throw CommandFailure(description: "\(program.executable) is not ready after \(Int(seconds)) s: \(last)")
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    /// Asks it to end; ``end(within:)`` waits for it.
    func terminate() {
        isStopping = true
        task?.cancel()
        child?.signal(SIGTERM)
    }

    /// Waits until the process has ended, and kills it when that takes too long.
    func end(within seconds: Double) async {
        if let child, await !child.ends(within: seconds) {
            logger.warning("service does not stop; killing it", metadata: ["service": "\(program.name)"])
            child.signal(SIGKILL)
            _ = await child.exitStatus()
        }
        await task?.value
        unlink(readyFile)
    }

    private func keepAlive() async {
        let clock = ContinuousClock()
        var policy = RestartPolicy()
        while !isStopping {
            let began = clock.now
            do {
                let status = try await live()
                lastFailure = "ended with status \(status)"
            } catch {
                lastFailure = "\(error)"
            }
            guard !isStopping else { return }
            let pause = policy.pause(afterLiving: (clock.now - began) / .seconds(1))
            logger.warning(
                "service ended; starting it again",
                metadata: ["service": "\(program.name)", "how": "\(lastFailure ?? "")", "pause_s": "\(pause)"])
            try? await Task.sleep(for: .seconds(pause))
        }
    }

    /// One life, from start to exit status.
    private func live() async throws -> Int32 {
        unlink(readyFile)
        let prefix = ServiceConfiguration.prefix(service: program.name)
        var request = ChildProcess.Request(
            path: path, environment: environment.merging([prefix + "LISTEN": listen, prefix + "READY_FILE": readyFile]).variables)
        let descriptor = try output.descriptor(service: program.name)
        request.standardOutput = descriptor
        request.standardError = descriptor
        starts += 1
        let child: ChildProcess
        do {
            child = try await ChildProcess.start(request)
            close(descriptor)
        } catch {
            close(descriptor)
            throw error
        }
        self.child = child
        // It was told to end while it was being started.
        if isStopping { child.signal(SIGTERM) }
        while child.isRunning, !isStopping {
            if let address = reportedAddress(of: child.identifier) {
                url = address
                fixPort(address)
                await changed()
                break
            }
            try? await Task.sleep(for: .milliseconds(10))
        }
        return await child.exitStatus()
    }

    private struct Report: Decodable {
        var url: String
        var pid: Int32
    }

    private func reportedAddress(of process: Int32) -> String? {
        guard let data = FileManager.default.contents(atPath: readyFile), let report = try? JSONDecoder().decode(Report.self, from: data),
            report.pid == process
        else { return nil }
        return report.url.hasSuffix("/") ? String(report.url.dropLast()) : report.url
    }

    /// Later lives listen where the first one did; the host stays as it was asked for.
    private func fixPort(_ address: String) {
        guard let port = URL(string: address)?.port, let colon = listen.lastIndex(of: ":") else { return }
        listen = listen[..<colon] + ":\(port)"
    }
}
