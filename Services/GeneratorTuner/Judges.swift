import Alignment
import Artifacts
import Backbones
import JobQueue
import Preferences
import Rewards

/// Registered rewards as judges, each with a trunk of its own.
struct Judges {
    let inputs: JobInputs

    struct Judge {
        var version: ModelVersion
        var maker: LatentJudgeMaker
        var configuration: RewardConfiguration
    }

    /// The judge that a reference names. Its trunk is loaded anew from the registry, so that no tensor is shared with a generator being tuned.
    /// - Throws: a permanent ``JobError`` when the head is not whole, or was trained on another backbone than the registry holds.
    func maker(_ reference: String) async throws -> Judge {
        let (version, folder) = try await inputs.folder(reference, .reward, what: "setting reward")
        defer { folder.release() }
        do {
            let head = try RewardFolder(directory: folder.path)
            let trunk = try await inputs.folder(head.configuration.backbone, .generator, what: "\(version.reference)'s backbone")
            defer { trunk.folder.release() }
            let weights = try RewardWeights(
                folder: head, trunk: WanTransformer3DModel.load(directory: trunk.folder.path), name: trunk.version.reference)
            return Judge(version: version, maker: { RewardModel(weights) }, configuration: head.configuration)
        } catch let error as RewardError {
            throw JobError.permanent("\(version.reference): \(error.description)")
        } catch let error as BackboneError {
            throw JobError.permanent("\(version.reference): \(error.description)")
        }
    }
}
