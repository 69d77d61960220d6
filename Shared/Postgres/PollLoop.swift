import CSpawn
import Glibc
import Synchronization

/// What a wait on a descriptor ended with.
struct Readiness: OptionSet, Sendable {
    let rawValue: UInt8
    static let readable = Readiness(rawValue: 1)
    static let writable = Readiness(rawValue: 2)
    /// The deadline passed first.
    static let timedOut = Readiness(rawValue: 4)
    /// The waiting task was cancelled.
    static let cancelled = Readiness(rawValue: 8)
}

/// The one thread of a process that talks to PostgreSQL: an executor that sleeps in `poll(2)` over all connections and a wake
/// descriptor.
///
/// libpq may close or change a connection's descriptor inside any call, so none is registered for longer than one wait: whoever
/// waits hands in the descriptor of this moment. (A dispatch source keeps it, and one run in four misses the death of a backend.)
final class PollLoop: SerialExecutor, TaskExecutor {
    private struct Inbox {
        var jobs: [UnownedJob] = []
        var isSleeping = false
    }

    private struct Waiter {
        var identifier: UInt64
        var descriptor: CInt
        var events: Int16
        var deadline: UInt64?
        var continuation: CheckedContinuation<Readiness, Never>
    }

    private let inbox = Mutex(Inbox())
    private let wakeDescriptor: CInt
    private let wakingDescriptor: CInt
    nonisolated(unsafe) private var waiters: [Waiter] = []  // touched by the loop's own thread alone
    nonisolated(unsafe) private var lastIdentifier: UInt64 = 0  // touched by the loop's own thread alone

    init() {
        var ends: [CInt] = [-1, -1]
        precondition(pipe(&ends) == 0, "pipe: \(String(cString: strerror(errno)))")
        for end in ends {
            _ = fcntl(end, F_SETFD, FD_CLOEXEC)
            _ = fcntl(end, F_SETFL, O_NONBLOCK)
        }
        (wakeDescriptor, wakingDescriptor) = (ends[0], ends[1])
        var thread = pthread_t()
        let box = Unmanaged.passRetained(self)
        let status = pthread_create(
            &thread, nil,
            { argument in
                foretaste_name_thread("postgres")
                Unmanaged<PollLoop>.fromOpaque(argument!).takeRetainedValue().run()
            }, box.toOpaque())
        precondition(status == 0, "pthread_create: \(String(cString: strerror(status)))")
        pthread_detach(thread)
    }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        let mustWake = inbox.withLock { inbox in
            inbox.jobs.append(job)
            defer { inbox.isSleeping = false }
            return inbox.isSleeping
        }
        if mustWake {
            var byte: UInt8 = 1
            _ = write(wakingDescriptor, &byte, 1)
        }
    }

    /// A number for a wait, so that it can be cancelled before or after it began. Loop thread only.
    func nextIdentifier() -> UInt64 {
        lastIdentifier += 1
        return lastIdentifier
    }

    /// Notes who waits for what; loop thread only. A descriptor of -1 is a timer.
    func register(
        _ identifier: UInt64, descriptor: CInt, events: Int16, deadline: UInt64?, continuation: CheckedContinuation<Readiness, Never>
    ) {
        waiters.append(
            Waiter(identifier: identifier, descriptor: descriptor, events: events, deadline: deadline, continuation: continuation))
    }

    /// Ends a wait early; loop thread only.
    func cancel(_ identifier: UInt64) {
        guard let index = waiters.firstIndex(where: { $0.identifier == identifier }) else { return }
        waiters.remove(at: index).continuation.resume(returning: .cancelled)
    }

    private func run() -> Never {
        let executor = asUnownedSerialExecutor()
        let taskExecutor = asUnownedTaskExecutor()
        var jobs: [UnownedJob] = []
        while true {
            jobs.removeAll(keepingCapacity: true)
            inbox.withLock { inbox in
                swap(&jobs, &inbox.jobs)
                inbox.isSleeping = jobs.isEmpty
            }
            guard jobs.isEmpty else {
                for job in jobs { job.runSynchronously(isolatedTo: executor, taskExecutor: taskExecutor) }
                continue
            }
            sleep()
        }
    }

    private func sleep() {
        var descriptors = [pollfd(fd: wakeDescriptor, events: Int16(POLLIN), revents: 0)]
        var timeout: CInt = -1
        let now = Self.now
        for waiter in waiters {
            descriptors.append(pollfd(fd: waiter.descriptor, events: waiter.events, revents: 0))
            if let deadline = waiter.deadline {
                let left = deadline > now ? (deadline - now + 999_999) / 1_000_000 : 0
                timeout = min(timeout < 0 ? .max : timeout, CInt(clamping: left))
            }
        }
        poll(&descriptors, nfds_t(descriptors.count), timeout)
        inbox.withLock { $0.isSleeping = false }
        if descriptors[0].revents != 0 {
            // One byte a sleep: nobody writes again before the loop has looked at its inbox.
            var bytes: UInt64 = 0
            _ = read(wakeDescriptor, &bytes, 8)
        }
        let later = Self.now
        // Backwards, so that removing keeps the indices of what is still to be looked at.
        for index in waiters.indices.reversed() {
            let seen = descriptors[index + 1].revents
            var readiness: Readiness = []
            if seen & Int16(POLLIN | POLLERR | POLLHUP | POLLNVAL) != 0 { readiness.insert(.readable) }
            if seen & Int16(POLLOUT) != 0 { readiness.insert(.writable) }
            if readiness.isEmpty, let deadline = waiters[index].deadline, deadline <= later { readiness = .timedOut }
            if !readiness.isEmpty { waiters.remove(at: index).continuation.resume(returning: readiness) }
        }
    }

    /// Nanoseconds on the monotonic clock.
    static var now: UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
