import ArgumentParser
import JobQueue

/// `foretaste schedule …`
struct ScheduleCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "schedule", abstract: "Retrain by itself: a job whenever so many new pairs became usable.",
        subcommands: [Add.self, List.self, Remove.self])

    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Add a schedule, or change the one of this name; exactly one job a firing, however many processes run.")
        @OptionGroup var data: DataOptions
        @Argument(help: "The schedule's name.") var name: String
        @Option(help: "The kind of its jobs.") var kind = "train_reward"
        @Option(help: "How many new usable pairs make it fire.") var every: Int
        @Option(name: .customLong("set"), parsing: .singleValue, help: "A setting of its jobs, KEY=VALUE.") var settings: [String] = []

        func validate() throws {
            guard every > 0 else { throw ValidationError("--every: expected a positive number of pairs") }
        }

        func run() async throws {
            let arguments = try Settings.json(settings)
            try await data.withDatabase {
                try await JobQueue(client: $0).addSchedule(key: name, kind: kind, json: arguments, everyNewPairs: every)
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "The schedules.")
        @OptionGroup var data: DataOptions
        @Flag(help: "JSON, for programs.") var json = false

        func run() async throws {
            try await data.withDatabase { client in
                let schedules = try await JobQueue(client: client).schedules()
                if json { return print("[" + schedules.map(\.json).joined(separator: ",\n ") + "]") }
                print(
                    Table.render(
                        header: ["NAME", "KIND", "EVERY", "COUNTED", "FIRED", "LAST JOB", "SETTINGS"],
                        rows: schedules.map {
                            [
                                $0.key, $0.kind, String($0.everyNewPairs), String($0.counter), String($0.fired),
                                $0.lastJobID.map { String($0) } ?? "", $0.arguments,
                            ]
                        }))
            }
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Remove a schedule.")
        @OptionGroup var data: DataOptions
        @Argument(help: "The schedule's name.") var name: String

        func run() async throws {
            try await data.withDatabase { client in
                guard try await JobQueue(client: client).removeSchedule(key: name) else {
                    throw CommandFailure(description: "there is no schedule named \(name)")
                }
            }
        }
    }
}
