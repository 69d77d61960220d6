public import Tensors

/// What may be wrong with a training clip.
public struct DemoFlaws: OptionSet, Sendable, Hashable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }

    /// Some frames lie one cell beside the track.
    public static let jitter = DemoFlaws(rawValue: 1)
    /// The other shape from some frame on.
    public static let shape = DemoFlaws(rawValue: 2)
    /// Another colour from some frame on.
    public static let colour = DemoFlaws(rawValue: 4)
    /// Down instead of right, or right instead of down.
    public static let wrongDirection = DemoFlaws(rawValue: 8)
    /// One to four of the five steps do not advance.
    public static let freeze = DemoFlaws(rawValue: 16)
}

/// Clips with their prompts, as the generator is trained on.
public struct DemoClips: Sendable {
    /// [N, 3, 6, 16, 16], 0 to 1.
    public let pixels: Tensor
    /// One a clip.
    public let prompts: [DemoPrompt]
    /// One a clip; empty for a good one.
    public let flaws: [DemoFlaws]

    /// Draws `count` clips.
    ///
    /// The shape starts at cell 0 of its axis and moves one cell a frame, in a lane of 1…4 across it. A flawed clip has one kind of flaw, or
    /// (a quarter of them) two draws of a kind. Every frame holds exactly one whole shape of one colour, so all clips have the same energy.
    ///
    /// Clip `i` depends on (`seed`, `step`, `first + i`) alone, so that batches of any size draw the same clips.
    /// - Parameters:
    ///   - prompts: one a clip, or nil to draw them evenly.
    ///   - flawRate: the share of flawed clips.
    public init(count: Int, seed: UInt64, step: UInt32 = 0, first: Int = 0, prompts: [DemoPrompt]? = nil, flawRate: Float = 0.5) {
        precondition(prompts == nil || prompts!.count == count, "one prompt a clip")
        var drawn: [DemoPrompt] = []
        var flaws: [DemoFlaws] = []
        pixels = Tensor(shape: [count] + DemoGeometry.clipShape) { buffer in
            for index in 0..<count {
                var stream = RandomStream(seed: seed, run: Self.run, step: step, item: UInt32(first + index))
                let script = Script(prompt: prompts?[index], flawRate: flawRate, stream: &stream)
                script.draw(
                    into: UnsafeMutableBufferPointer(
                        rebasing: buffer[index * DemoGeometry.clipCount..<(index + 1) * DemoGeometry.clipCount]))
                drawn.append(script.prompt)
                flaws.append(script.flaws)
            }
        }
        self.prompts = drawn
        self.flaws = flaws
    }

    /// Keeps the streams of clips apart from those of noise under the same seed.
    static let run: UInt32 = 0xC11B5
}

/// What happens in one clip, frame by frame.
private struct Script {
    let prompt: DemoPrompt
    let flaws: DemoFlaws
    var shapes: [DemoPrompt.Shape]
    var colours: [DemoPrompt.Colour]
    var rows: [Int]
    var columns: [Int]

    init(prompt given: DemoPrompt?, flawRate: Float, stream: inout RandomStream) {
        let frames = DemoGeometry.frames
        let prompt = given ?? DemoPrompt(id: stream.integer(in: 0..<12))
        var flaws: DemoFlaws = []
        if stream.uniform() < flawRate {
            flaws.insert(DemoFlaws(rawValue: 1 << stream.integer(in: 0..<5)))
            if stream.uniform() < 0.25 { flaws.insert(DemoFlaws(rawValue: 1 << stream.integer(in: 0..<5))) }
        }

        var lanes = [Int](repeating: stream.integer(in: 1..<5), count: frames)
        if flaws.contains(.jitter) {
            // Each frame is hit with one probability of .2 to .8, and at least one is.
            let probability = 0.2 + 0.6 * stream.uniform()
            var hit = (0..<frames).map { _ in stream.uniform() < probability }
            hit[stream.integer(in: 0..<frames)] = true
            for frame in 0..<frames where hit[frame] { lanes[frame] += 2 * stream.integer(in: 0..<2) - 1 }
        }

        var advances = [Bool](repeating: true, count: frames - 1)
        if flaws.contains(.freeze) {
            var steps = Array(0..<frames - 1)
            for chosen in 0..<stream.integer(in: 1..<5) {
                steps.swapAt(chosen, stream.integer(in: chosen..<frames - 1))
                advances[steps[chosen]] = false
            }
        }
        var along = [0]
        for advance in advances { along.append(along.last! + (advance ? 1 : 0)) }

        shapes = [DemoPrompt.Shape](repeating: prompt.shape, count: frames)
        if flaws.contains(.shape) {
            for frame in stream.integer(in: 1..<5)..<frames { shapes[frame] = prompt.shape == .diamond ? .hourglass : .diamond }
        }
        colours = [DemoPrompt.Colour](repeating: prompt.colour, count: frames)
        if flaws.contains(.colour) {
            let other = DemoPrompt.Colour(rawValue: (prompt.colour.rawValue + stream.integer(in: 1..<3)) % 3)!
            for frame in stream.integer(in: 1..<5)..<frames { colours[frame] = other }
        }

        let right = (prompt.direction == .right) != flaws.contains(.wrongDirection)
        rows = right ? lanes : along
        columns = right ? along : lanes
        self.prompt = prompt
        self.flaws = flaws
    }

    func draw(into clip: UnsafeMutableBufferPointer<Float>) {
        let cell = DemoGeometry.cell
        clip.update(repeating: DemoGeometry.background)
        for frame in 0..<DemoGeometry.frames {
            let deviation = DemoGeometry.deviation(colours[frame])
            DemoGeometry.forEachPixel(shapes[frame], top: cell * rows[frame], left: cell * columns[frame]) { pixel in
                for channel in 0..<3 {
                    clip[(channel * DemoGeometry.frames + frame) * DemoGeometry.pixels + pixel] =
                        DemoGeometry.background + deviation[channel]
                }
            }
        }
    }
}
