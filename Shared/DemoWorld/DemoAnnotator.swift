public import Tensors

/// Which of two clips a person prefers.
public enum DemoPreference: Int, Sendable, Hashable {
    case b = -1
    case tie = 0
    case a = 1
}

/// What the annotator says of one clip.
public struct DemoJudgement: Sendable, Hashable {
    /// motion, direction, shape, colour, brightness: 0 when right, about 1 when wholly wrong.
    public let penalties: [Float]
    /// −Σ min(penalty, 1.5); 0 is best.
    public let quality: Float
    /// All five penalties lie below their limits.
    public let isGood: Bool

    init(penalties: [Float]) {
        self.penalties = penalties
        quality = -penalties.reduce(0) { $0 + min($1, 1.5) }
        isGood = zip(penalties, DemoAnnotator.limits).allSatisfy { $0 < $1 }
    }
}

/// Stands in for people: judges decoded pixels by analysis. It never sees a latent, and no reward ever sees it.
public enum DemoAnnotator {
    /// The penalties' names, in order.
    public static let axes = ["motion", "direction", "shape", "colour", "brightness"]
    /// A good clip's penalties lie below these.
    public static let limits: [Float] = [0.15, 0.30, 0.25, 0.25, 0.25]
    /// Two clips whose quality differs by less are a tie.
    public static let tie: Float = 0.15

    /// Judges clips [N, 3, 6, 16, 16], one prompt each.
    public static func judge(_ clips: Tensor, prompts: [DemoPrompt]) -> [DemoJudgement] {
        precondition(Array(clips.shape.dropFirst()) == DemoGeometry.clipShape, "clips are [N, 3, 6, 16, 16], not \(clips.shape)")
        precondition(prompts.count == clips.shape[0], "one prompt a clip")
        return clips.withUnsafeBufferPointer { pixels in
            prompts.enumerated().map { index, prompt in
                let first = index * DemoGeometry.clipCount
                return DemoJudgement(
                    penalties: penalties(UnsafeBufferPointer(rebasing: pixels[first..<first + DemoGeometry.clipCount]), prompt))
            }
        }
    }

    /// The label that a person who is wrong one time in ten gives: the truth, or one of the other two answers.
    public static func label(_ a: Float, _ b: Float, noise: Float = 0.1, stream: inout RandomStream) -> DemoPreference {
        let truth = preference(a, b)
        let replaced = stream.uniform() < noise
        let shift = stream.integer(in: 1..<3)
        return replaced ? DemoPreference(rawValue: (truth.rawValue + 1 + shift) % 3 - 1)! : truth
    }

    /// The preference without noise.
    public static func preference(_ a: Float, _ b: Float) -> DemoPreference {
        abs(a - b) < tie ? .tie : (a > b ? .a : .b)
    }

    private static func penalties(_ clip: UnsafeBufferPointer<Float>, _ prompt: DemoPrompt) -> [Float] {
        let views = (0..<DemoGeometry.frames).map { FrameView(clip, frame: $0, prompt: prompt) }

        // Least squares: pixels a frame, over frames centred at zero (Σ f² = 17.5).
        var slopeX = 0.0
        var slopeY = 0.0
        for (frame, view) in views.enumerated() {
            slopeX += view.x * (Double(frame) - 2.5) / 17.5
            slopeY += view.y * (Double(frame) - 2.5) / 17.5
        }
        let along = max(0, prompt.direction == .right ? slopeX : slopeY)
        let across = max(0, prompt.direction == .right ? slopeY : slopeX)
        let direction = across / (along + across + 0.2) / 0.91

        // Smoothness is judged along the clip's own direction: going the wrong way is the direction's penalty.
        let own: (x: Double, y: Double) = slopeY > slopeX ? (0, 2) : (2, 0)
        var motion = 0.0
        for (before, after) in zip(views, views.dropFirst()) {
            let x = after.x - before.x - own.x
            let y = after.y - before.y - own.y
            motion += (x * x + y * y + 1e-12).squareRoot() / 10
        }
        let mean = { (value: (FrameView) -> Double) in views.reduce(0) { $0 + value($1) } / Double(views.count) }
        return [motion, direction, mean(\.misshapen) / 0.5, mean(\.miscoloured) / 1.218, mean(\.dim) / 0.5].map(Float.init)
    }
}

/// What one frame shows: the centre of the bright thing, and how far it is from the wanted shape, colour and brightness.
private struct FrameView {
    let x, y, misshapen, miscoloured, dim: Double

    init(_ clip: UnsafeBufferPointer<Float>, frame: Int, prompt: DemoPrompt) {
        let pixels = DemoGeometry.pixels
        let plane = DemoGeometry.frames * pixels
        let first = frame * pixels
        let background = DemoGeometry.background
        let deviation = { (channel: Int, pixel: Int) in min(max(clip[channel * plane + first + pixel], 0), 1) - background }

        (x, y, misshapen, miscoloured, dim) = withUnsafeTemporaryAllocation(of: Float.self, capacity: pixels) { weight in
            var total = 0.0
            var sumX = 0.0
            var sumY = 0.0
            var red = 0.0
            var green = 0.0
            var blue = 0.0
            for pixel in 0..<pixels {
                let colour = (deviation(0, pixel), deviation(1, pixel), deviation(2, pixel))
                let brightest = max(colour.0, colour.1, colour.2)
                weight[pixel] = min(max((brightest / 0.8 - 0.25) / 0.5, 0), 1)
                let amount = Double(weight[pixel])
                total += amount
                sumX += amount * (Double(pixel % DemoGeometry.size) + 0.5)
                sumY += amount * (Double(pixel / DemoGeometry.size) + 0.5)
                red += amount * Double(colour.0)
                green += amount * Double(colour.1)
                blue += amount * Double(colour.2)
            }
            let area = max(total, 1e-3)
            let x = sumX / area
            let y = sumY / area

            // Overlap with the wanted shape, drawn where this one is: Σ min over Σ max.
            var common = 0.0
            var union = total
            // Ties round to even, and as Float, where the definition rounds.
            let top = Int((Float(y) - 3).rounded(.toNearestOrEven))
            let left = Int((Float(x) - 3).rounded(.toNearestOrEven))
            DemoGeometry.forEachPixel(prompt.shape, top: top, left: left) { pixel in
                common += Double(weight[pixel])
                union += 1 - Double(weight[pixel])
            }

            let mean = [red / area, green / area, blue / area]
            let bright = norm(mean)
            let wanted = DemoGeometry.deviation(prompt.colour).map(Double.init)
            let wantedNorm = norm(wanted)
            let off = zip(mean, wanted).map { $0 / max(bright, 1e-3) - $1 / wantedNorm }
            return (x, y, 1 - common / max(union, 1e-3), norm(off), abs(bright / wantedNorm - 1))
        }
    }
}

private func norm(_ vector: [Double]) -> Double {
    vector.reduce(0) { $0 + $1 * $1 }.squareRoot()
}
