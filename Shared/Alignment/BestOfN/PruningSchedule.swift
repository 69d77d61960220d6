/// When a Best-of-N looks at its candidates, and how many it lets live.
///
/// Written and read as `4@2,2@5,1@10`: keep 4 after step 2, 2 after step 5, 1 after step 10.
/// A cut after the last step judges finished latents.
public struct PruningSchedule: Sendable, Hashable, CustomStringConvertible {
    public struct Cut: Sendable, Hashable {
        /// Steps done when the candidates are scored, 1 … steps.
        public let step: Int
        /// Candidates that go on.
        public let keep: Int

        public init(after step: Int, keep: Int) {
            self.step = step
            self.keep = keep
        }
    }

    /// What is wrong with a schedule.
    public struct Invalid: Error, CustomStringConvertible, Sendable {
        public let description: String
    }

    /// Candidates at the start.
    public let count: Int
    /// Steps of a whole trajectory.
    public let steps: Int
    /// In the order of their steps; the last one keeps 1.
    public let cuts: [Cut]

    /// - Throws: ``Invalid`` unless the cuts' steps rise within 1…steps, their keeps fall from `count`, and the last keeps one.
    public init(count: Int, steps: Int, cuts: [Cut]) throws {
        guard count >= 1, steps >= 1 else {
            throw Invalid(description: "a Best-of-N needs candidates and steps, not \(count) and \(steps)")
        }
        var step = 0
        var alive = count
        for cut in cuts {
            guard cut.step > step, cut.step <= steps else {
                throw Invalid(description: "cut \(cut.keep)@\(cut.step): its step must lie in \(step + 1)…\(steps)")
            }
            guard cut.keep >= 1, cut.keep < alive || alive == 1 else {
                throw Invalid(description: "cut \(cut.keep)@\(cut.step): it must keep 1…\(alive - 1) of \(alive)")
            }
            step = cut.step
            alive = cut.keep
        }
        guard alive == 1 else { throw Invalid(description: "\(alive) candidates are left at the end; the last cut must keep 1") }
        self.count = count
        self.steps = steps
        self.cuts = cuts
    }

    /// Reads `4@2,2@5,1@10`.
    public init(_ text: String, count: Int, steps: Int) throws {
        let cuts = try text.split(separator: ",").map { part in
            let numbers = part.split(separator: "@", omittingEmptySubsequences: false)
                .map { Int(String($0.drop(while: { $0 == " " }))) }
            guard numbers.count == 2, let keep = numbers[0], let step = numbers[1] else {
                throw Invalid(description: "‘\(part)’ is not KEEP@STEP, such as 4@2")
            }
            return Cut(after: step, keep: keep)
        }
        try self.init(count: count, steps: steps, cuts: cuts)
    }

    /// One early cut: N candidates to `step`, one to the end.
    public static func oneCut(count: Int, steps: Int, after step: Int) throws -> PruningSchedule {
        try PruningSchedule(count: count, steps: steps, cuts: [Cut(after: step, keep: 1)])
    }

    /// Every candidate to the end, then the finished latents are judged.
    public static func allToTheEnd(count: Int, steps: Int) throws -> PruningSchedule {
        try oneCut(count: count, steps: steps, after: steps)
    }

    /// Evaluations of the generator for one group: N·k₁ + keep₁·(k₂ − k₁) + … + 1·(steps − k_last).
    public var forwardPasses: Int {
        var passes = 0
        var alive = count
        var done = 0
        for cut in cuts {
            passes += alive * (cut.step - done)
            alive = cut.keep
            done = cut.step
        }
        return passes + alive * (steps - done)
    }

    /// Latents that the judge scores for one group (each once a cut).
    public var judgePasses: Int {
        zip([count] + cuts.dropLast().map(\.keep), cuts).reduce(0) { $0 + ($1.0 > 1 ? $1.0 : 0) }
    }

    /// Forward passes as a share of running every candidate to the end.
    public var costShare: Double { Double(forwardPasses) / Double(count * steps) }

    public var description: String { cuts.map { "\($0.keep)@\($0.step)" }.joined(separator: ",") }
}
