/// What a model's configuration says, in the terms that all classes share.
struct BackboneDescription {
    /// One input beside the latent and the timestep.
    struct Condition {
        let input: String
        let width: Int
        let note: String
    }

    let task: String
    /// The latent's axes without the batch: `CFHW` for clips, `CHW` for pictures.
    let layout: String
    let inChannels: Int
    let outChannels: Int
    /// Latent positions along each axis that make one token; nil where each is one.
    let patch: [Int]?
    let blocks: String
    let limit: String?
    let conditions: [Condition]
    /// Whether models of this class are trained by flow matching; the others' noise is their schedule's to say.
    let predictsFlow: Bool
}
