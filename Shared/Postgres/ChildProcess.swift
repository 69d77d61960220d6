import CSpawn
import Foundation
import Glibc
import Synchronization

/// A program that this process started, which dies with it.
///
/// The kernel sends a child its parent-death signal when the *thread* that forked it ends, so every child is forked by one thread
/// that lives as long as the process.
public final class ChildProcess: Sendable {
    /// What to start and how.
    public struct Request: Sendable {
        /// The program; not searched for.
        public var path: String
        /// Its arguments without its own name.
        public var arguments: [String]
        /// Its whole environment.
        public var environment: [String: String]
        /// Where it starts; nil to stay.
        public var directory: String?
        /// File descriptors for standard output and error; -1 is `/dev/null`.
        public var standardOutput: CInt = -1
        /// See ``standardOutput``.
        public var standardError: CInt = -1
        /// The user and group to become, which takes root.
        public var user: (identifier: UInt32, group: UInt32)?
        /// What the child gets when this process dies.
        public var deathSignal: CInt = SIGTERM
        /// Whether it gets a session of its own, so that a terminal's Ctrl-C does not reach it.
        public var ownSession = true

        /// A program with its arguments and its whole environment.
        public init(path: String, arguments: [String] = [], environment: [String: String] = [:], directory: String? = nil) {
            self.path = path
            self.arguments = arguments
            self.environment = environment
            self.directory = directory
        }
    }

    private struct State {
        var status: Int32?
        var waiters: [CheckedContinuation<Int32, Never>] = []
    }

    /// The process's number, a `pid_t`.
    public let identifier: Int32
    private let state = Mutex(State())

    private init(identifier: Int32) { self.identifier = identifier }

    /// Starts a program; throws ``ChildProcessError`` when it could not be executed.
    public static func start(_ request: Request) async throws -> ChildProcess {
        try await withCheckedThrowingContinuation { continuation in
            SpawningThread.shared.run { continuation.resume(with: Result { try fork(request) }) }
        }
    }

    /// The exit status once it has ended; 128 + number for a signal. Any number of tasks may wait.
    public func exitStatus() async -> Int32 {
        await withCheckedContinuation { continuation in
            let status = state.withLock { state in
                if state.status == nil { state.waiters.append(continuation) }
                return state.status
            }
            if let status { continuation.resume(returning: status) }
        }
    }

    /// Whether it has not ended.
    public var isRunning: Bool { state.withLock { $0.status == nil } }

    /// Sends a signal, unless the process has ended: its number may be somebody else's by then.
    public func signal(_ number: CInt) {
        state.withLock { state in
            if state.status == nil { kill(identifier, number) }
        }
    }

    /// Waits at most `seconds` for the end, on a clock that busy cooperative threads do not stop.
    public func ends(within seconds: Double) async -> Bool {
        let deadline = PollLoop.now + UInt64(seconds * 1e9)
        while isRunning {
            guard PollLoop.now < deadline else { return false }
            try? await PostgresActor.sleep(seconds: 0.01)
            if Task.isCancelled { await Self.pause() }
        }
        return true
    }

    /// A cancelled task's sleeps return at once; this one does not.
    private static func pause() async { _ = await PostgresActor.wait(-1, 0, seconds: 0.01) }

    private static func fork(_ request: Request) throws -> ChildProcess {
        let arguments = ([request.path] + request.arguments).map { strdup($0) } + [nil]
        let environment = request.environment.map { strdup("\($0.key)=\($0.value)") } + [nil]
        let path = strdup(request.path)
        let directory = request.directory.map { strdup($0) } ?? nil
        defer {
            for string in arguments + environment + [path, directory] { free(string) }
        }
        var step: UnsafePointer<CChar>?
        let identifier = arguments.withUnsafeBufferPointer { arguments in
            environment.withUnsafeBufferPointer { environment in
                var raw = foretaste_spawn()
                raw.path = UnsafePointer(path)
                raw.arguments = arguments.baseAddress
                raw.environment = environment.baseAddress
                raw.directory = UnsafePointer(directory)
                raw.standard_input = -1
                raw.standard_output = request.standardOutput
                raw.standard_error = request.standardError
                raw.changes_user = request.user == nil ? 0 : 1
                raw.user = request.user?.identifier ?? 0
                raw.group = request.user?.group ?? 0
                raw.death_signal = request.deathSignal
                raw.new_session = request.ownSession ? 1 : 0
                return foretaste_spawn(&raw, &step)
            }
        }
        guard identifier > 0 else {
            throw ChildProcessError(
                program: request.path, step: step.map { String(cString: $0) } ?? "fork", reason: String(cString: strerror(errno)))
        }
        let child = ChildProcess(identifier: identifier)
        detachThread("wait \(identifier)") { child.reap() }
        return child
    }

    private func reap() {
        // The end is noticed first and the process reaped under the lock, so that no signal goes to a number that is free again.
        var information = siginfo_t()
        while waitid(P_PID, id_t(identifier), &information, WEXITED | CInt(WNOWAIT)) != 0, errno == EINTR {}
        let (status, waiters) = state.withLock { state in
            var raw: CInt = 0
            while waitpid(identifier, &raw, 0) < 0, errno == EINTR {}
            let status = foretaste_exit_status(raw)
            state.status = status
            defer { state.waiters = [] }
            return (status, state.waiters)
        }
        for waiter in waiters { waiter.resume(returning: status) }
    }
}

/// A program that could not be started.
public struct ChildProcessError: Error, Sendable, CustomStringConvertible {
    /// The program's path.
    public let program: String
    /// The system call that failed.
    public let step: String
    /// Its error.
    public let reason: String

    /// All of it, on one line.
    public var description: String { "cannot start \(program): \(step): \(reason)" }
}

/// The thread that forks.
private final class SpawningThread: @unchecked Sendable {  // `work` is touched under `condition` alone
    static let shared = SpawningThread()
    private let condition = NSCondition()
    private var work: [@Sendable () -> Void] = []

    private init() {
        detachThread("spawn") { [self] in
            while true {
                condition.lock()
                while work.isEmpty { condition.wait() }
                let next = work.removeFirst()
                condition.unlock()
                next()
            }
        }
    }

    func run(_ body: @escaping @Sendable () -> Void) {
        condition.lock()
        work.append(body)
        condition.signal()
        condition.unlock()
    }
}
