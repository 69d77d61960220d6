import Synchronization

/// A Swift task that runs one job of its lane after the other.
///
/// A task for each job would cost more than all else that a worker does with a short one. Before a runner begins a job it sees to it that,
/// while others wait, exactly one more runner is on its way. So handlers that never suspend share as few tasks as there are threads, and
/// while one suspends, the runner on its way goes on with the rest: as many run at a time as were claimed.
final class Runner: Sendable {
    private struct Inside {
        var task: Task<Void, Never>?
        var isCancelled = false
    }

    private let inside = Mutex(Inside())

    /// The task is there; whoever cancelled it before has been waiting for that.
    func begin(_ task: Task<Void, Never>) {
        let isCancelled = inside.withLock {
            $0.task = task
            return $0.isCancelled
        }
        if isCancelled { task.cancel() }
    }

    /// Cancels what it runs at this moment. Nothing undoes that for a task, so it takes no other job afterwards (``JobRun/finish(_:)``).
    func cancel() {
        let task = inside.withLock {
            $0.isCancelled = true
            return $0.task
        }
        task?.cancel()
    }
}

/// The runs of a lane that are claimed and not begun, in the order of their claims.
final class RunsToBegin: Sendable {
    private struct Inside {
        var runs: [JobRun?] = []
        var first = 0
        /// A runner has been started and has not taken a run yet.
        var isRunnerComing = false

        /// Whether a runner is to be started now.
        mutating func callsRunner() -> Bool {
            if isRunnerComing || first == runs.count { return false }
            isRunnerComing = true
            return true
        }
    }

    private let inside = Mutex(Inside())

    /// Answers whether a runner is to be started.
    func add(_ runs: [JobRun]) -> Bool {
        inside.withLock {
            for run in runs { $0.runs.append(run) }
            return $0.callsRunner()
        }
    }

    /// The next run, and whether another runner is to be started for those behind it.
    func take(isFirstOfRunner: Bool) -> (run: JobRun, callsRunner: Bool)? {
        inside.withLock {
            if isFirstOfRunner { $0.isRunnerComing = false }
            guard $0.first < $0.runs.count, let run = $0.runs[$0.first] else { return nil }
            $0.runs[$0.first] = nil
            $0.first += 1
            if $0.first == $0.runs.count {
                $0.runs.removeAll(keepingCapacity: true)
                $0.first = 0
            } else if $0.first == Lane.largestTurn * 4 {
                $0.runs.removeFirst($0.first)
                $0.first = 0
            }
            return (run, $0.callsRunner())
        }
    }
}
