public import Foundation
import Safetensors
import Tensors

/// A trained head on disk: `head.safetensors`, `config.json`, `metrics.json`.
public struct RewardFolder: Sendable {
    public static let weights = "head.safetensors"
    public static let configuration = "config.json"
    public static let metrics = "metrics.json"

    public let head: RewardHead
    public let configuration: RewardConfiguration
    /// JSON.
    public let metrics: Data

    /// A folder that is to be written.
    public init(head: RewardHead, configuration: RewardConfiguration, metrics: Data) {
        self.head = head
        self.configuration = configuration
        self.metrics = metrics
    }

    /// Reads a folder whole. There is no such thing as a head with some of its tensors random.
    /// - Throws: `RewardError` or `SafetensorsError` naming the file and the tensor or key.
    public init(directory: String) throws {
        func contents(_ name: String) throws -> Data {
            guard let data = FileManager.default.contents(atPath: "\(directory)/\(name)") else {
                throw RewardError("\(directory) has no \(name): it is no reward head's folder, or not a whole one")
            }
            guard data.count <= 16 << 20 else { throw RewardError("\(directory)/\(name) has \(data.count) bytes, too many") }
            return data
        }
        configuration = try RewardConfiguration(json: contents(Self.configuration))
        metrics = try contents(Self.metrics)
        let path = "\(directory)/\(Self.weights)"
        guard FileManager.default.fileExists(atPath: path) else {
            throw RewardError("\(directory) has no \(Self.weights): a head without weights is refused, never replaced by a random one")
        }
        let file = try SafetensorsFile(contentsOf: path)
        let shape = configuration.head
        let read = { (name: String) throws -> Tensor? in file.entries[name] == nil ? nil : try file.tensor(name) }
        do {
            head = try RewardHead(
                configuration: shape, normalization: FeatureNormalization(width: shape.featureWidth, tensor: read), tensor: read)
        } catch let error as RewardError {
            throw RewardError("\(path): \(error.description)")
        }
        let known = Set(head.named.map(\.name))
        if let extra = file.names.first(where: { !known.contains($0) }) {
            throw RewardError("\(path): tensor '\(extra)' is none of this head's")
        }
    }

    /// Writes the folder; each file is renamed into place when complete.
    public func write(to directory: String) throws {
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        try SafetensorsWriter.write(
            tensors: head.named.map { ($0.name, $0.tensor) },
            metadata: ["backbone": configuration.backbone, "block": "\(configuration.block)", "format": "foretaste-reward-head"],
            to: "\(directory)/\(Self.weights)")
        try configuration.encoded().write(to: URL(filePath: "\(directory)/\(Self.configuration)"), options: .atomic)
        try metrics.write(to: URL(filePath: "\(directory)/\(Self.metrics)"), options: .atomic)
    }
}
