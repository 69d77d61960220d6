import Backbones
import Foundation
import Safetensors
import Tensors
import Testing

@testable import Rewards

@Suite struct JudgeTests {
    static func trained() throws -> (folder: RewardFolder, weights: RewardWeights, trunk: WanTransformer3DModel) {
        let trunk = try TinyWorld.trunk()
        let shape = HeadConfiguration.prism(featureWidth: 24, width: 16)
        let head = try RewardHead(configuration: shape, seed: 1)
        let configuration = RewardConfiguration(
            head: shape, block: 1, loss: .raoKupper(eta: 5), dimension: "overall", backbone: "tiny:1",
            backboneFingerprint: RewardWeights.fingerprint(of: trunk, blocks: 1), vae: "tiny-vae", latentChannels: 4, conditionChannels: 1)
        let folder = RewardFolder(head: head, configuration: configuration, metrics: Data("{}".utf8))
        return (folder, try RewardWeights(folder: folder, trunk: trunk, name: "tiny:1"), trunk)
    }

    static let latents = TinyWorld.tensor([2, 4, 2, 4, 4], seed: 50)
    static var prompts: Variable { Variable(TinyWorld.tensor([2, 3, 10], seed: 51)) }
    static var condition: Variable { Variable(TinyWorld.tensor([2, 1, 2, 4, 4], seed: 52)) }

    @Test func theLatentsGetAGradientAndTheJudgesParametersGetNone() throws {
        let model = RewardModel(try Self.trained().weights)
        func score(_ x: Variable) throws -> Variable {
            try model.score(latents: x, timestep: [700, 300], promptEmbeds: Self.prompts, condition: Self.condition, imageEmbeds: nil)
        }
        let x = Variable(Self.latents, requiresGradient: true)
        let result = try score(x)
        #expect(result.shape == [2])
        result.backward(Tensor([1, -2], shape: [2]))
        let direction = TinyWorld.tensor(Self.latents.shape, seed: 53)
        let step: Float = 1e-2
        func value(_ sign: Float) throws -> Double {
            let scores = try score(Variable(Self.latents + direction * (sign * step))).tensor.array
            return Double(scores[0]) - 2 * Double(scores[1])
        }
        let numeric = (try value(1) - value(-1)) / Double(2 * step)
        let exact = Double((x.gradient! * direction).sum)
        #expect(abs(numeric - exact) < 5e-3 * max(1, abs(exact)), "\(numeric) \(exact)")
        // Without a live input there is no graph at all, so nothing can reach a parameter.
        #expect(try !score(Variable(Self.latents)).requiresGradient)
    }

    @Test func scoresDoNotDependOnTheNumberOfThreads() throws {
        let weights = try Self.trained().weights
        let batch = RewardWeights.Batch(
            latents: TinyWorld.tensor([9, 4, 2, 4, 4], seed: 60), timestep: Array(repeating: 500, count: 9),
            promptEmbeds: TinyWorld.tensor([9, 3, 10], seed: 61), condition: TinyWorld.tensor([9, 1, 2, 4, 4], seed: 62))
        let before = NumericThreads.count
        defer { NumericThreads.count = before }
        NumericThreads.count = 1
        let one = try weights.scores(batch)
        NumericThreads.count = 4
        #expect(try weights.scores(batch) == one)
    }

    @Test func aFolderComesBackAsItWas() throws {
        let trained = try Self.trained()
        let path = try TinyWorld.folder()
        defer { try? FileManager.default.removeItem(atPath: path) }
        try trained.folder.write(to: path)
        let read = try RewardFolder(directory: path)
        #expect(read.configuration == trained.folder.configuration)
        #expect(read.head.named.map(\.tensor.array) == trained.folder.head.named.map(\.tensor.array))
        _ = try RewardWeights(folder: read, trunk: trained.trunk, name: "tiny:1")
    }

    @Test func anotherBackboneIsRefusedByName() throws {
        let trained = try Self.trained()
        let error = #expect(throws: RewardError.self) {
            try RewardWeights(folder: trained.folder, trunk: TinyWorld.trunk(seed: 8), name: "tiny:2")
        }
        #expect(error?.description.contains("tiny:1") == true && error?.description.contains("tiny:2 is another backbone") == true)
    }

    @Test func aMissingTensorAMissingFileAndAStrangeOneAreRefused() throws {
        let trained = try Self.trained()
        let path = try TinyWorld.folder()
        defer { try? FileManager.default.removeItem(atPath: path) }
        try trained.folder.write(to: path)
        let named = trained.folder.head.named
        func rewrite(_ tensors: [(String, Tensor)]) throws { try SafetensorsWriter.write(tensors: tensors, to: "\(path)/head.safetensors") }
        func message() -> String {
            do {
                _ = try RewardFolder(directory: path)
                return ""
            } catch { return "\(error)" }
        }
        try rewrite(named.filter { $0.name != "attention.to_v.bias" })
        #expect(message().contains("'attention.to_v.bias' (shape [16]) is missing"))
        try rewrite(named + [("stranger", Tensor(zeros: [2]))])
        #expect(message().contains("'stranger' is none of this head's"))
        try rewrite(named.map { $0.name == "query" ? ($0.name, Tensor(full: .nan, shape: $0.tensor.shape)) : $0 })
        #expect(message().contains("'query' holds values that are not finite"))
        try FileManager.default.removeItem(atPath: "\(path)/head.safetensors")
        #expect(message().contains("never replaced by a random one"))
        try trained.folder.write(to: path)
        try Data(#"{"_class_name":"WanTransformer3DModel"}"#.utf8).write(to: URL(filePath: "\(path)/config.json"))
        #expect(message().contains("_class_name is 'WanTransformer3DModel', expected ForetasteRewardHead"))
    }

    @Test func aBlockThatIsNotThereIsRefused() throws {
        let head = try RewardHead(configuration: .prism(featureWidth: 24, width: 16), seed: 1)
        #expect(throws: RewardError("block 3 is asked for, but the backbone has 1 to 2")) {
            try RewardWeights(trunk: TinyWorld.trunk(), head: head, block: 3)
        }
    }
}
