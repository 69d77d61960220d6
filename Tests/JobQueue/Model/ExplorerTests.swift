import Foundation
import Testing

private let environment = ProcessInfo.processInfo.environment
/// `FORETASTE_EXPLORE=1` goes a tick further and follows every state to its end: minutes instead of seconds.
private let isLong = environment["FORETASTE_EXPLORE"] != nil
/// `FORETASTE_SCENARIO=everything` explores the one in which most can go wrong, with `FORETASTE_TICKS` ticks (2):
/// it takes gigabytes and more than a quarter of an hour, and has not been followed to its end.
private let isLargest = environment["FORETASTE_SCENARIO"] == "everything"

@Suite struct ExplorerTests {
    @Test(arguments: isLargest ? [.everything] : Scenario.short)
    func noOrderOfEventsBreaksAnInvariant(_ scenario: Scenario) {
        var scenario = scenario
        if isLong { scenario.budget.ticks += 1 }
        var explorer = Explorer(scenario: scenario, settlesEvery: isLong ? 1 : 16)
        if isLargest {
            explorer.scenario.budget.ticks = environment["FORETASTE_TICKS"].flatMap(Int.init) ?? 2
            explorer.settlesEvery = 64
            explorer.mostStates = 400_000_000
            explorer.note = { print($0) }
        }
        let report = explorer.run()
        #expect(report.counterexample == nil, "\(scenario.name):\n\(report.counterexample.map(String.init(describing:)) ?? "")")
        #expect(report.isComplete, "\(scenario.name): more than \(report.states) states")
        #expect(report.states > 100, "\(scenario.name): something keeps it from exploring")
        print("explored \(report.states) states, \(report.steps) steps, depth \(report.depth): \(scenario.name)")
    }

    @Test(arguments: Variant.all)
    func aProtocolWithoutTheRuleIsCaught(_ variant: Variant) throws {
        let report = Explorer(scenario: variant.scenario, rules: Rules(broken: variant.broken)).run()
        let counterexample = try #require(
            report.counterexample, "\(variant) breaks nothing in \(report.states) states of \(variant.scenario.name)")
        #expect(counterexample.breach == variant.breach, "\(variant)\n\(counterexample)")
        print("\(variant), \(variant.scenario.name):\n\(counterexample)")
    }

    @Test func everyRuleIsDroppedByAVariant() {
        let dropped = Variant.all.reduce(into: Set<Rule>()) { $0.formUnion($1.broken) }
        #expect(dropped == Set(Rule.allCases))
    }
}
