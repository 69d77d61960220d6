import Access
import ServiceKit

/// `foretaste-latent-scorer`.
@main
struct LatentScorerMain {
    static func main() async {
        await ServiceMain.run(
            service: LatentScorerService.name,
            summary: "Scores unfinished latents with the champion reward, and says which candidates of a Best-of-N to keep.",
            variables: ScorerConfiguration.variables + AccessConfiguration.variables, LatentScorerService.application)
    }
}
