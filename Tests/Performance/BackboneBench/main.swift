import Backbones
import Foundation
import Tensors

// Our side of `make bench`, and of `bench scaling`: a process that holds one model with its inputs and does one work whenever it is asked, a
// line of JSON for each line read. `bench` runs it in turn with `peer.py`, which takes the same options and answers the same.

let usage = """
    usage: BackboneBench serve --model FOLDER --pass PASS --grid FxHxW|HxW [--batch N] [--text N] [--threads N]
             [--precision float32|bfloat16x3]
           (then, from stdin: run | sgemm | memory | threads N; anything else ends it)
           BackboneBench make wan BLOCKS FOLDER | make wan192 FOLDER | make sd15 FOLDER
           BackboneBench profile FOLDER FRAMES HEIGHT WIDTH BATCH TEXT forward|backward
    """

func serve(_ options: Options) throws {
    NumericThreads.count = options.threads
    Precision.current = options.precision
    let work = try openWork(options)
    // Made when asked for: its matrices are no part of the work's memory.
    lazy var products = Sgemm(sizes: work.sgemm)
    answer("{\"ready\": true, \"machine\": \"\(machine.replacingOccurrences(of: "\"", with: "'"))\"}")
    while let line = readLine() {
        let words = line.split(separator: " ")
        switch words.first {
        case "run":
            let (tensors, wall, cpu) = try measured { try work.run() }
            answer("{\"wall\": \(wall), \"cpu\": \(cpu), \"check\": \(magnitude(tensors)), \"flops\": \(work.flops)}")
        case "sgemm":
            let rate = products.best()
            answer("{\"wall\": \(rate.wall), \"cpu\": \(rate.cpu)}")
        case "memory": answer("{\"bytes\": \(peakMemory())}")
        case "threads":
            NumericThreads.count = words.count > 1 ? Int(words[1]) ?? 1 : 1
            answer("{\"threads\": \(NumericThreads.count)}")
        default: return
        }
    }
}

/// A picture's latent has two extents, a clip's three.
func openWork(_ options: Options) throws -> any Work { options.grid.count == 2 ? try UNetWork(options) : try WanWork(options) }

func answer(_ line: String) {
    FileHandle.standardOutput.write(Data((line + "\n").utf8))
}

func main(_ arguments: [String]) throws {
    switch arguments.first {
    case "serve": try serve(Options(Array(arguments.dropFirst())))
    case "make": try makeModel(Array(arguments.dropFirst()))
    case "profile":
        let numbers = arguments.dropFirst(2).compactMap { Int($0) }
        guard arguments.count == 8, numbers.count == 5 else { throw Usage(usage) }
        let report = try BackboneProfile.run(
            directory: arguments[1], frames: numbers[0], height: numbers[1], width: numbers[2], batch: numbers[3], textLength: numbers[4],
            backward: arguments[7] == "backward")
        print(report.text)
    default: throw Usage(usage)
    }
}

do {
    try main(Array(CommandLine.arguments.dropFirst()))
} catch {
    FileHandle.standardError.write(Data("BackboneBench: \(error)\n".utf8))
    exit(1)
}
