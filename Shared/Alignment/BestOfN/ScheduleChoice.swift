/// Chooses a pruning schedule on groups that are not reported.
public enum ScheduleChoice {
    /// All schedules whose cuts lie after some of `steps` and keep some of `keeps`, within `maximumCost` of running all to the end.
    /// - Parameters:
    ///   - scored: steps after which scores were recorded.
    ///   - keeps: numbers that a cut may keep, 1 among them.
    ///   - maximumCuts: cuts a schedule.
    public static func candidates(
        count: Int, steps: Int, scored: [Int], keeps: [Int], maximumCuts: Int = 3, maximumCost: Double
    ) -> [PruningSchedule] {
        var found: [PruningSchedule] = []
        let stops = Set(scored).filter { (1...steps).contains($0) }.sorted()
        let sizes = Set(keeps).filter { (1..<count).contains($0) }.sorted(by: >)
        func extend(_ cuts: [PruningSchedule.Cut]) {
            if cuts.last?.keep == 1 {
                if let schedule = try? PruningSchedule(count: count, steps: steps, cuts: cuts), schedule.costShare <= maximumCost {
                    found.append(schedule)
                }
                return
            }
            guard cuts.count < maximumCuts else { return }
            for step in stops where step > cuts.last?.step ?? 0 {
                for keep in sizes where keep < cuts.last?.keep ?? count {
                    extend(cuts + [PruningSchedule.Cut(after: step, keep: keep)])
                }
            }
        }
        extend([])
        return found
    }

    /// The candidate with the highest mean quality over the groups; of equals the cheaper one, then the first.
    public static func best(_ candidates: [PruningSchedule], on groups: [RecordedGroup]) -> PruningSchedule? {
        var best: (schedule: PruningSchedule, quality: Double)?
        for schedule in candidates {
            let quality = groups.reduce(0) { $0 + Double($1.quality[$1.pick(schedule)]) }
            if let current = best,
                quality < current.quality
                    || (quality == current.quality && schedule.forwardPasses >= current.schedule.forwardPasses)
            {
                continue
            }
            best = (schedule, quality)
        }
        return best?.schedule
    }
}
