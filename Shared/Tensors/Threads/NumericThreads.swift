import CKernels
import Glibc

/// The threads that numbers are computed on: a pool of pthreads for data-parallel loops, and separate threads for blocking work. Swift's
/// cooperative pool is never used, so that timers and heartbeats keep running beside a computation.
public enum NumericThreads {
    /// How many threads a loop may use, the calling one included; at first, the CPUs this process may run on. Results never depend on it.
    public static var count: Int {
        get { ck_thread_count() }
        set { ck_set_thread_count(newValue) }
    }

    /// True inside `parallelFor`: a further loop would run inline.
    public static var isInsideLoop: Bool { ck_inside_loop() != 0 }

    /// Calls `body` once for each index below `count`, on several threads, and returns when all calls have returned. Nested calls run
    /// inline on the thread they are made on. May be called from several threads at once.
    public static func parallelFor(_ count: Int, _ body: @Sendable (Int) -> Void) {
        BLAS.prepare()
        forEachIndex(count, body)
    }

    /// As `parallelFor`, collecting a result for each index, in order. Where calls throw, the error of the lowest index is thrown.
    public static func parallelMap<Result: Sendable, Failure: Error>(
        _ count: Int, _ body: @Sendable (Int) throws(Failure) -> Result
    ) throws(Failure) -> [Result] {
        BLAS.prepare()
        let results = UnsafeMutablePointer<Swift.Result<Result, Failure>?>.allocate(capacity: max(count, 1))
        results.initialize(repeating: nil, count: count)
        defer {
            results.deinitialize(count: count)
            results.deallocate()
        }
        forEachIndex(count) { index in
            do throws(Failure) { results[index] = .success(try body(index)) } catch { results[index] = .failure(error) }
        }
        var values: [Result] = []
        for index in 0..<count { values.append(try results[index]!.get()) }
        return values
    }

    /// Runs blocking numeric work on a thread of its own and suspends the caller until it is done. When the calling task is cancelled,
    /// `isCancelled` turns true on that thread; the work decides what to do about it.
    public static func run<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
        let flag = CancellationFlag()
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Result, any Error>) in
                let work = Work {
                    CancellationFlag.current = flag
                    continuation.resume(with: Swift.Result { try body() })
                }
                let context = Unmanaged.passRetained(work)
                let failure = ck_spawn(context.toOpaque()) { context, _ in Unmanaged<Work>.fromOpaque(context!).takeRetainedValue().body() }
                if failure != 0 {
                    context.release()
                    continuation.resume(throwing: NumericThreadsError.cannotStartThread(errno: failure))
                }
            }
        } onCancel: {
            flag.raise()
        }
    }

    /// Whether the task that called `run` for this thread has been cancelled.
    public static var isCancelled: Bool { CancellationFlag.current?.isRaised ?? false }

    /// Throws `CancellationError` when `isCancelled`.
    public static func checkCancellation() throws { if isCancelled { throw CancellationError() } }
}

public enum NumericThreadsError: Error, CustomStringConvertible {
    case cannotStartThread(errno: Int32)
    public var description: String {
        switch self {
        case .cannotStartThread(let errno): "a thread for numeric work could not be started: error \(errno)"
        }
    }
}

private final class Work: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}
