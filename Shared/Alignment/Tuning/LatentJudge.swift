public import Tensors

/// A frozen reward that reads latents as they are, at any noise level, and lets a gradient through to them.
///
/// A judge has weights of its own: it shares no tensor with the generator that it judges, and none of its parameters requires a
/// gradient. One judge serves one thread.
public protocol LatentJudge {
    /// - Parameters:
    ///   - latents: [B,C,F,H,W], live.
    ///   - timestep: 1000·sigma of these latents, one a clip: of the latents given, not of those before the step.
    ///   - promptEmbeds: [B,L,D].
    ///   - condition: [B,C₂,F,H,W], joined behind the latents; nil where the backbone takes none.
    ///   - imageEmbeds: [B,I,D]; nil where the backbone takes none.
    /// - Returns: rewards [B], not normalised.
    func score(
        latents: Variable, timestep: [Float], promptEmbeds: Variable, condition: Variable?, imageEmbeds: Variable?
    ) throws -> Variable
}

/// Makes a judge for the thread that calls it.
public typealias LatentJudgeMaker = @Sendable () throws -> any LatentJudge
