/// Visits every state that a scenario can reach, breadth first, so that the first breach found is one that takes the fewest steps.
///
/// What was seen is kept as 64-bit fingerprints: with a million states, the chance that two of them are taken for one is below 1e-7.
struct Explorer {
    var scenario: Scenario
    var rules = Rules.product
    /// The fate of one state in so many is followed to its end (I4); 1 for all, 0 for none.
    var settlesEvery = 1
    /// Gives up, which a test takes for a failure, rather than to fill the memory.
    var mostStates = 12_000_000
    /// Hears how many states there are at each depth.
    var note: ((String) -> Void)?

    struct Report {
        var states = 0
        var steps = 0
        var depth = 0
        var isComplete = true
        var counterexample: Counterexample?
    }

    /// The shortest way to a breach.
    struct Counterexample: CustomStringConvertible {
        var breach: Breach
        var actions: [Action]
        var worlds: [World]

        var description: String {
            let width = actions.map { $0.description.count }.max() ?? 0
            let steps = zip(actions, worlds).enumerated().map { index, step in
                let action = step.0.description
                return "  \(index + 1). " + action + String(repeating: " ", count: width - action.count) + "  | " + step.1.summary
            }
            return steps.joined(separator: "\n") + "\n  broken: " + breach.rawValue
        }
    }

    /// Which of its parent's possible actions led to a state.
    private struct Origin {
        var parent: UInt32
        var choice: UInt8
    }

    func run() -> Report {
        var report = Report()
        let start = World(scenario)
        // A state's number is its place in `origins`; only the frontier's states are kept whole.
        var seen: Set<Int> = [start.hashValue]
        var origins: [Origin] = [Origin(parent: 0, choice: 0)]
        var frontier: [(number: Int, world: World)] = [(0, start)]
        while !frontier.isEmpty {
            var next: [(number: Int, world: World)] = []
            for (number, world) in frontier {
                for (choice, action) in world.actions(scenario).enumerated() {
                    let successor = world.after(action, scenario, rules)
                    report.steps += 1
                    guard seen.insert(successor.hashValue).inserted else { continue }
                    origins.append(Origin(parent: UInt32(number), choice: UInt8(choice)))
                    var breach = successor.memory.breach
                    if breach == nil, settlesEvery > 0, origins.count % settlesEvery == 0, !successor.settles(scenario, rules) {
                        breach = .neverEnds
                    }
                    if let breach {
                        report.states = origins.count
                        report.counterexample = retrace(origins, breach)
                        return report
                    }
                    next.append((origins.count - 1, successor))
                }
                if origins.count > mostStates {
                    report.isComplete = false
                    report.states = origins.count
                    return report
                }
            }
            frontier = next
            report.depth += 1
            note?("depth \(report.depth): \(frontier.count) new, \(origins.count) states, \(report.steps) steps")
        }
        report.states = origins.count
        return report
    }

    private func retrace(_ origins: [Origin], _ breach: Breach) -> Counterexample {
        var choices: [Int] = []
        var number = origins.count - 1
        while number > 0 {
            choices.append(Int(origins[number].choice))
            number = Int(origins[number].parent)
        }
        var actions: [Action] = []
        var worlds: [World] = []
        var world = World(scenario)
        for choice in choices.reversed() {
            let action = world.actions(scenario)[choice]
            world = world.after(action, scenario, rules)
            actions.append(action)
            worlds.append(world)
        }
        return Counterexample(breach: breach, actions: actions, worlds: worlds)
    }
}
