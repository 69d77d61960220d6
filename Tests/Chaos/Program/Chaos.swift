import ChaosHarness
import Foundation

/// `make chaos`: the crash matrix and the other reliability bars, with as many trials as you have time for.
///
/// The exit status is 1 after any violation.
@main
enum Chaos {
    static let usage = """
        usage: Chaos [PART …] [--trials N] [--seed S] [--fault NAME] [--point N] [--broken effects]
        parts: matrix (all of them when none is named)
        faults: \(Fault.allCases.map(\.name).joined(separator: ", "))
        """

    static func main() async throws {
        var parts: [String] = []
        var options: [String: String] = [:]
        var arguments = CommandLine.arguments.dropFirst()[...]
        while let argument = arguments.popFirst() {
            if argument.hasPrefix("--"), let value = arguments.popFirst() {
                options[String(argument.dropFirst(2))] = value
            } else if ["matrix"].contains(argument) {
                parts.append(argument)
            } else {
                FileHandle.standardError.write(Data((usage + "\n").utf8))
                exit(2)
            }
        }
        if parts.isEmpty { parts = ["matrix"] }
        let trials = options["trials"].flatMap(Int.init) ?? 200
        let seed = options["seed"].flatMap(UInt64.init) ?? 1
        let server = try await ChaosServer()
        var isClean = true
        for part in parts {
            switch part {
            default:
                let cells = Cell.all.filter { cell in
                    (options["fault"].map { $0.split(separator: ",").map(String.init).contains(cell.fault.name) } ?? true)
                        && (options["point"].map { $0 == "\(cell.point.rawValue)" } ?? true)
                }
                let flags = options["broken"].map { ["broken=\($0)"] } ?? []
                let (reports, clean) = try await Matrix.run(
                    server: server, cells: cells, trials: trials, seed: seed, extraFlags: flags, say: say)
                say("\nTrials by cell, seed \(seed):\n" + Matrix.table(reports))
                isClean = isClean && clean
            }
        }
        await server.stop()
        say(isClean ? "\nNo violation." : "\nVIOLATIONS, see above.")
        exit(isClean ? 0 : 1)
    }

    /// A line at once, whatever standard output is.
    @Sendable static func say(_ line: String) { FileHandle.standardOutput.write(Data((line + "\n").utf8)) }
}
