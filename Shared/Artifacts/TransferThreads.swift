import CCurl
import Foundation

/// The threads that block: libcurl's transfers, hashing and copying run here and never on Swift's cooperative pool.
///
/// Their number bounds how many transfers a process has at a time, and another number how many of one host, so that a slow one leaves room for
/// others. Each keeps one libcurl handle, so that connections are reused.
final class TransferThreads: Sendable {
    /// The process's own threads.
    static let shared = TransferThreads(maximum: 12, maximumPerHost: 6)

    private struct Work {
        let host: String?
        let run: (Handle) -> Void
    }

    /// A libcurl handle of one thread.
    final class Handle {
        let curl: UnsafeMutableRawPointer

        init() {
            // Fails only without memory.
            curl = curl_easy_init()!
        }

        deinit { curl_easy_cleanup(curl) }
    }

    private final class State: @unchecked Sendable {  // `condition` guards every access
        let condition = NSCondition()
        var queue: [Work] = []
        var idle = 0
        var threads = 0
        /// How many transfers each host has now.
        var hosts: [String: Int] = [:]
    }

    private static let initialized: Bool = ccurl_global_init() == CURLE_OK

    private let maximum: Int
    private let maximumPerHost: Int
    private let state = State()

    init(maximum: Int, maximumPerHost: Int) {
        self.maximum = maximum
        self.maximumPerHost = maximumPerHost
        precondition(Self.initialized, "libcurl cannot be initialised")
    }

    /// Runs `body` on one of the threads and answers what it answers.
    /// - Parameter host: whose transfers it counts among; `nil` when it is none.
    func run<R: Sendable>(host: String? = nil, _ body: @escaping @Sendable (Handle) throws -> R) async throws -> R {
        try await withCheckedThrowingContinuation { continuation in
            enqueue(host: host) { handle in continuation.resume(with: Result { try body(handle) }) }
        }
    }

    /// Runs `body` on one of the threads, some time.
    func enqueue(host: String?, _ body: @escaping @Sendable (Handle) -> Void) {
        let work = Work(host: host, run: body)
        state.condition.lock()
        defer { state.condition.unlock() }
        state.queue.append(work)
        if state.idle >= state.queue.count || state.threads >= maximum {
            state.condition.signal()
        } else {
            state.threads += 1
            let (state, maximumPerHost) = (state, maximumPerHost)
            let thread = Thread { Self.loop(state, maximumPerHost) }
            thread.name = "artifacts"
            thread.start()
        }
    }

    private static func loop(_ state: State, _ maximumPerHost: Int) {
        let handle = Handle()
        state.condition.lock()
        while true {
            // What waits for its host is passed over; the thread that frees the host comes by here itself.
            guard
                let index = state.queue.firstIndex(where: { work in
                    work.host.map { state.hosts[$0, default: 0] < maximumPerHost } ?? true
                })
            else {
                state.idle += 1
                state.condition.wait()
                state.idle -= 1
                continue
            }
            let work = state.queue.remove(at: index)
            if let host = work.host { state.hosts[host, default: 0] += 1 }
            state.condition.unlock()
            work.run(handle)
            state.condition.lock()
            if let host = work.host { state.hosts[host] = state.hosts[host].flatMap { $0 > 1 ? $0 - 1 : nil } }
        }
    }
}
