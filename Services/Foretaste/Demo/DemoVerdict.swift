import Foundation

/// Holds a run's figures against what the demo sets out to reach, and says in words what it missed.
enum DemoVerdict {
    static func judge(_ figures: inout DemoFigures, settings: DemoSettings) {
        var targets: [DemoFigures.Target] = []
        var findings: [String] = []
        func percent(_ value: Double) -> String { String(format: "%.1f %%", 100 * value) }
        func check(_ figure: String, _ wanted: String, _ measured: String, _ reached: Bool, _ otherwise: String) {
            targets.append(.init(figure: figure, wanted: wanted, measured: measured, reached: reached))
            if !reached { findings.append(otherwise) }
        }

        let reward = figures.reward
        check(
            "head at its best timestep", "at least 76 %", percent(reward.best_accuracy), reward.best_accuracy >= 0.76,
            "The head judges \(percent(reward.best_accuracy)) of the held-out comparisons right at its best timestep, below the 76 % that this world allows."
        )
        let gain = reward.gain_over_energy, gainHalf = reward.gain_over_energy_half_width
        check(
            "head minus energy, paired", "at least 8 points, interval above 0",
            String(format: "%+.1f ± %.1f points", 100 * gain, 100 * gainHalf), gain >= 0.08 && gain - gainHalf > 0,
            "The head beats the energy of the finished latent by only \(String(format: "%+.1f ± %.1f", 100 * gain, 100 * gainHalf)) points."
        )
        check(
            "untrained head", "within 40–60 %", percent(reward.untrained_accuracy), (0.4...0.6).contains(reward.untrained_accuracy),
            "The untrained head is at \(percent(reward.untrained_accuracy)), outside of chance: something other than training tells the clips apart."
        )
        let inside = reward.best_timestep > 300 && reward.best_timestep < 950
        let falls =
            reward.accuracy.count > 2 && reward.accuracy.first!.accuracy < reward.best_accuracy
            && reward.accuracy.last!.accuracy < reward.best_accuracy
        check(
            "best timestep", "inside 300–950, falling on both sides", "t = \(Int(reward.best_timestep))", inside && falls,
            "The accuracy curve does not peak inside of 300–950 with lower values on both sides.")

        if let progressive = figures.best_of_n.first(where: { $0.method == "progressive" }),
            let full = figures.best_of_n.first(where: { $0.method == "all_to_end" })
        {
            let share = full.quality_gain > 0 ? progressive.quality_gain / full.quality_gain : 0
            let cost = full.forward_passes > 0 ? progressive.forward_passes / full.forward_passes : 1
            check(
                "progressive Best-of-8", "at least 80 % of the full gain at 35 % of its passes or less",
                "\(percent(share)) at \(percent(cost))",
                share >= 0.8 && cost <= 0.35,
                "Progressive pruning kept \(percent(share)) of the full gain at \(percent(cost)) of the forward passes; 80 % was the aim.")
            check(
                "its gain over a random pick", "interval above 0",
                String(format: "%+.3f ± %.3f", progressive.quality_gain, progressive.half_width),
                progressive.quality_gain - progressive.half_width > 0,
                "The gain of progressive pruning over a random pick is not clear of zero.")
        }
        if let tuned = figures.tuning.first(where: { $0.method == "prfl+sft" }) {
            check(
                "PRFL + SFT against base", "win rate's interval above one half",
                "\(tuned.wins) : \(tuned.losses), \(percent(tuned.win_rate)) [\(percent(tuned.win_rate_low)), \(percent(tuned.win_rate_high))]",
                tuned.win_rate_low > 0.5,
                "The tuned generator does not clearly win against the base: \(tuned.wins) won, \(tuned.losses) lost.")
            check(
                "its gain in quality", "at least +0.2", String(format: "%+.3f ± %.3f", tuned.quality_gain, tuned.half_width),
                tuned.quality_gain >= 0.2, String(format: "Tuning improved quality by %+.3f only; +0.2 was the aim.", tuned.quality_gain))
            check(
                "its energy", "within 10 % of the base's", String(format: "%.2f", tuned.energy_ratio), abs(tuned.energy_ratio - 1) <= 0.1,
                String(format: "The tuned clips' energy is %.2f times the base's: the tuner drifts.", tuned.energy_ratio))
        }
        for method in figures.tuning where method.method != "base" && method.quality_gain - method.half_width <= 0 {
            findings.append(
                "\(method.method) did not improve on the base by the annotator (\(String(format: "%+.3f ± %.3f", method.quality_gain, method.half_width)))."
            )
        }
        if let tuned = figures.tuning.first(where: { $0.method == "prfl+sft" }),
            let guided = figures.tuning.first(where: { $0.method == "guidance2" }),
            guided.quality_gain > tuned.quality_gain
        {
            findings.append("Guidance 2, which costs nothing to train and twice as much to sample, gains more than tuning here.")
        }
        if let curve = figures.tuning_curves.first(where: { $0.method == "prfl" }), let last = curve.points.last,
            let top = curve.points.max(by: { $0.quality_gain < $1.quality_gain }), last.quality_gain < top.quality_gain - 0.05,
            last.reward_gain > top.reward_gain
        {
            findings.append(
                "PRFL alone exploits its judge: from iteration \(top.iteration) to \(last.iteration) the reward rises while the annotator's quality falls."
            )
        }
        figures.targets = targets
        figures.findings = findings.map { .init(text: $0) }
    }
}
