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
        let span = begin(name, flops: flops())
        defer { span.end() }
        return try body()
    }

    /// Opens one call of the operation `name`; `defer { span.end() }` closes it where the scope ends.
    @inline(__always)
    public static func begin(_ name: StaticString, flops: @autoclosure () -> Double = 0) -> Span {
        isRecording ? Span(name, flops()) : Span()
    }

    /// A call that is being timed, or nothing while no profile is recording.
    public struct Span {
        private let name: StaticString
        private let flops: Double
        private let started: UInt
        /// What operations before this one took inside the same outer operation.
        private let outer: UInt

        @inline(__always)
        init() {
            name = ""
            flops = 0
            started = 0
            outer = 0
        }

        init(_ name: StaticString, _ flops: Double) {
            // The nanoseconds that operations inside this one take are summed under a thread's key.
            self.name = name
            self.flops = flops
            outer = UInt(bitPattern: pthread_getspecific(inner))
            pthread_setspecific(inner, nil)
            started = now()
        }

        /// Closes the call, on the thread that opened it.
        @inline(__always)
        public func end() { if started != 0 { close() } }

        private func close() {
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
    }

    private static func now() -> UInt {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt(time.tv_sec) * 1_000_000_000 + UInt(time.tv_nsec)
    }
}
