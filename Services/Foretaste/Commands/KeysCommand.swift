import Access
import ArgumentParser
import Foundation
import ServiceKit

/// `foretaste keys …`
struct KeysCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "keys", abstract: "Create, list and revoke API keys.",
        discussion: """
            Requests to ingest and the scorer carry a key: 'Authorization: Bearer ft_…'. Scopes: ingest (post labels), read (read them), score (ask for \
            scores), admin (everything, and the audit log). `foretaste up` mints a key for its run and writes it into the ready file.
            """,
        subcommands: [Create.self, List.self, Revoke.self])

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Create a key and print it, once: only its hash is stored.",
            discussion:
                "The key alone goes to standard output: export FORETASTE_API_KEY=$(foretaste keys create --name studio --scopes ingest,read)"
        )
        @OptionGroup var data: DataOptions
        @Option(help: "Who or what uses it.") var name: String
        @Option(help: "What it may do, by commas: ingest, read, score, admin.") var scopes: String
        @Option(help: "How long it lasts: 12h, 90d, 1y; for ever if not given.") var expires: String?

        func validate() throws {
            _ = try parsedScopes()
            _ = try expires.map(Self.seconds)
            guard !name.isEmpty, name.count <= 200 else { throw ValidationError("--name: expected 1 to 200 characters") }
        }

        func run() async throws {
            let scopes = try parsedScopes()
            let end = try expires.map { Date.now + (try Self.seconds($0)) }
            try await data.withDatabase { client in
                let key = try await KeyStore(client: client).create(name: name, scopes: scopes, expiresAt: end)
                print(key.text)
                let until = end.map { ", until \($0.formatted(.iso8601))" } ?? ""
                FileHandle.standardError.write(
                    Data(
                        "key \(key.id) for \(scopes.map(\.rawValue).sorted().joined(separator: ", "))\(until). It is not shown again.\n"
                            .utf8))
            }
        }

        private func parsedScopes() throws -> Set<Scope> {
            let words = scopes.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
            guard !words.isEmpty else { throw ValidationError("--scopes: expected some of \(Self.allScopes)") }
            return Set(
                try words.map { word in
                    guard let scope = Scope(rawValue: word) else {
                        throw ValidationError("--scopes: there is no scope '\(word)'; expected some of \(Self.allScopes)")
                    }
                    return scope
                })
        }

        private static let allScopes = Scope.allCases.map(\.rawValue).joined(separator: ", ")

        static func seconds(_ text: String) throws -> TimeInterval {
            let units: [Character: TimeInterval] = ["m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400]
            guard let unit = text.last.flatMap({ units[$0] }), let count = Int(text.dropLast()), (1...1_000_000).contains(count) else {
                throw ValidationError("--expires \(text): expected a number and m, h, d, w or y, such as 90d")
            }
            return Double(count) * unit
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "The keys, newest first; never the keys themselves.")
        @OptionGroup var data: DataOptions
        @Flag(help: "Those that expired or were revoked too.") var all = false
        @Flag(help: "JSON, for programs.") var json = false

        func run() async throws {
            try await data.withDatabase { client in
                let keys = try await KeyStore(client: client).list(all: all)
                if json {
                    let encoder = JSONEncoder()
                    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
                    encoder.dateEncodingStrategy = .iso8601
                    return print(String(decoding: try encoder.encode(keys), as: UTF8.self))
                }
                print(
                    Table.render(
                        header: ["ID", "NAME", "SCOPES", "STATE", "EXPIRES", "LAST USED", "CREATED", "BY"],
                        rows: keys.map {
                            [
                                $0.id, $0.name, $0.scopes.map(\.rawValue).joined(separator: ","), $0.state(), Self.text($0.expiresAt),
                                Self.text($0.lastUsedAt), Self.text($0.createdAt), $0.createdBy,
                            ]
                        }))
            }
        }

        private static func text(_ date: Date?) -> String { date?.formatted(.iso8601) ?? "" }
    }

    struct Revoke: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "End a key, everywhere and at once.")
        @OptionGroup var data: DataOptions
        @Argument(help: "The key's id: the eight characters behind ft_. A whole key will do.") var id: String
        @Option(help: "Why, for the record.") var reason = "revoked by an operator"

        func run() async throws {
            let id = APIKey(id)?.id ?? id
            try await data.withDatabase { client in
                guard try await KeyStore(client: client).revoke(id, reason: reason) else {
                    throw CommandFailure(
                        description: "there is no key \(id) that is not revoked already; `foretaste keys list --all` shows them")
                }
            }
        }
    }
}
