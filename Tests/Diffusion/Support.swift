import Diffusion
import Foundation
import Tensors
import Testing

/// A file written by Tests/Reference/schedule_fixtures.py.
func fixture<Content: Decodable>(_ name: String, as type: Content.Type) throws -> Content {
    let path = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures/\(name)")
    return try JSONDecoder().decode(type, from: Data(contentsOf: path))
}

func normal(_ shape: [Int], seed: UInt64, item: UInt32 = 0) -> Tensor {
    var stream = RandomStream(seed: seed, item: item)
    return Tensor.normal(shape: shape, &stream)
}

/// The largest difference, relative to the larger of 1 and the largest expected magnitude.
func distance(_ found: [Float], _ expected: [Double]) -> Double {
    guard found.count == expected.count else { return .infinity }
    let scale = max(1, expected.map(abs).max() ?? 0)
    return zip(found, expected).map { abs(Double($0) - $1) / scale }.max() ?? 0
}

/// What a call throws, as text.
func message<Result>(_ body: () throws -> Result) -> String {
    do {
        _ = try body()
        return "no error"
    } catch { return "\(error)" }
}
