import CCurl
import Foundation

/// The threads that block: libcurl's transfers, hashing and copying run here and never on Swift's cooperative pool.
///
/// Their number bounds how many transfers a process has at a time. Each keeps one libcurl handle, so that connections are reused.
final class TransferThreads: Sendable {
    /// The process's own threads.
    static let shared = TransferThreads(maximum: 8)

    private struct Work {
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
    }

    private static let initialized: Bool = ccurl_global_init() == CURLE_OK

    private let maximum: Int
    private let state = State()

    init(maximum: Int) {
        self.maximum = maximum
        precondition(Self.initialized, "libcurl cannot be initialised")
    }

    /// Runs `body` on one of the threads and answers what it answers.
    func run<R: Sendable>(_ body: @escaping @Sendable (Handle) throws -> R) async throws -> R {
        try await withCheckedThrowingContinuation { continuation in
            enqueue(Work { handle in continuation.resume(with: Result { try body(handle) }) })
        }
    }

    private func enqueue(_ work: Work) {
        state.condition.lock()
        defer { state.condition.unlock() }
        state.queue.append(work)
        if state.idle >= state.queue.count || state.threads >= maximum {
            state.condition.signal()
        } else {
            state.threads += 1
            let state = state
            let thread = Thread { Self.loop(state) }
            thread.name = "artifacts"
            thread.start()
        }
    }

    private static func loop(_ state: State) {
        let handle = Handle()
        state.condition.lock()
        while true {
            while state.queue.isEmpty {
                state.idle += 1
                state.condition.wait()
                state.idle -= 1
            }
            let work = state.queue.removeFirst()
            state.condition.unlock()
            work.run(handle)
            state.condition.lock()
        }
    }
}
