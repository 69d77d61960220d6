import Alignment
import Diffusion
import Synchronization
import Tensors
import Testing

struct PruningScheduleTests {
    @Test func `Costs are N·k and what is left after each cut`() throws {
        #expect(try PruningSchedule("1@5", count: 8, steps: 20).forwardPasses == 55)
        #expect(try PruningSchedule("1@12", count: 8, steps: 20).forwardPasses == 104)
        #expect(try PruningSchedule("4@2,2@5,1@10", count: 8, steps: 20).forwardPasses == 48)
        #expect(try PruningSchedule("3@2,1@10", count: 8, steps: 20).forwardPasses == 50)
        #expect(try PruningSchedule.allToTheEnd(count: 8, steps: 20).forwardPasses == 160)
        // N·k + (T − k), over every N and k of a single cut.
        for count in 2...10 {
            for step in 1...20 {
                let schedule = try PruningSchedule.oneCut(count: count, steps: 20, after: step)
                #expect(schedule.forwardPasses == count * step + 20 - step)
                #expect(schedule.judgePasses == count)
            }
        }
        #expect(try PruningSchedule("4@2,2@5,1@10", count: 8, steps: 20).judgePasses == 8 + 4 + 2)
        #expect(try PruningSchedule("", count: 1, steps: 20).forwardPasses == 20)
    }

    @Test(arguments: ["", "2@5", "1@0", "1@21", "4@5,1@5", "4@5,5@6,1@7", "8@2,1@3", "x", "1@", "4@6,1@2"])
    func `A schedule that cannot be walked is refused`(text: String) {
        #expect(throws: PruningSchedule.Invalid.self) { try PruningSchedule(text, count: 8, steps: 20) }
    }

    @Test func `Schedules print as they are read`() throws {
        #expect(try PruningSchedule("4@2, 2@5,1@10", count: 8, steps: 20).description == "4@2,2@5,1@10")
    }
}

struct BestOfNTests {
    let sampler = EulerSampler(schedule: FlowMatchSchedule(steps: 10, shift: 3), microBatch: 4)

    @Sendable static func velocity(_ request: VelocityRequest) -> Tensor {
        Tensor(request.latents.array.map { $0 * (1 + 0.3 * $0) * request.sigma }, shape: request.latents.shape)
    }

    @Sendable static func scores(_ request: ScoreRequest) -> [Float] {
        (0..<request.candidates.count).map { request.latents[$0..<$0 + 1].sum }
    }

    @Test func `Winners equal the unpruned trajectories bit for bit, and the passes counted equal the formula`() async throws {
        let schedule = try PruningSchedule("4@2,2@5,1@8", count: 8, steps: 10)
        let noise = EulerSampler.noise(shape: [2, 3], seed: 11, items: 0..<24)
        let evaluated = Mutex(0)
        let result = try await BestOfN(schedule: schedule, sampler: sampler).run(
            noise: noise,
            velocity: { request in
                evaluated.withLock { $0 += 1 }
                return Self.velocity(request)
            }, scores: Self.scores)
        let whole = try sampler.run(noise, recording: [2, 5, 8], velocity: Self.velocity)
        let winners = result.winners.enumerated().map { $0 * 8 + $1 }
        #expect(result.latents.array == whole.latents.gathering(winners).array)
        #expect(result.forwardPasses == 3 * schedule.forwardPasses)
        #expect(result.judgePasses == 3 * schedule.judgePasses)
        // Micro-batches of 4: 24 candidates for 2 steps, 12 for 3, 6 (padded to 8) for 3, 3 (padded to 4) for 2: 12 + 9 + 6 + 2.
        let calls = evaluated.withLock { $0 }
        #expect(calls == 29)

        // The same choice, simulated from the record of the unpruned run.
        for group in 0..<3 {
            let first = group * 8
            let scores = whole.recorded.mapValues { latents in (first..<first + 8).map { latents[$0..<$0 + 1].sum } }
            let record = RecordedGroup(scores: scores, quality: Array(repeating: 0, count: 8), isGood: Array(repeating: false, count: 8))
            #expect(record.pick(schedule) == result.winners[group])
        }
    }

    @Test func `A cut after the last step judges finished latents`() async throws {
        let noise = EulerSampler.noise(shape: [2], seed: 12, items: 0..<4)
        let schedule = try PruningSchedule.allToTheEnd(count: 4, steps: 10)
        let result = try await BestOfN(schedule: schedule, sampler: sampler).run(noise: noise, velocity: Self.velocity) { request in
            #expect(request.sigma == 0 && request.timestep == 0 && request.step == 10)
            return Self.scores(request)
        }
        let whole = try sampler.run(noise, velocity: Self.velocity).latents
        let sums = (0..<4).map { whole[$0..<$0 + 1].sum }
        #expect(result.winners == [sums.firstIndex(of: sums.max()!)!])
        #expect(result.forwardPasses == 40)
    }

    @Test(arguments: [[1, 2, 3], [1, 2, 3, .nan], []] as [[Float]])
    func `A judge that answers nonsense is refused`(answer: [Float]) async throws {
        let noise = EulerSampler.noise(shape: [2], seed: 12, items: 0..<4)
        let best = BestOfN(schedule: try PruningSchedule("1@3", count: 4, steps: 10), sampler: sampler)
        await #expect(throws: PruningSchedule.Invalid.self) {
            try await best.run(noise: noise, velocity: Self.velocity) { _ in answer }
        }
    }
}

struct ScheduleChoiceTests {
    /// Scores that know more the later they are asked for.
    static func groups(_ count: Int, seed: UInt64) -> [RecordedGroup] {
        (0..<count).map { group in
            var stream = RandomStream(seed: seed, item: UInt32(group))
            let quality = stream.normals(8)
            let scores = Dictionary(
                uniqueKeysWithValues: (1...20).map { step in
                    (step, quality.map { $0 * Float(step) / 20 + 0.5 * stream.normal() })
                })
            return RecordedGroup(scores: scores, quality: quality, isGood: quality.map { $0 > 0.5 })
        }
    }

    @Test func `The chosen schedule keeps to its budget and beats a single early cut on other groups`() throws {
        let candidates = ScheduleChoice.candidates(count: 8, steps: 20, scored: [2, 4, 6, 8, 10, 12], keeps: [4, 2, 1], maximumCost: 0.35)
        #expect(!candidates.isEmpty && candidates.allSatisfy { $0.costShare <= 0.35 && $0.cuts.last!.keep == 1 })
        #expect(Set(candidates).count == candidates.count)
        let chosen = try #require(ScheduleChoice.best(candidates, on: Self.groups(300, seed: 1)))
        let test = Self.groups(300, seed: 2)
        let progressive = SelectionOutcome(test) { $0.pick(chosen) }
        let early = try PruningSchedule("1@2", count: 8, steps: 20)
        let oneCut = SelectionOutcome(test) { $0.pick(early) }
        let oracle = SelectionOutcome(test) { $0.oracle }
        #expect(progressive.gain.mean > oneCut.gain.mean && oracle.gain.mean > progressive.gain.mean)
        #expect(progressive.gain.lower > 0)
        #expect(SelectionOutcome(random: test).gain.mean == 0)
    }

    @Test func `Ties go to the first candidate`() throws {
        let group = RecordedGroup(scores: [5: [1, 1, 1, 0]], quality: [0, 0, 0, 0], isGood: [false, false, false, false])
        #expect(group.pick(try PruningSchedule("1@5", count: 4, steps: 20)) == 0)
    }
}
