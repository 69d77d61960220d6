import DemoWorld
import Foundation
import Safetensors
import Tensors
import Testing

/// 32 clips of the world's definition in torch, with what it says of them: good and flawed ones, generated ones, half-denoised ones, plain
/// noise and an empty background.
struct ReferenceCasesTests {
    let file: SafetensorsFile
    let prompts: [DemoPrompt]
    let conditioning: DemoConditioning

    init() throws {
        let path = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures/cases.safetensors").path
        file = try SafetensorsFile(contentsOf: path)
        prompts = try file.integers("prompts").map { DemoPrompt(id: Int($0)) }
        conditioning = try DemoConditioning()
    }

    @Test func `The annotator gives the definition's penalties, quality and verdict`() throws {
        let judgements = DemoAnnotator.judge(try file.tensor("clips"), prompts: prompts)
        let penalties = try file.tensor("penalties").array
        let quality = try file.tensor("quality").array
        let good = try file.integers("good")
        for (index, judgement) in judgements.enumerated() {
            for axis in 0..<5 {
                let difference = abs(judgement.penalties[axis] - penalties[index * 5 + axis])
                #expect(difference < 1e-5, "clip \(index), \(DemoAnnotator.axes[axis])")
            }
            #expect(abs(judgement.quality - quality[index]) < 2e-5, "clip \(index)")
            #expect(judgement.isGood == (good[index] != 0), "clip \(index)")
        }
    }

    @Test func `The codec encodes as the definition does, and decoding gives the clip back`() throws {
        let clips = try file.tensor("clips")
        let latents = try file.tensor("latents")
        #expect(largestDifference(conditioning.codec.encode(clips), latents) < 1e-5)
        #expect(largestDifference(conditioning.codec.decode(latents), clips) < 1e-5)
    }

    @Test func `The codec's basis is orthonormal: opponent colours times Haar`() {
        let basis = conditioning.codec.basis.array
        let opponent: [[Float]] = [[1, 1, 1], [1, 0, -1], [1, -2, 1]]
        let haar: [[Float]] = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
        for row in 0..<12 {
            let colours = opponent[row / 4]
            let norm = colours.reduce(0) { $0 + $1 * $1 }.squareRoot()
            for column in 0..<12 {
                let expected = colours[column / 4] / norm * haar[row % 4][column % 4] / 2
                #expect(abs(basis[row * 12 + column] - expected) < 1e-6)
            }
        }
    }

    @Test func `Prompts become the definition's words`() throws {
        #expect(largestDifference(conditioning.promptEmbeds(prompts), try file.tensor("prompt_embeds")) == 0)
        #expect(conditioning.promptEmbeds(nil).array.allSatisfy { $0 == 0 })
        #expect(DemoPrompt(text: "red diamond moving right")?.id == 0)
        #expect(DemoPrompt(.hourglass, .blue, .down).text == "blue hourglass moving down")
        #expect(DemoPrompt.allCases.allSatisfy { DemoPrompt(text: $0.text) == $0 })
    }
}

func largestDifference(_ a: Tensor, _ b: Tensor) -> Float {
    #expect(a.shape == b.shape)
    return zip(a.array, b.array).reduce(0) { max($0, abs($1.0 - $1.1)) }
}
