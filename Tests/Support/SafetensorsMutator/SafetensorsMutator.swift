import CAllocationCounter
import Foundation
import Safetensors
import SafetensorsChecks

/// Feeds damaged files to the safetensors reader and says what became of them; leaves with 1 at the first that is accepted and inconsistent, or
/// that takes more memory than its size allows. A program of its own, so that a crash is a crash of this, and memory is nobody else's.
@main struct SafetensorsMutator {
    static func main() throws {
        let arguments = CommandLine.arguments
        guard arguments.count >= 4, let count = Int(arguments[1]), let seed = UInt64(arguments[2]), let giant = Int(arguments[3]) else {
            fail("usage: SafetensorsMutator COUNT SEED GIANT_BYTES [CORPUS_FOLDER]")
        }
        var run = SafetensorsMutator()
        let corpus = try arguments.dropFirst(4).first.map(files) ?? []
        for (index, bytes) in corpus.enumerated() { run.examine(bytes) { "corpus file \(index)" } }
        print("corpus: \(corpus.count) files, \(run.accepted) accepted")

        run.accepted = 0
        var mutator = FileMutator(seed: seed, corpus: corpus)
        for index in 0..<count {
            let bytes = mutator.next()
            run.examine(bytes) { "mutation \(index) of seed \(seed), \(Data(bytes).base64EncodedString())" }
        }
        for file in giant > 0 ? Giants.all(size: giant) : [] {
            let bytes = file.bytes()
            print("giant: \(file.name), \(bytes.count) bytes, took \(run.open(bytes) { file.name })")
        }
        print("mutations: \(count), accepted: \(run.accepted), memory at most \(Int(100 * run.highest)) % of the allowance")
        print("memory counted: \(allocation_counter_works() == 1)")
    }

    private var accepted = 0
    /// The largest share of its allowance that a file took.
    private var highest = 0.0

    private mutating func examine(_ bytes: [UInt8], _ name: () -> String) {
        _ = open(bytes, name)
        switch FileCheck.verdict(of: bytes) {
        case .refused: return
        case .accepted: accepted += 1
        case .inconsistent(let what): Self.fail("\(name()): accepted, but \(what)")
        }
    }

    /// Opens the file, whether that succeeds or not, and returns the bytes of memory that this took at most at once.
    private mutating func open(_ bytes: [UInt8], _ name: () -> String) -> Int {
        allocation_counter_start()
        let file = try? SafetensorsFile(data: bytes)
        let taken = withExtendedLifetime(file) { Int(allocation_counter_peak()) }
        let allowance = FileCheck.allowance(size: bytes.count)
        guard taken <= allowance else { Self.fail("\(name()): \(taken) bytes taken for a file of \(bytes.count)") }
        highest = max(highest, Double(taken) / Double(allowance))
        return taken
    }

    private static func files(in folder: String) throws -> [[UInt8]] {
        let names = try FileManager.default.contentsOfDirectory(atPath: folder).sorted()
        guard !names.isEmpty else { fail("\(folder) is empty") }
        return try names.map { [UInt8](try Data(contentsOf: URL(fileURLWithPath: folder).appendingPathComponent($0))) }
    }

    private static func fail(_ what: String) -> Never {
        FileHandle.standardError.write(Data((what + "\n").utf8))
        exit(1)
    }
}
