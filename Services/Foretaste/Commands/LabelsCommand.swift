import ArgumentParser
import Foundation
import Preferences

/// `foretaste labels …`
struct LabelsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "labels", abstract: "What was said about a label; take one out, bring it back, forget a rater.",
        subcommands: [History.self, Retract.self, Restore.self, EraseRater.self])

    struct History: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "What a pair or a rating said, who changed it, when and why.")
        @OptionGroup var data: DataOptions
        @Argument(help: "pair_… or rating_…") var id: String

        func run() async throws {
            try await data.withDatabase { client in
                let revisions = try await PreferenceStore(client: client).history(id)
                guard !revisions.isEmpty else { throw CommandFailure(description: "there is no pair or rating \(id)") }
                print(
                    Table.render(
                        header: ["REVISION", "ACTION", "BY", "AT", "LABEL", "REASON"],
                        rows: revisions.map { [String($0.number), $0.action, $0.actor, "\($0.at)", $0.label, $0.reason ?? ""] }))
            }
        }
    }

    /// A label, and why it is changed by whom.
    struct Change: ParsableArguments {
        @OptionGroup var data: DataOptions
        @Argument(help: "pair_…, rating_… or ranking_… (with all its pairs).") var id: String
        @Option(help: "Why; stays in the history.") var reason: String
        @Option(help: "Who.") var by: String = ProcessInfo.processInfo.userName

        func validate() throws {
            guard !reason.isEmpty, !by.isEmpty else { throw ValidationError("--reason and --by: expected some words") }
        }

        func setRetracted(_ retracted: Bool) async throws {
            try await data.withDatabase { client in
                do {
                    let changed = try await PreferenceStore(client: client).setRetracted(id, retracted, actor: by, reason: reason)
                    print("\(changed) \(changed == 1 ? "label" : "labels") \(retracted ? "retracted" : "restored")")
                } catch LabelChangeError.notFound {
                    throw CommandFailure(description: "there is no pair, rating or ranking \(id)")
                }
            }
        }
    }

    struct Retract: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Leave a label out of later snapshots; frozen ones keep it.")
        @OptionGroup var change: Change

        func run() async throws { try await change.setRetracted(true) }
    }

    struct Restore: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Bring back a label that was retracted.")
        @OptionGroup var change: Change

        func run() async throws { try await change.setRetracted(false) }
    }

    struct EraseRater: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Replace a rater's name everywhere by a tombstone that leads back to nobody.",
            discussion: """
                The labels stay, and so do the digests of snapshots. Keys that a tool made from the name are not changed. There is no way back.
                """)
        @OptionGroup var data: DataOptions
        @Argument(help: "The rater, as in the labels.") var rater: String
        @Option(help: "Why, without the name; stays on record.") var reason: String

        func run() async throws {
            try await data.withDatabase { client in
                let erased = try await PreferenceStore(client: client).eraseRater(rater, reason: reason)
                print("\(erased.labels) labels are now \(erased.tombstone)'s")
            }
        }
    }
}
