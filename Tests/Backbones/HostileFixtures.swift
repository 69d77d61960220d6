import Foundation
import Safetensors
import Tensors
import Testing

@testable import Backbones

/// A safetensors file taken apart, to be put together wrongly.
struct TornSafetensors {
    /// The header's object; a tensor's entry has `dtype`, `shape`, `data_offsets`.
    var header: [String: Any]
    var data: Data
    /// Put in front of the header's first member as it stands.
    var rawMember = ""

    init(_ path: String) throws {
        let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        let length = Int(bytes.prefix(8).enumerated().reduce(UInt64(0)) { $0 | UInt64($1.element) << (8 * UInt64($1.offset)) })
        header = try #require(try JSONSerialization.jsonObject(with: bytes[8..<8 + length]) as? [String: Any])
        data = Data(bytes[(8 + length)...])
    }

    /// Changes one field of a tensor's entry.
    mutating func set(_ tensor: String, _ field: String, _ value: Any) {
        var entry = header[tensor] as! [String: Any]
        entry[field] = value
        header[tensor] = entry
    }

    func offsets(_ tensor: String) -> [Int] { (header[tensor] as! [String: Any])["data_offsets"] as! [Int] }

    /// Overwrites a tensor's first bytes.
    mutating func fill(_ tensor: String, _ bytes: [UInt8]) {
        let start = data.startIndex + offsets(tensor)[0]
        data.replaceSubrange(start..<start + bytes.count, with: bytes)
    }

    /// Adds a tensor at the end.
    mutating func append(_ tensor: String, shape: [Int], dtype: String = "F32") {
        let bytes = shape.reduce(dtype == "F32" ? 4 : 8, *)
        header[tensor] = ["dtype": dtype, "shape": shape, "data_offsets": [data.count, data.count + bytes]]
        data.append(Data(count: bytes))
    }

    /// Takes a tensor and its bytes out.
    mutating func remove(_ tensor: String) {
        let (begin, end) = (offsets(tensor)[0], offsets(tensor)[1])
        header[tensor] = nil
        data.removeSubrange(data.startIndex + begin..<data.startIndex + end)
        for (name, value) in header {
            guard var entry = value as? [String: Any], let place = entry["data_offsets"] as? [Int], place[0] >= end else { continue }
            entry["data_offsets"] = place.map { $0 - (end - begin) }
            header[name] = entry
        }
    }

    func write(_ path: String) throws {
        var text = String(decoding: try JSONSerialization.data(withJSONObject: header, options: [.sortedKeys]), as: UTF8.self)
        if !rawMember.isEmpty { text = "{" + rawMember + "," + text.dropFirst() }
        var bytes = withUnsafeBytes(of: UInt64(text.utf8.count).littleEndian) { Data($0) }
        bytes.append(Data(text.utf8))
        bytes.append(data)
        try bytes.write(to: URL(fileURLWithPath: path))
    }
}

/// A copy of a fixture's folder that a test may spoil, and what comes of running it.
struct SpoiltFolder {
    static let families = ["t2v", "sd35", "unet-sdxl"]
    static let weights = "diffusion_pytorch_model.safetensors"
    let name: String
    let folder: String
    var model: String { "\(folder)/model" }
    var input: String { "\(folder)/inputs.safetensors" }
    var output: String { "\(folder)/out.safetensors" }
    /// The first input, which the class names as diffusers does.
    var latent: String { name.hasPrefix("unet") ? "sample" : "hidden_states" }

    init(_ name: String, in folder: String) throws {
        self.name = name
        self.folder = folder
        try FileManager.default.createDirectory(atPath: "\(folder)/model", withIntermediateDirectories: true)
        for file in ["config.json", Self.weights] {
            try FileManager.default.copyItem(atPath: "\(fixtures)/\(name)/\(file)", toPath: "\(folder)/model/\(file)")
        }
        try FileManager.default.copyItem(atPath: "\(fixtures)/\(name)/inputs.safetensors", toPath: "\(folder)/inputs.safetensors")
    }

    /// The message of a run, which must be refused quickly and leave no output; nil when it went through.
    func refusal(_ change: (inout BackboneRun.Request) -> Void = { _ in }) -> String? {
        var request = BackboneRun.Request(directory: model, input: input, output: output)
        change(&request)
        let started = ContinuousClock.now
        defer { #expect(ContinuousClock.now - started < .seconds(10), "\(name): it took too long") }
        do {
            try BackboneRun.forward(request)
            return nil
        } catch {
            #expect(!FileManager.default.fileExists(atPath: output), "\(name): an output is left")
            return "\(error)"
        }
    }

    /// The same of `inspect`.
    func inspectionRefusal() -> String? {
        do {
            _ = try BackboneInspection(PipelineFolder(model))
            return nil
        } catch { return "\(error)" }
    }

    func spoilWeights(_ change: (inout TornSafetensors) throws -> Void) throws {
        var torn = try TornSafetensors("\(fixtures)/\(name)/\(Self.weights)")
        try change(&torn)
        try torn.write("\(model)/\(Self.weights)")
    }

    func spoilInputs(_ change: (inout TornSafetensors) throws -> Void) throws {
        var torn = try TornSafetensors("\(fixtures)/\(name)/inputs.safetensors")
        try change(&torn)
        try torn.write(input)
    }

    /// `config.json` with one key's value replaced by JSON text, or taken out.
    func configure(_ key: String, _ value: String?) throws {
        let data = try Data(contentsOf: URL(fileURLWithPath: "\(fixtures)/\(name)/config.json"))
        var members = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
        members[key] = nil
        var text = String(decoding: try JSONSerialization.data(withJSONObject: members), as: UTF8.self)
        if let value { text = "{\"\(key)\": \(value)," + text.dropFirst() }
        try Data(text.utf8).write(to: URL(fileURLWithPath: "\(model)/config.json"))
    }
}

/// Runs a body for each family in a folder of its own.
func forEachFamily(_ body: (SpoiltFolder) throws -> Void) throws {
    for name in SpoiltFolder.families {
        try withTemporaryFolder { try body(SpoiltFolder(name, in: $0)) }
    }
}
