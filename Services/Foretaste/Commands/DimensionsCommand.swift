import ArgumentParser
import Foundation
import Preferences

/// `foretaste dimensions …`
struct DimensionsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dimensions", abstract: "What raters judge; ingest refuses labels of other dimensions.",
        subcommands: [List.self, Add.self])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "The known dimensions.")
        @OptionGroup var data: DataOptions
        @Flag(help: "JSON, for programs.") var json = false

        func run() async throws {
            try await data.withDatabase { client in
                let dimensions = try await DimensionRegistry(client: client).list()
                if json { return print(try labelJSON(dimensions)) }
                print(Table.render(header: ["NAME", "QUESTION"], rows: dimensions.map { [$0.name, $0.description] }))
            }
        }
    }

    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Make a dimension known, or describe a known one anew.")
        @OptionGroup var data: DataOptions
        @Argument(help: "Its name: letters, digits, '_', '.' and '-'.") var name: String
        @Argument(help: "What raters are asked.") var question: String

        func validate() throws {
            guard DimensionRegistry.isName(name) else {
                throw ValidationError("'\(name)': expected up to \(DimensionRegistry.nameLimit) letters, digits, '_', '.' and '-'")
            }
        }

        func run() async throws {
            try await data.withDatabase { client in
                let isNew = try await DimensionRegistry(client: client).define(name, description: question)
                print("\(name): \(isNew ? "added" : "was known; described anew")")
            }
        }
    }
}

/// What the commands about labels print for programs: keys as over HTTP, sorted.
func labelJSON(_ value: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.dateEncodingStrategy = .iso8601
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes, .prettyPrinted]
    return String(decoding: try encoder.encode(value), as: UTF8.self)
}
