import ArgumentParser
import Artifacts
import Foundation
import Preferences

/// `foretaste models …`
struct ModelsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "models", abstract: "Import, export, list, show and promote models.",
        discussion: "NAME:1 is a version, NAME@champion an alias, NAME@latest always the newest.",
        subcommands: [Import.self, Export.self, List.self, Show.self, Promote.self])

    struct Import: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Register a diffusers folder as a generator and print NAME:VERSION.",
            discussion: """
                DIR has config.json and its weights, or is a pipeline's folder with a transformer or U-Net in it; then the VAE's and the \
                scheduler's configuration come along (vae/config.json, scheduler/scheduler_config.json) and the other parts do not. The \
                class comes from config.json: WanTransformer3DModel, UNet2DConditionModel or SD3Transformer2DModel. Every weight is checked \
                before anything is registered.
                """)
        @OptionGroup var data: DataOptions
        @Argument(help: "The folder.") var directory: String
        @Option(help: "The model's name.") var name: String

        func run() async throws {
            guard ModelRegistry.isName(name) else {
                throw CommandFailure(description: "--name \(name): a name has letters, digits, dots, dashes and underscores")
            }
            let folder = try ModelImport.Source(directory)
            defer { folder.remove() }
            try await data.withDatabase { client in
                let version = try await ModelImport.register(
                    folder.path, name: name, registry: ModelRegistry(client: client), store: try data.artifactStore())
                print(version.reference)
            }
        }
    }

    struct Export: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Write a model's folder.")
        @OptionGroup var data: DataOptions
        @Argument(help: "NAME:VERSION, NAME@ALIAS or NAME@latest.") var model: String
        @Argument(help: "Where to; made if missing.") var directory: String

        func run() async throws {
            try await data.withDatabase { client in
                let version = try await ModelRegistry(client: client).resolve(model)
                try await ModelImport.export(version, to: directory, with: try data.artifactFetcher())
                print("\(version.reference) → \(directory)")
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Every version of every model.")
        @OptionGroup var data: DataOptions
        @Option(help: "Only this kind: generator, reward, adapter.") var kind: String?
        @Flag(help: "JSON, for programs.") var json = false

        func run() async throws {
            let wanted = try kind.map { name in
                guard let kind = ModelKind(rawValue: name) else {
                    throw ValidationError("--kind \(name): expected generator, reward or adapter")
                }
                return kind
            }
            try await data.withDatabase { client in
                let models = try await ModelRegistry(client: client).list(kind: wanted)
                if json { return print(models.json) }
                print(
                    Table.render(
                        header: ["MODEL", "KIND", "ALIASES", "DIMENSION", "BACKBONE", "BYTES", "CREATED"],
                        rows: models.map {
                            [
                                $0.reference, $0.kind.rawValue, $0.aliases.joined(separator: ","), $0.model.dimension ?? "",
                                $0.model.backbone ?? "",
                                String($0.model.bytes), "\($0.createdAt)",
                            ]
                        }))
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "One version, with why its aliases moved.")
        @OptionGroup var data: DataOptions
        @Argument(help: "NAME:VERSION, NAME@ALIAS or NAME@latest.") var model: String
        @Flag(help: "JSON, for programs.") var json = false

        func run() async throws {
            try await data.withDatabase { client in
                let registry = ModelRegistry(client: client)
                let version = try await registry.resolve(model)
                print(version.json)
                guard !json else { return }
                for change in try await registry.history(version.name, alias: "champion") {
                    let move = change.moved ? "\(change.from.map { ":\($0)" } ?? "none") → :\(change.to)" : "stayed; not :\(change.to)"
                    print("champion \(move) at \(change.at): \(change.reason)")
                }
            }
        }
    }

    struct Promote: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Move an alias to a version; the reason is kept.")
        @OptionGroup var data: DataOptions
        @Argument(help: "NAME:VERSION or NAME@latest.") var model: String
        @Option(help: "The alias.") var alias = "champion"
        @Option(help: "Why, for the record.") var reason = "promoted by an operator"

        func run() async throws {
            try await data.withDatabase { client in
                let registry = ModelRegistry(client: client)
                let version = try await registry.resolve(model)
                try await registry.setAlias(version.name, alias: alias, version: version.version, reason: reason)
                print("\(version.name)@\(alias) → \(version.reference)")
            }
        }
    }
}
