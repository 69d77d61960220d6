import Glibc
import Synchronization

/// Where the time goes: while a profile is recording, every operation adds its calls, wall time and arithmetic under its name.
///
/// Off by default, when an operation pays one relaxed load for it. Operations are timed on the thread that calls them, the time of the
/// parallel loops inside included; an operation inside another's closure counts for itself alone, not for the outer one as well.
public enum Profile {
    /// What one kind of operation cost.
    public struct Entry: Sendable {
        public let name: String
        public var calls = 0
        /// Wall time of the calling threads, without that of operations inside.
        public var seconds = 0.0
        /// Floating-point operations of matrix products and convolutions; element-wise work is not counted.
        public var flops = 0.0
    }

    private static let recording = Atomic<Bool>(false)
    private static let entries = Mutex<[String: Entry]>([:])
    static let inner: pthread_key_t = {
        var key = pthread_key_t()
        pthread_key_create(&key, nil)
        return key
    }()

    public static var isRecording: Bool { recording.load(ordering: .relaxed) }

    /// Forgets what was recorded and starts.
    public static func start() {
        entries.withLock { $0 = [:] }
        recording.store(true, ordering: .relaxed)
    }

    /// Stops, and returns what was recorded, the costliest first.
    public static func stop() -> [Entry] {
        recording.store(false, ordering: .relaxed)
        return entries.withLock { $0.values.sorted { $0.seconds > $1.seconds } }
    }

    /// Runs `body` as one call of the operation `name`.
    @inline(__always)
    public static func measure<Result>(_ name: StaticString, flops: @autoclosure () -> Double = 0, _ body: () throws -> Result) rethrows
        -> Result
    {
        guard isRecording else { return try body() }
        return try record(name, flops(), body)
    }

    private static func record<Result>(_ name: StaticString, _ flops: Double, _ body: () throws -> Result) rethrows -> Result {
        // The nanoseconds that operations inside this one take, summed under a thread's key.
        let outer = UInt(bitPattern: pthread_getspecific(inner))
        pthread_setspecific(inner, nil)
        let started = now()
        defer {
            let spent = now() - started
            let nested = UInt(bitPattern: pthread_getspecific(inner))
            pthread_setspecific(inner, UnsafeRawPointer(bitPattern: outer + spent))
            let key = name.description
            entries.withLock { all in
                var entry = all[key] ?? Entry(name: key)
                entry.calls += 1
                entry.seconds += Double(spent - min(nested, spent)) * 1e-9
                entry.flops += flops
                all[key] = entry
            }
        }
        return try body()
    }

    private static func now() -> UInt {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt(time.tv_sec) * 1_000_000_000 + UInt(time.tv_nsec)
    }
}
