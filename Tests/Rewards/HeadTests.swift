import Foundation
import Tensors
import Testing

@testable import Rewards

@Suite struct HeadTests {
    static func head(_ kind: HeadKind, queries: Int = 1) throws -> RewardHead {
        var shape =
            kind == .prism ? HeadConfiguration.prism(featureWidth: 12, width: 8, queries: queries, heads: 2) : .pavrm(featureWidth: 12)
        shape.heads = 2
        var head = try RewardHead(configuration: shape, seed: 5)
        // Biases start at zero; values show whether they are where they should be.
        head.tensors = head.tensors.enumerated().map { $1 + TinyWorld.tensor($1.shape, seed: 9, item: $0) * 0.1 }
        return head
    }

    static let visual = TinyWorld.tensor([3, 7, 12], seed: 1)
    static let text = TinyWorld.tensor([3, 4, 12], seed: 2)

    static func loss(_ head: RewardHead, _ visual: Tensor, _ text: Tensor) -> Double {
        let scores = HeadGraph(head)(visual: Variable(visual), text: Variable(text)).tensor.array
        return zip(scores, [1.0, -0.5, 2]).reduce(0) { $0 + Double($1.0) * $1.1 }
    }

    /// The stock module, keys and values formed in full.
    static func naive(_ head: RewardHead, _ visual: Tensor, _ text: Tensor) -> [Float] {
        let byName = Dictionary(uniqueKeysWithValues: head.named.map { ($0.name, Variable($0.tensor)) })
        func apply(_ name: String, _ x: Variable) -> Variable { linear(x, byName["\(name).weight"]!, byName["\(name).bias"]) }
        let isPrism = head.configuration.kind == .prism
        let (queries, width) = (head.configuration.queries, head.configuration.width)
        var tokens = Variable(visual)
        if isPrism { tokens = apply("projection", concatenate([tokens, Variable(text)], axis: 1)) }
        let query = broadcast(reshape(apply("attention.to_q", byName["query"]!), [1, queries, width]), to: [3, queries, width])
        var z = apply(
            "attention.to_out",
            attention(query, apply("attention.to_k", tokens), apply("attention.to_v", tokens), heads: head.configuration.heads))
        if !isPrism { z = add(z, byName["query"]!) }
        var x = reshape(z, [3, queries * width])
        for index in 0...head.configuration.hidden.count {
            x = apply("mlp.\(index)", x)
            if index < head.configuration.hidden.count { x = isPrism ? gelu(x) : relu(x) }
        }
        return x.tensor.array
    }

    @Test(arguments: [(HeadKind.prism, 1), (.prism, 3), (.pavrm, 1)]) func foldedAttentionEqualsTheStockModule(kind: HeadKind, queries: Int)
        throws
    {
        let head = try Self.head(kind, queries: queries)
        let folded = HeadGraph(head)(visual: Variable(Self.visual), text: Variable(Self.text)).tensor
        let stock = Tensor(Self.naive(head, Self.visual, Self.text), shape: [3])
        #expect(folded.relativeError(to: stock) < 1e-5, "\(folded) \(stock)")
    }

    @Test(arguments: HeadKind.allCases) func parameterGradientsMatchFiniteDifferences(kind: HeadKind) throws {
        let head = try Self.head(kind)
        let graph = HeadGraph(head, requiresGradient: true)
        graph(visual: Variable(Self.visual), text: Variable(Self.text)).backward(Tensor([1, -0.5, 2], shape: [3]))
        for (index, parameter) in head.configuration.parameters.enumerated() {
            let direction = TinyWorld.tensor(parameter.shape, seed: 31, item: index)
            let step: Float = 2e-3
            var (up, down) = (head, head)
            up.tensors[index] = head.tensors[index] + direction * step
            down.tensors[index] = head.tensors[index] - direction * step
            let numeric = (Self.loss(up, Self.visual, Self.text) - Self.loss(down, Self.visual, Self.text)) / Double(2 * step)
            let exact = Double((graph.parameters[index].gradient.map { $0 * direction })?.sum ?? 0)
            #expect(abs(numeric - exact) < 2e-3 * max(1, abs(exact)), "\(parameter.name): \(numeric) \(exact)")
        }
    }

    @Test(arguments: HeadKind.allCases) func inputGradientsMatchFiniteDifferences(kind: HeadKind) throws {
        let head = try Self.head(kind)
        let graph = HeadGraph(head)
        let (visual, text) = (Variable(Self.visual, requiresGradient: true), Variable(Self.text, requiresGradient: true))
        graph(visual: visual, text: text).backward(Tensor([1, -0.5, 2], shape: [3]))
        let direction = TinyWorld.tensor([3, 7, 12], seed: 41)
        let step: Float = 2e-3
        let numeric =
            (Self.loss(head, Self.visual + direction * step, Self.text) - Self.loss(head, Self.visual - direction * step, Self.text))
            / Double(2 * step)
        let exact = Double((visual.gradient! * direction).sum)
        #expect(abs(numeric - exact) < 2e-3 * max(1, abs(exact)))
        #expect((text.gradient != nil) == (kind == .prism))
        #expect(graph.parameters.allSatisfy { $0.gradient == nil })
    }

    @Test func theHeadsOfThePapersHaveTheirSizes() throws {
        // methods-video §6.1: 110.65 M on a trunk of width 5120, 11.54 M on one of 1536.
        let sizes = [5120, 1536].map { width in
            HeadConfiguration.pavrm(featureWidth: width).parameters.reduce(0) { $0 + $1.shape.reduce(1, *) }
        }
        #expect(abs(Double(sizes[0]) / 1e6 - 110.65) < 0.01, "\(sizes[0])")
        #expect(abs(Double(sizes[1]) / 1e6 - 11.54) < 0.01, "\(sizes[1])")
    }

    @Test func aHeadThatContradictsItselfIsRefused() {
        var shape = HeadConfiguration.prism(featureWidth: 12, width: 8)
        shape.heads = 3
        #expect(throws: RewardError("head: heads (3) must divide width (8)")) { try RewardHead(configuration: shape, seed: 0) }
    }
}
