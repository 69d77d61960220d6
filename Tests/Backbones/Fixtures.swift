import Backbones
import Foundation
import Safetensors
import Tensors
import Testing

/// Where Tests/Reference/wan_fixtures.py put what diffusers says.
let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Fixtures").path

/// Inputs of one fixture, under diffusers' names.
struct FixtureInputs {
    let hidden, text: Tensor
    let image: Tensor?
    let timestep: [Float]

    init(_ name: String) throws {
        let file = try SafetensorsFile(contentsOf: "\(fixtures)/\(name)/inputs.safetensors")
        hidden = try file.tensor("hidden_states")
        text = try file.tensor("encoder_hidden_states")
        image = file.names.contains("encoder_hidden_states_image") ? try file.tensor("encoder_hidden_states_image") : nil
        timestep =
            file.entries["timestep"]!.dtype.isFloatingPoint
            ? try file.tensor("timestep").array : try file.integers("timestep").map { Float($0) }
    }
}

/// A folder of its own that is gone when the body ends.
func withTemporaryFolder<R>(_ body: (String) throws -> R) throws -> R {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("foretaste-backbones-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    return try body(folder)
}

/// ‖a − b‖ / ‖b‖ in double precision; shapes must agree.
func relativeDifference(_ a: Tensor, _ b: Tensor) -> Double {
    guard a.shape == b.shape else { return .infinity }
    let squares = zip(a.array, b.array).reduce((0.0, 0.0)) { sums, pair in
        let difference = Double(pair.0) - Double(pair.1)
        return (sums.0 + difference * difference, sums.1 + Double(pair.1) * Double(pair.1))
    }
    return squares.1 > 0 ? (squares.0 / squares.1).squareRoot() : squares.0.squareRoot()
}

/// Records the first tensor that is off, by name, and prints the largest difference of all.
func expectParity(_ found: [(String, Tensor)], _ expected: SafetensorsFile, tolerance: Double, _ what: String) throws {
    var worst = ("", 0.0)
    for (name, tensor) in found {
        let difference = relativeDifference(tensor, try expected.tensor(name))
        if !(difference <= tolerance) {
            Issue.record("\(what): the first tensor that is off is \(name): \(difference) relative, at most \(tolerance) allowed")
            return
        }
        if difference > worst.1 { worst = (name, difference) }
    }
    print("\(what): \(found.count) tensors, worst \(worst.0) at \(worst.1)")
}
