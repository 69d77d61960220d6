import Access
import ServiceKit

/// `foretaste-ingest`.
@main
struct IngestMain {
    static func main() async {
        await ServiceMain.run(
            service: IngestService.name, summary: IngestService.summary,
            variables: IngestConfiguration.variables + AccessConfiguration.variables, IngestService.application)
    }
}
