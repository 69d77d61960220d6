import ArgumentParser
import Foundation
import Preferences

/// `foretaste snapshots …`
struct SnapshotsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "snapshots", abstract: "Frozen data sets: list, freeze, read out.", subcommands: [List.self, Freeze.self, Export.self])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "The snapshots, newest first.")
        @OptionGroup var data: DataOptions
        @Option(help: "Only those of this dimension.") var dimension: String?
        @Option(help: "How many at most.") var limit = 100
        @Flag(help: "JSON, for programs.") var json = false

        func validate() throws {
            guard (1...PreferenceStore.maximumPage).contains(limit) else {
                throw ValidationError("--limit: expected 1 to \(PreferenceStore.maximumPage)")
            }
        }

        func run() async throws {
            try await data.withDatabase { client in
                let snapshots = try await SnapshotCatalog(client: client).list(dimension: dimension, limit: limit).items
                if json { return print(try labelJSON(snapshots)) }
                print(
                    Table.render(
                        header: ["ID", "DIMENSION", "BACKBONE", "PAIRS", "TRAIN", "RATINGS", "PROMPTS", "FROZEN", "DIGEST"],
                        rows: snapshots.map {
                            [
                                String($0.id), $0.dimension, $0.backbone ?? "", String($0.pairs), String($0.train), String($0.ratings),
                                String($0.prompts), "\($0.frozenAt)", String($0.digest.prefix(12)),
                            ]
                        }))
            }
        }
    }

    struct Freeze: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Freeze the usable labels of a dimension as they are now, and print the id.")
        @OptionGroup var data: DataOptions
        @Option(help: "What was judged.") var dimension = "overall"
        @Option(help: "Only latents of this backbone, by name; any if not given.") var backbone: String?
        @Option(help: "The share of prompts to evaluate on.") var heldOut = 0.25

        func validate() throws {
            guard (0.01...0.9).contains(heldOut) else { throw ValidationError("--held-out: expected 0.01 to 0.9") }
        }

        func run() async throws {
            try await data.withDatabase { client in
                print(try await SnapshotCatalog(client: client).freeze(dimension: dimension, backbone: backbone, heldOut: heldOut).id)
            }
        }
    }

    struct Export: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write a snapshot as lines of JSON to standard output.",
            discussion: """
                pairs and ratings have a line for each label; comparisons have what raters say together on each two latents. URLs come \
                without their queries, which may hold signatures.
                """)
        @OptionGroup var data: DataOptions
        @Argument(help: "The snapshot's id.") var id: Int64
        @Option(help: "pairs, comparisons or ratings.") var part = "pairs"

        func run() async throws {
            guard let part = SnapshotCatalog.Part(rawValue: part) else {
                throw ValidationError("--part \(part): expected \(SnapshotCatalog.Part.allCases.map(\.rawValue).joined(separator: ", "))")
            }
            try await data.withDatabase { client in
                let catalog = SnapshotCatalog(client: client)
                guard try await catalog.get(id) != nil else { throw CommandFailure(description: "there is no snapshot \(id)") }
                try await catalog.export(id, part) { try FileHandle.standardOutput.write(contentsOf: Data($0.utf8)) }
            }
        }
    }
}
