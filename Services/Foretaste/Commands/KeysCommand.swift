import Access
import ArgumentParser
import Foundation
import ServiceKit

/// `foretaste keys …`
struct KeysCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "keys", abstract: "Create, list, rotate and revoke API keys.",
        discussion: """
            Requests to ingest and the scorer carry a key: 'Authorization: Bearer ft_…'. Scopes: ingest (post labels), read (read them), score (ask for \
            scores), admin (everything, and the audit log). `foretaste up` mints a key for its run and writes it into the ready file.
            """,
        subcommands: [Create.self, List.self, Rotate.self, Revoke.self])

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
            _ = try KeysCommand.seconds(expires, option: "--expires")
            guard !name.isEmpty, name.count <= 200 else { throw ValidationError("--name: expected 1 to 200 characters") }
        }

        func run() async throws {
            let scopes = try parsedScopes()
            let end = try KeysCommand.seconds(expires, option: "--expires").map { Date.now + $0 }
            try await data.withDatabase { client in
                let key = try await KeyStore(client: client).create(name: name, scopes: scopes, expiresAt: end)
                KeysCommand.show(key, scopes, until: end)
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

    struct Rotate: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Put a new key in the place of one, and print it, once.",
            discussion:
                "The new key has the name and scopes of the old one, which goes on for a while so that its users can change over. `foretaste keys list` shows by LAST USED whether they have."
        )
        @OptionGroup var data: DataOptions
        @Argument(help: "The old key's id: the eight characters behind ft_. A whole key will do.") var id: String
        @Option(help: "How long the old one goes on at most: 30m, 24h, 7d; 0 ends it now.") var overlap = "24h"
        @Option(help: "How long the new one lasts: 12h, 90d, 1y; as long as the old one was made to last if not given.") var expires:
            String?

        func validate() throws {
            _ = try (KeysCommand.seconds(overlap, option: "--overlap"), KeysCommand.seconds(expires, option: "--expires"))
        }

        func run() async throws {
            let id = APIKey(id)?.id ?? id
            let overlap = try KeysCommand.seconds(overlap, option: "--overlap") ?? 0
            let end = try KeysCommand.seconds(expires, option: "--expires").map { Date.now + $0 }
            try await data.withDatabase { client in
                let store = KeyStore(client: client)
                guard let rotation = try await store.rotate(id, overlap: overlap, expiresAt: end) else {
                    throw try await KeysCommand.notInUse(id, store)
                }
                KeysCommand.show(rotation.key, rotation.scopes, until: rotation.expiresAt)
                let old = rotation.oldExpiresAt <= .now ? "has ended" : "ends at \(rotation.oldExpiresAt.formatted(.iso8601))"
                FileHandle.standardError.write(Data("The key \(id) \(old).\n".utf8))
            }
        }
    }

    struct Revoke: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "End a key, everywhere and at once.")
        @OptionGroup var data: DataOptions
        @Argument(help: "The key's id: the eight characters behind ft_. A whole key will do.") var id: String
        @Option(help: "Why, for the record.") var reason = "revoked by an operator"

        func run() async throws {
            let id = APIKey(id)?.id ?? id
            try await data.withDatabase { client in
                let store = KeyStore(client: client)
                guard try await store.revoke(id, reason: reason) else { throw try await KeysCommand.notInUse(id, store) }
                FileHandle.standardError.write(Data("The key \(id) has ended.\n".utf8))
            }
        }
    }
}

extension KeysCommand {
    /// The key to standard output, alone; what is to be known of it to standard error.
    private static func show(_ key: APIKey, _ scopes: Set<Scope>, until end: Date?) {
        print(key.text)
        let until = end.map { ", until \($0.formatted(.iso8601))" } ?? ""
        let may = scopes.map(\.rawValue).sorted().joined(separator: ", ")
        FileHandle.standardError.write(Data("key \(key.id) for \(may)\(until). It is not shown again.\n".utf8))
    }

    /// Why a key cannot be ended or replaced.
    private static func notInUse(_ id: String, _ store: KeyStore) async throws -> CommandFailure {
        let keys = try await store.list(all: true)
        if let key = keys.first(where: { $0.id == id }) {
            if let at = key.revokedAt {
                return CommandFailure(description: "the key \(id) was revoked at \(at.formatted(.iso8601)) already")
            }
            if let at = key.expiresAt, at <= .now {
                return CommandFailure(description: "the key \(id) expired at \(at.formatted(.iso8601))")
            }
            return CommandFailure(description: "the key \(id) is that of a run of `foretaste up`, which renews it and ends it")
        }
        let named = keys.filter { $0.name == id && $0.state() == "active" }
        if !named.isEmpty {
            let ids = named.map(\.id).joined(separator: ", ")
            return CommandFailure(description: "'\(id)' is a name, and keys are known by their ids: \(ids)")
        }
        return CommandFailure(description: "there is no key '\(id.prefix(80))'; `foretaste keys list --all` shows the ids")
    }

    /// A duration in seconds. Nil without a text; 0 is one only where nothing is what is meant.
    private static func seconds(_ text: String?, option: String) throws -> TimeInterval? {
        guard let text else { return nil }
        if text == "0", option == "--overlap" { return 0 }
        let units: [Character: TimeInterval] = ["m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400]
        guard let unit = text.last.flatMap({ units[$0] }), let count = Int(text.dropLast()), (1...1_000_000).contains(count),
            Double(count) * unit <= 1000 * units["y"]!
        else { throw ValidationError("\(option) \(text): expected a number and m, h, d, w or y, such as 90d, up to 1000y") }
        return Double(count) * unit
    }
}
