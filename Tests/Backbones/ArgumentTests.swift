import Backbones
import Foundation
import Tensors
import Testing

@Suite struct ArgumentsThatDoNotFit {
    private func message(
        _ name: String, hidden: [Int]? = nil, timestep: [Float]? = nil, text: [Int]? = nil, image: [Int]? = nil, noImage: Bool = false,
        features: Set<Int> = [], lastBlock: Int? = nil
    ) throws -> String {
        let inputs = try FixtureInputs(name)
        let model = try WanTransformer3DModel.load(directory: "\(fixtures)/\(name)")
        let picture = image.map { Tensor(zeros: $0) } ?? (noImage ? nil : inputs.image)
        do {
            _ = try model(
                hiddenStates: Variable(hidden.map { Tensor(zeros: $0) } ?? inputs.hidden), timestep: timestep ?? inputs.timestep,
                encoderHiddenStates: Variable(text.map { Tensor(zeros: $0) } ?? inputs.text),
                encoderHiddenStatesImage: picture.map { Variable($0) }, features: features, lastBlock: lastBlock)
            return "accepted"
        } catch { return "\(error)" }
    }

    @Test func areNamed() throws {
        #expect(try message("t2v") == "accepted")
        #expect(try message("t2v", hidden: [2, 12, 3, 6, 10]).contains("in_channels is 20"))
        #expect(try message("t2v", hidden: [20, 3, 6, 10]).contains("hidden_states"))
        #expect(try message("t2v", hidden: [2, 20, 3, 7, 10]).contains("rows"))
        #expect(try message("t2v", hidden: [2, 20, 17, 6, 10]).contains("rope_max_seq_len"))
        #expect(try message("t2v", hidden: [0, 20, 3, 6, 10]).contains("hidden_states"))
        #expect(try message("t2v", timestep: [1]).contains("timestep"))
        #expect(try message("t2v", timestep: [1, .nan]).contains("timestep"))
        #expect(try message("t2v", text: [2, 7, 12]).contains("encoder_hidden_states"))
        #expect(try message("t2v", text: [1, 7, 13]).contains("encoder_hidden_states"))
        #expect(try message("t2v", image: [2, 3, 4]).contains("encoder_hidden_states_image"))
        #expect(try message("i2v", noImage: true).contains("encoder_hidden_states_image"))
        #expect(try message("i2v", image: [2, 9, 13]).contains("encoder_hidden_states_image"))
        #expect(try message("i2v", text: [2, 500, 6]).contains("encoder_hidden_states"))
        #expect(try message("flf", image: [2, 5, 10]).contains("[4,I,10]"))
        #expect(try message("flf", image: [4, 6, 10]).contains("5"))
        #expect(try message("t2v", features: [4]).contains("block 4"))
        #expect(try message("t2v", features: [0]).contains("block 0"))
        #expect(try message("t2v", features: [3], lastBlock: 2).contains("block 3"))
    }
}
