import DemoWorld
import Tensors
import Testing

struct DemoClipsTests {
    @Test func `Every training clip has the same energy in every frame`() throws {
        let clips = DemoClips(count: 200, seed: 1)
        let latents = try DemoConditioning().codec.encode(clips.pixels).array
        // 24 pixels of a shape with deviations .8, .1, .1, in units of the codec's scale.
        let expected: Float = 24 * (0.64 + 0.01 + 0.01) / (0.25 * 0.25)
        for clip in 0..<200 {
            for frame in 0..<6 {
                var energy: Float = 0
                for channel in 0..<12 {
                    for cell in 0..<64 {
                        let value = latents[((clip * 12 + channel) * 6 + frame) * 64 + cell]
                        energy += value * value
                    }
                }
                #expect(abs(energy / expected - 1) < 1e-4, "clip \(clip), frame \(frame)")
            }
        }
    }

    @Test func `Clips without a flaw are good, and each flaw costs quality on its own axis`() {
        let clips = DemoClips(count: 2000, seed: 2)
        let judgements = DemoAnnotator.judge(clips.pixels, prompts: clips.prompts)
        var seen: Set<DemoFlaws> = []
        for (flaws, judgement) in zip(clips.flaws, judgements) {
            if flaws.isEmpty {
                #expect(judgement.isGood && judgement.quality > -1e-3)
            } else if flaws == .wrongDirection {
                #expect(judgement.penalties[1] > 0.9)
            } else if flaws == .shape {
                #expect(judgement.penalties[2] > 0.3)
            } else if flaws == .colour {
                #expect(judgement.penalties[3] > 0.3)
            } else if flaws == .freeze {
                #expect(judgement.penalties[0] > 0.15)
            }
            seen.insert(flaws)
        }
        // Five single flaws, ten pairs, and none.
        #expect(seen.count == 16)
    }

    @Test func `Half of the clips are flawed, a fifth of those twice, and prompts are even`() {
        let clips = DemoClips(count: 12_000, seed: 3)
        let flawed = clips.flaws.filter { !$0.isEmpty }
        let double = flawed.filter { $0.rawValue.nonzeroBitCount == 2 }
        #expect(abs(Double(flawed.count) / 12_000 - 0.5) < 0.02)
        // A quarter draws twice, and one in five of those draws the same kind again.
        #expect(abs(Double(double.count) / Double(flawed.count) - 0.2) < 0.02)
        for prompt in DemoPrompt.allCases { #expect(abs(clips.prompts.count { $0 == prompt } - 1000) < 130) }
    }

    @Test func `A clip depends on its number and not on the batch that it is drawn in`() {
        let whole = DemoClips(count: 10, seed: 4, step: 7)
        let tail = DemoClips(count: 3, seed: 4, step: 7, first: 7)
        #expect(whole.pixels[7..<10].array == tail.pixels.array)
        #expect(DemoClips(count: 10, seed: 5, step: 7).pixels.array != whole.pixels.array)
        let wanted = DemoPrompt(id: 5)
        let good = DemoClips(count: 4, seed: 4, prompts: Array(repeating: wanted, count: 4), flawRate: 0)
        #expect(good.flaws == [[], [], [], []])
    }

    @Test func `One label in ten is wrong, and close clips are a tie`() {
        var stream = RandomStream(seed: 6)
        var counts: [DemoPreference: Int] = [:]
        for _ in 0..<10_000 { counts[DemoAnnotator.label(0, -1, stream: &stream), default: 0] += 1 }
        #expect(abs(counts[.a]! - 9000) < 120)
        #expect(abs(counts[.b]! - 500) < 90 && abs(counts[.tie]! - 500) < 90)
        #expect(DemoAnnotator.preference(-0.2, -0.1) == .tie)
        #expect(DemoAnnotator.preference(-0.4, -0.1) == .b)
    }
}
