public import ArgumentParser
import Foundation
import JobQueue

/// `foretaste schedule …`
struct ScheduleCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "schedule", abstract: "Jobs by themselves: at given times, or whenever so many new pairs became usable.",
        subcommands: [Add.self, List.self, Remove.self, Pause.self, Resume.self, Preview.self])

    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Add a schedule, or change the one of this name; exactly one job a firing, however many processes run.",
            discussion: """
                foretaste schedule add nightly train_reward --cron "0 3 * * *" --tz Europe/Berlin --set name=reward-overall
                foretaste schedule add fresh train_reward --every 500 --set name=reward-overall

                A time that the clocks skip runs right after the gap, one that they show twice runs once; an expression for every hour \
                follows real time. `foretaste schedule preview` shows when it will be.
                """)
        @OptionGroup var data: DataOptions
        @Argument(help: "The schedule's name.") var name: String
        @Argument(help: "The kind of its jobs.") var kind = "train_reward"
        @Option(help: "How many new usable pairs make it fire.") var every: Int?
        @Option(help: "When: minute, hour, day of month, month and day of week, or @hourly, @daily, @weekly, @monthly, @yearly.")
        var cron: String?
        @Option(name: .customLong("tz"), help: "The time zone that --cron is meant in.") var timeZone = "UTC"
        @Option(help: "Times at which no worker ran: skip, one (the last of them) or all (the last hundred).", transform: Settings.choice)
        var missed = JobSchedule
            .Missed.one
        @Option(
            help: "When the last job still lives: skip this time, queue behind it, cancel it, or allow both.", transform: Settings.choice)
        var overlap = JobSchedule.Overlap.skip
        @Option(help: "Start each job up to so many seconds later, so that schedules of one time spread.") var jitter = 0.0
        @Option(name: .customLong("set"), parsing: .singleValue, help: "A setting of its jobs, KEY=VALUE.") var settings: [String] = []

        func validate() throws {
            guard (every == nil) != (cron == nil) else { throw ValidationError("expected either --cron or --every") }
            guard every ?? 1 > 0 else { throw ValidationError("--every: expected a positive number of pairs") }
            guard jitter >= 0 else { throw ValidationError("--jitter: expected a number of seconds") }
        }

        func run() async throws {
            let arguments = try Settings.json(settings)
            try await data.withDatabase {
                let queue = JobQueue(client: $0)
                if let every {
                    try await queue.addSchedule(key: name, kind: kind, json: arguments, everyNewPairs: every)
                } else if let cron {
                    try await queue.addSchedule(
                        key: name, kind: kind, json: arguments, cron: cron, timeZone: timeZone, missed: missed, overlap: overlap,
                        jitter: .seconds(jitter))
                }
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
                        header: ["NAME", "KIND", "WHEN", "NEXT", "FIRED", "SKIPPED", "LAST", "SETTINGS"],
                        rows: schedules.map {
                            [
                                $0.key, $0.kind,
                                $0.when, $0.next, String($0.fired), String($0.skipped), $0.last, $0.arguments,
                            ]
                        }))
            }
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Remove a schedule.")
        @OptionGroup var schedule: ExistingSchedule

        func run() async throws { try await schedule.change { try await $0.removeSchedule(key: $1) } }
    }

    struct Pause: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Stop a schedule from firing until it is resumed; it goes on counting.")
        @OptionGroup var schedule: ExistingSchedule

        func run() async throws { try await schedule.change { try await $0.pauseSchedule(key: $1) } }
    }

    struct Resume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "End a pause; times that passed meanwhile do not count as missed.")
        @OptionGroup var schedule: ExistingSchedule

        func run() async throws { try await schedule.change { try await $0.resumeSchedule(key: $1) } }
    }

    struct Preview: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "When a cron expression would fire next.")
        @OptionGroup var data: DataOptions
        @Argument(help: "The cron expression, in quotes.") var cron: String
        @Option(name: .customLong("tz"), help: "The time zone that it is meant in.") var timeZone = "UTC"
        @Option(name: .shortAndLong, help: "How many times to show.") var number = 5

        func validate() throws {
            guard (1...1000).contains(number) else { throw ValidationError("--number: expected 1 to 1000") }
        }

        func run() async throws {
            try await data.withDatabase { client in
                for moment in try await JobQueue(client: client).previewSchedule(cron: cron, timeZone: timeZone, count: number) {
                    print(format(moment, in: timeZone))
                }
            }
        }
    }
}

/// The name of a schedule that must exist.
struct ExistingSchedule: ParsableArguments {
    @OptionGroup var data: DataOptions
    @Argument(help: "The schedule's name.") var name: String

    func change(_ change: (JobQueue, String) async throws -> Bool) async throws {
        try await data.withDatabase { client in
            guard try await change(JobQueue(client: client), name) else {
                throw CommandFailure(description: "there is no schedule named \(name)")
            }
        }
    }
}

extension JobSchedule {
    fileprivate var when: String {
        if let cron { return "\(cron) \(timeZone ?? "")" }
        return "every \(everyNewPairs ?? 0) pairs"
    }

    fileprivate var next: String {
        if pausedAt != nil { return "paused" }
        if let nextAt { return format(nextAt, in: timeZone ?? "UTC") }
        return "\(counter) of \(everyNewPairs ?? 0) counted"
    }

    fileprivate var last: String {
        guard let lastOutcome else { return "" }
        return lastJobState.map { "\(lastOutcome) (\($0.rawValue))" } ?? lastOutcome
    }
}

/// `2026-03-29 03:00 +02:00`, as clocks of that zone show it.
private func format(_ moment: Date, in zone: String) -> String {
    let formatter = DateFormatter()
    formatter.locale = Locale(identifier: "en_US_POSIX")
    formatter.timeZone = TimeZone(identifier: zone) ?? TimeZone(secondsFromGMT: 0)
    formatter.dateFormat = "yyyy-MM-dd HH:mm xxx"
    return formatter.string(from: moment)
}
