/// The whole crash matrix, a round a cell.
public struct Matrix: Sendable {
    /// Runs each of the cells in a round of its own and answers the lines of the table; `isClean` is false after any violation, and after
    /// a cell whose point was hardly ever reached.
    public static func run(
        server: ChaosServer, cells: [Cell], trials: Int, seed: UInt64, extraFlags: [String] = [], say: @escaping @Sendable (String) -> Void
    ) async throws -> (reports: [(Cell, RoundReport)], isClean: Bool) {
        var reports: [(Cell, RoundReport)] = []
        var isClean = true
        for cell in cells {
            let round = Round(server: server, cells: [cell], trials: trials, seed: seed, extraFlags: extraFlags, log: say)
            let report = try await round.run()
            reports.append((cell, report))
            if let reason = report.impossible[cell] {
                say("\(cell): not done here: \(reason)")
                continue
            }
            let (done, missed) = (report.trials[cell] ?? 0, report.missed[cell] ?? 0)
            let examined = report.checks.reduce(0) { $0 + $1.examined }
            say(
                "\(cell): \(done) trials\(missed > 0 ? " (\(missed) times not reached)" : ""), \(report.figures); "
                    + "\(report.checks.count) invariants over \(examined) things, \(report.violations.count) broken, \(Int(report.seconds)) s"
            )
            for violation in report.violations { say("    VIOLATION: \(violation)") }
            if done * 2 < trials {
                say("    UNREACHED: fewer than half of the trials struck")
                isClean = false
            }
            if !report.violations.isEmpty { isClean = false }
        }
        return (reports, isClean)
    }

    /// The matrix as a table of trials: rows are faults, columns points.
    public static func table(_ reports: [(Cell, RoundReport)]) -> String {
        var lines = ["| fault | " + Point.allCases.map(\.title).joined(separator: " | ") + " |"]
        lines.append("| --- " + String(repeating: "| ---: ", count: Point.allCases.count) + "|")
        for fault in Fault.allCases {
            let row = Point.allCases.map { point -> String in
                guard fault.points.contains(point) else { return "–" }
                guard let report = reports.first(where: { $0.0 == Cell(fault, point) })?.1 else { return "" }
                if report.impossible[Cell(fault, point)] != nil { return "n/a" }
                let trials = report.trials[Cell(fault, point)] ?? 0
                return report.violations.isEmpty ? "\(trials)" : "\(trials) **\(report.violations.count) broken**"
            }
            lines.append("| \(fault.rawValue) | " + row.joined(separator: " | ") + " |")
        }
        return lines.joined(separator: "\n")
    }
}
