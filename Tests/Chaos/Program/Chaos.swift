import ChaosHarness
import Foundation

/// `make chaos`: the crash matrix and the other reliability bars, with as many trials as you have time for.
///
/// The exit status is 1 after any violation.
@main
enum Chaos {
    static let parts = ["idle", "rescue", "silence", "zombies", "schedules", "training", "matrix"]
    static let usage = """
        usage: Chaos [PART …] [--trials N] [--seed S] [--fault NAME] [--point N] [--broken effects|completion]
            [--verbose FILE]: workers log there what happens to them
            [--zombies N] [--ticks N] [--kills N] [--seconds N]
            [--build FOLDER]: where the services are; beside this program unless given
        parts: idle, rescue, silence, zombies, schedules, training, matrix (all of them when none is named)
        faults: \(Fault.allCases.map(\.name).joined(separator: ", "))
        """

    static func main() async {
        do {
            exit(try await run() ? 0 : 1)
        } catch {
            say("the harness could not go on: \(error)")
            exit(1)
        }
    }

    /// Answers whether nothing was violated.
    private static func run() async throws -> Bool {
        var parts: [String] = []
        var options: [String: String] = [:]
        var arguments = CommandLine.arguments.dropFirst()[...]
        while let argument = arguments.popFirst() {
            if argument.hasPrefix("--"), let value = arguments.popFirst() {
                options[String(argument.dropFirst(2))] = value
            } else if Self.parts.contains(argument) {
                parts.append(argument)
            } else {
                FileHandle.standardError.write(Data((usage + "\n").utf8))
                exit(2)
            }
        }
        if parts.isEmpty { parts = Self.parts }
        let trials = options["trials"].flatMap(Int.init) ?? 200
        let seed = options["seed"].flatMap(UInt64.init) ?? 1
        let server = try await ChaosServer()
        var isClean = true
        for part in parts {
            switch part {
            case "zombies":
                let zombies = options["zombies"].flatMap(Int.init) ?? 10_000
                let report = try await ZombieTest(server: server, trials: zombies, isBroken: options["broken"] == "completion", say: say)
                    .run()
                say(
                    "Zombie test: \(report.trials) leases frozen past their end in \(report.freezes) stopped processes, \(Int(report.seconds)) s"
                )
                say(
                    "  when their holder woke, \(report.claimedAgain) of the jobs had been taken by another worker, \(report.doneAgain) done"
                )
                for (name, counts) in report.writes.sorted(by: { $0.key < $1.key }) {
                    say("  \(name): \(counts.attempted) stale writes attempted, \(counts.accepted) accepted")
                }
                say("  \(report.accepted) of \(report.attempted) accepted; \(report.checks.count) invariants checked")
                for violation in report.violations { say("    VIOLATION: \(violation)") }
                isClean = isClean && report.violations.isEmpty
            case "schedules":
                let report = try await ScheduleTest(server: server, ticks: options["ticks"].flatMap(Int.init) ?? 10_000, seed: seed).run()
                say("Schedules: \(report.ticks) times came, \(report.jobs) jobs, \(Int(report.seconds)) s")
                let strikes = report.strikes.sorted { $0.key < $1.key }.map { "\($0.value) × \($0.key)" }.joined(separator: ", ")
                say(
                    "  caught while firing: \(strikes); the clock went ahead \(report.leaps.ahead) times and back \(report.leaps.back) times"
                )
                say("  \(report.checks.count) invariants over \(report.checks.reduce(0) { $0 + $1.examined }) things")
                for violation in report.violations { say("    VIOLATION: \(violation)") }
                isClean = isClean && report.violations.isEmpty
            case "rescue":
                let report = try await RescueTest(server: server, kills: options["kills"].flatMap(Int.init) ?? 40, seed: seed).run()
                say("Rescue of a SIGKILLed process's jobs, from the kill to the next claim:")
                for line in report.lines { say("  " + line) }
                if report.longest > 3 || report.short.isEmpty || report.long.isEmpty {
                    say("    VIOLATION: longer than 3 s")
                    isClean = false
                }
            case "training":
                let here = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent().path
                let test = TrainingTest(
                    build: options["build"] ?? here, kills: options["kills"].flatMap(Int.init) ?? 20, seed: seed, say: say)
                let report = try await test.run()
                say(
                    "Training job killed \(report.kills.count) times in \(report.steps) steps, a checkpoint every \(report.interval), \(report.attempts) starts:"
                )
                say("  steps done again, a number a kill: \(report.redone.sorted())")
                say("  undisturbed \(Int(report.seconds.calm)) s, killed \(Int(report.seconds.killed)) s")
                say("  head.safetensors \(report.digests.calm) undisturbed, \(report.digests.killed) killed")
                for violation in report.violations { say("    VIOLATION: \(violation)") }
                isClean = isClean && report.violations.isEmpty
            case "silence":
                let seconds = try await SilenceTest(server: server).run()
                say(
                    "Connections silent for good, leases of 3 s: "
                        + (seconds.map { String(format: "a job done again after %.1f s", $0) } ?? "no job within 60 s"))
                if seconds ?? 60 > 15 {
                    say("    VIOLATION: longer than 15 s")
                    isClean = false
                }
            case "idle":
                let report = try await IdleTest(server: server, seconds: options["seconds"].flatMap(Double.init) ?? 30).run()
                say(
                    String(
                        format: "Idle worker: %.2f %% CPU, %.2f statements a second over %.0f s", report.cpu, report.statements,
                        report.seconds))
                if report.cpu > 0.2 || report.statements > 2 {
                    say("    VIOLATION: more than 0.2 % CPU or 2 statements a second")
                    isClean = false
                }
            default:
                let cells = Cell.all.filter { cell in
                    (options["fault"].map { $0.split(separator: ",").map(String.init).contains(cell.fault.name) } ?? true)
                        && (options["point"].map { $0 == "\(cell.point.rawValue)" } ?? true)
                }
                let flags = ["broken", "verbose"].compactMap { name in options[name].map { "\(name)=\($0)" } }
                let (reports, clean) = try await Matrix.run(
                    server: server, cells: cells, trials: trials, seed: seed, extraFlags: flags, say: say)
                say("\nTrials by cell, seed \(seed):\n" + Matrix.table(reports))
                isClean = isClean && clean
            }
        }
        await server.stop()
        say(isClean ? "\nNo violation." : "\nVIOLATIONS, see above.")
        return isClean
    }

    /// A line at once, whatever standard output is.
    @Sendable static func say(_ line: String) { FileHandle.standardOutput.write(Data((line + "\n").utf8)) }
}
