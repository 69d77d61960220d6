import Artifacts
import Backbones
import Diffusion
import Foundation
import Preferences

/// Model folders in and out of the registry: a version's artifact is the folder's manifest.
enum ModelImport {
    /// The folder to be published, checked in full: the model's own, or links to what of a pipeline belongs to it.
    struct Source {
        let path: String
        private let isOurs: Bool

        init(_ directory: String) throws {
            let folder = try PipelineFolder(directory)
            if let schedule = folder.schedulerConfiguration { _ = try SchedulerConfiguration(contentsOf: schedule) }
            let model = try BackboneInspection(folder)
            isOurs = folder.pipeline != nil
            guard isOurs else {
                path = folder.model
                return
            }
            path = FileManager.default.temporaryDirectory.appending(path: "foretaste-import-\(UUID().uuidString)").path(
                percentEncoded: false)
            let weights = model.shards.map(\.file) + (model.index.map { [$0] } ?? [])
            var links = (["config.json"] + weights).map { ($0, "\(folder.model)/\($0)") }
            if let vae = folder.vaeConfiguration { links.append(("vae/config.json", vae)) }
            if let scheduler = folder.schedulerConfiguration { links.append(("scheduler/scheduler_config.json", scheduler)) }
            do {
                for (name, target) in links {
                    let place = "\(path)/\(name)"
                    try FileManager.default.createDirectory(
                        atPath: (place as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
                    try FileManager.default.createSymbolicLink(atPath: place, withDestinationPath: target)
                }
            } catch {
                remove()
                throw error
            }
        }

        /// Takes the links away.
        func remove() { if isOurs { try? FileManager.default.removeItem(atPath: path) } }
    }

    /// Publishes a diffusers folder and registers it as a generator; the same bytes again are the same version.
    static func register(_ folder: String, name: String, registry: ModelRegistry, store: ArtifactStore) async throws -> ModelVersion {
        let published = try await ModelFolder.publish(folder, to: store)
        let config = try String(contentsOfFile: folder + "/config.json", encoding: .utf8)
        let files = published.manifest.files.map { ModelFile(path: $0.name, url: $0.url, sha256: $0.sha256, bytes: Int64($0.bytes)) }
        return try await registry.register(
            NewModel(
                name: name, kind: .generator, url: published.artifact.url, sha256: published.artifact.sha256,
                bytes: files.reduce(0) { $0 + $1.bytes }, mediaType: ModelFolder.mediaType, files: files, config: config),
            reuseIdentical: true)
    }

    /// Writes a version's folder to `directory`, each file verified; a file of the same name is replaced.
    static func export(_ version: ModelVersion, to directory: String, with fetcher: ArtifactFetcher) async throws {
        let folder = try await ModelFolder.fetch(version.model.url, sha256: version.model.sha256, with: fetcher)
        defer { folder.release() }
        for name in try FileManager.default.subpathsOfDirectory(atPath: folder.path) {
            let source = folder.path + "/" + name, target = directory + "/" + name
            var isFolder: ObjCBool = false
            if FileManager.default.fileExists(atPath: source, isDirectory: &isFolder), isFolder.boolValue { continue }
            try FileManager.default.createDirectory(
                atPath: (target as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
            try? FileManager.default.removeItem(atPath: target)
            try FileManager.default.copyItem(atPath: source, toPath: target)
        }
    }
}
