import Backbones
import Foundation
import Tensors
import Testing

@Suite struct SD3ArgumentsThatDoNotFit {
    private func message(
        hidden: Tensor? = nil, timestep: [Float]? = nil, text: Tensor? = nil, pooled: Tensor? = nil, features: Set<Int> = [],
        lastBlock: Int? = nil
    ) throws -> String {
        let inputs = try SD3FixtureInputs("sd3")
        let model = try SD3Transformer2DModel.load(directory: "\(fixtures)/sd3")
        do {
            _ = try model(
                hiddenStates: Variable(hidden ?? inputs.hidden), timestep: timestep ?? inputs.timestep,
                encoderHiddenStates: Variable(text ?? inputs.text), pooledProjections: Variable(pooled ?? inputs.pooled),
                features: features, lastBlock: lastBlock)
            return "accepted"
        } catch { return "\(error)" }
    }

    @Test func areNamed() throws {
        #expect(try message() == "accepted")
        let hidden: [([Int], String)] = [
            ([2, 4, 6], "hidden_states has shape"), ([2, 4, 1, 6, 10], "hidden_states has shape"), ([0, 4, 6, 10], "hidden_states"),
            ([2, 4, 0, 10], "hidden_states"), ([2, 5, 6, 10], "in_channels is 4"), ([2, 4, 7, 10], "7 rows"),
            ([2, 4, 6, 11], "11 columns"), ([2, 4, 18, 10], "pos_embed_max_size 8"), ([2, 4, 6, 18], "pos_embed_max_size 8"),
            ([1, 4, 6, 10], "timestep"),
        ]
        for (shape, says) in hidden { #expect(try message(hidden: Tensor(zeros: shape)).contains(says), "\(shape)") }
        #expect(try message(hidden: Tensor(zeros: [2, 4, 16, 16])) == "accepted", "the whole table of positions")
        #expect(try message(timestep: [1]).contains("timestep"))
        #expect(try message(timestep: [1, .infinity]).contains("timestep"))
        for shape in [[2, 7, 13], [1, 7, 14], [2, 0, 14], [2, 14]] {
            #expect(try message(text: Tensor(zeros: shape)).contains("encoder_hidden_states"), "\(shape)")
        }
        for shape in [[2, 9], [1, 10], [2, 1, 10], [20]] {
            #expect(try message(pooled: Tensor(zeros: shape)).contains("pooled_projections"), "\(shape)")
        }
        #expect(try message(features: [4]).contains("block 4"))
        #expect(try message(features: [0]).contains("block 0"))
        #expect(try message(lastBlock: 5).contains("block 5"))
        #expect(try message(features: [3], lastBlock: 2).contains("block 3"))
    }

    @Test func thatAreNotFiniteAreNamed() throws {
        let inputs = try SD3FixtureInputs("sd3")
        func poisoned(_ tensor: Tensor, _ value: Float) -> Tensor {
            var copy = tensor
            copy.withUnsafeMutableBufferPointer { $0[$0.count - 1] = value }
            return copy
        }
        #expect(try message(hidden: poisoned(inputs.hidden, .nan)).hasPrefix("hidden_states holds"))
        #expect(try message(text: poisoned(inputs.text, .infinity)).hasPrefix("encoder_hidden_states holds"))
        #expect(try message(pooled: poisoned(inputs.pooled, .nan)).hasPrefix("pooled_projections holds"))
    }
}
