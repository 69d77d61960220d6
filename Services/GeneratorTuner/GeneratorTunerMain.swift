import ServiceKit

/// `foretaste-generator-tuner`.
@main
struct GeneratorTunerMain {
    static func main() async {
        await ServiceMain.run(
            service: GeneratorTunerService.name,
            summary:
                "Improves generators with the reward that people's preferences trained (tune_generator), and samples latents (generate).",
            GeneratorTunerService.application)
    }
}
