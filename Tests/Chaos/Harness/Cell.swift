import SeededRandom

/// Where in a job's life a fault strikes: the columns of the crash matrix.
public enum Point: Int, CaseIterable, Sendable {
    case beforeClaimCommit = 1
    case claimedNotStarted
    case midHandler
    case betweenCheckpoints
    case checkpointPublish
    case effectBeforeCommit
    case commitReplyLost
    case duringRescue
    case scheduleTick
    case fanIn
    case pruneOrVacuum

    /// The column's head.
    public var title: String {
        switch self {
        case .beforeClaimCommit: "before claim commit"
        case .claimedNotStarted: "claimed, not started"
        case .midHandler: "mid-handler (short)"
        case .betweenCheckpoints: "between checkpoints"
        case .checkpointPublish: "checkpoint publish"
        case .effectBeforeCommit: "effects before commit"
        case .commitReplyLost: "commit sent, no reply"
        case .duringRescue: "during rescue"
        case .scheduleTick: "schedule tick"
        case .fanIn: "DAG fan-in"
        case .pruneOrVacuum: "prune / vacuum"
        }
    }

    /// A point inside a statement, at which the statement is held until the fault has struck; the others are states that last.
    var isHeld: Bool { self != .midHandler && self != .betweenCheckpoints }
}

/// What goes wrong: the rows of the crash matrix.
public enum Fault: String, CaseIterable, Sendable {
    case kill = "worker SIGKILL"
    case freeze = "worker SIGSTOP past its lease, SIGCONT"
    case terminate = "SIGTERM with grace / without"
    case error = "thrown error, out of memory, crash loop"
    case network = "TCP reset, half-open, latency"
    case backend = "backend kill 5/s"
    case restart = "PostgreSQL fast / immediate restart, SIGKILL of a backend"
    case disk = "disk full (WAL, checkpoint store)"
    case timeout = "statement / lock timeout, deadlock, serialization error"
    case pinned = "pinned xmin, 4 readers, long writer"
    case exhaustion = "connections exhausted"
    case clock = "host clock ±1 h step"
    case notify = "NOTIFY lost or doubled"

    /// The row's name on the command line.
    public var name: String { "\(self)" }

    /// The points at which the fault applies: the matrix's crosses.
    public var points: [Point] {
        switch self {
        case .kill:
            [
                .beforeClaimCommit, .claimedNotStarted, .midHandler, .betweenCheckpoints, .checkpointPublish, .effectBeforeCommit,
                .commitReplyLost, .duringRescue, .scheduleTick, .fanIn,
            ]
        case .freeze:
            [
                .beforeClaimCommit, .claimedNotStarted, .midHandler, .betweenCheckpoints, .checkpointPublish, .effectBeforeCommit,
                .duringRescue, .scheduleTick, .fanIn,
            ]
        case .terminate:
            [
                .beforeClaimCommit, .claimedNotStarted, .midHandler, .betweenCheckpoints, .checkpointPublish, .effectBeforeCommit,
                .scheduleTick,
            ]
        case .error: [.claimedNotStarted, .midHandler, .betweenCheckpoints, .checkpointPublish, .fanIn]
        case .network:
            [
                .beforeClaimCommit, .claimedNotStarted, .midHandler, .betweenCheckpoints, .checkpointPublish, .effectBeforeCommit,
                .commitReplyLost, .duringRescue, .scheduleTick, .fanIn,
            ]
        case .backend, .restart: Point.allCases
        case .disk: [.betweenCheckpoints, .checkpointPublish, .effectBeforeCommit, .pruneOrVacuum]
        case .timeout:
            [.beforeClaimCommit, .checkpointPublish, .effectBeforeCommit, .duringRescue, .scheduleTick, .fanIn, .pruneOrVacuum]
        case .pinned: [.beforeClaimCommit, .midHandler, .effectBeforeCommit, .duringRescue, .scheduleTick, .pruneOrVacuum]
        case .exhaustion: [.beforeClaimCommit, .claimedNotStarted, .midHandler, .effectBeforeCommit, .duringRescue, .scheduleTick]
        case .clock: [.claimedNotStarted, .duringRescue, .scheduleTick]
        case .notify: [.beforeClaimCommit, .duringRescue, .scheduleTick]
        }
    }
}

/// One cross of the matrix.
public struct Cell: Hashable, Sendable, CustomStringConvertible {
    /// What goes wrong.
    public var fault: Fault
    /// Where.
    public var point: Point

    /// A cell.
    public init(_ fault: Fault, _ point: Point) { (self.fault, self.point) = (fault, point) }

    /// Every cell that applies.
    public static let all: [Cell] = Fault.allCases.flatMap { fault in fault.points.map { Cell(fault, $0) } }

    /// A few cells of each fault, and of each point at least one: the short form's.
    public static func sample(_ faults: Set<Fault>, perFault: Int, seed: UInt64) -> [Cell] {
        var dice = Dice(seed: seed)
        var cells: [Cell] = []
        for fault in Fault.allCases where faults.contains(fault) {
            // Points that have not had their turn come first.
            let points = fault.points.shuffled(using: &dice).sorted { a, b in
                cells.count { $0.point == a } < cells.count { $0.point == b }
            }
            cells += points.prefix(perFault).map { Cell(fault, $0) }
        }
        return cells
    }

    /// Row and column.
    public var description: String { "\(fault.rawValue) × \(point.title)" }
}

/// Seeded numbers: the same seed makes the same choices.
public struct Dice: RandomNumberGenerator, Sendable {
    private var generator: SplitMix64

    /// Choices that follow from a seed.
    public init(seed: UInt64) { generator = SplitMix64(seed: seed) }

    /// The next 64 bits.
    public mutating func next() -> UInt64 { generator.next() }

    mutating func chance(_ p: Double) -> Bool { Double.random(in: 0..<1, using: &self) < p }
}
