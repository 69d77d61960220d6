import Foundation
import Glibc
import Postgres
import Synchronization

/// Worker processes of a round: some are killed, some frozen, and new ones take their place.
actor Fleet {
    private let url: String
    private let flags: [String]
    private let program: String
    private var alive: [Int32: ChildProcess] = [:]
    private var frozen: Set<Int32> = []

    init(url: String, flags: [String] = [], program: String = Fleet.workerProgram) {
        self.url = url
        self.flags = flags
        self.program = program
    }

    /// The test worker beside the running program.
    static var workerProgram: String {
        URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent().path + "/JobQueueTestWorker"
    }

    /// Replaces whoever died, so that this many work.
    func ensure(_ count: Int) async throws {
        for (pid, child) in alive where !child.isRunning {
            alive[pid] = nil
            frozen.remove(pid)
        }
        while alive.count - frozen.count < count { try await start() }
    }

    @discardableResult
    func start(_ more: [String] = []) async throws -> Int32 {
        let child = try await ChildProcess.start(
            .init(path: program, arguments: ["chaos", url] + flags + more, environment: ["PATH": "/usr/bin:/bin"]))
        alive[child.identifier] = child
        return child.identifier
    }

    var frozenCount: Int { frozen.count }
    var workers: [Int32] { alive.filter { $0.value.isRunning && !frozen.contains($0.key) }.map(\.key).sorted() }

    func signal(_ pid: Int32, _ number: CInt) { alive[pid]?.signal(number) }

    /// Stops a process now and lets it go on after so many seconds.
    func freeze(_ pid: Int32, seconds: Double) {
        guard let child = alive[pid], !frozen.contains(pid) else { return }
        child.signal(SIGSTOP)
        frozen.insert(pid)
        Task {
            try? await Task.sleep(for: .seconds(seconds))
            thaw(pid)
        }
    }

    private func thaw(_ pid: Int32) {
        alive[pid]?.signal(SIGCONT)
        frozen.remove(pid)
    }

    func thawAll() { for pid in frozen { thaw(pid) } }

    /// The end of the round.
    func stop() async {
        thawAll()
        for child in alive.values { child.signal(SIGTERM) }
        for child in alive.values where await !child.ends(within: 5) { child.signal(SIGKILL) }
        for child in alive.values { _ = await child.exitStatus() }
        alive = [:]
    }

    func killAll() async {
        for child in alive.values { child.signal(SIGKILL) }
        for child in alive.values { _ = await child.exitStatus() }
        alive = [:]
        frozen = []
    }
}
