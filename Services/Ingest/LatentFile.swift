import Safetensors
import Tensors

/// What is wrong with a latent's file: the field, and a sentence with the likely cause.
struct LatentProblem: Error, Equatable, CustomStringConvertible {
    let field: String
    let detail: String

    init(_ field: String, _ detail: String) {
        self.field = field
        self.detail = detail
    }

    var description: String { "\(field): \(detail)" }
}

/// The file of a finished latent, read and checked on its own: the tensors are there, of the right rank and finite, and the metadata says
/// what a bare tensor cannot.
struct LatentFile: Sendable, Equatable {
    /// A normalised latent is about unit size; beyond this it is something else.
    static let magnitudeLimit: Float = 1000

    let backbone: String
    let vae: String
    let layout: String
    let noiseKind: String
    /// `[C,F,H,W]` or `[C,H,W]`, as the layout says.
    let latents: [Int]
    /// `[L,D]`.
    let promptEmbeds: [Int]
    /// `[C₂,F,H,W]` or `[C₂,H,W]`, where there is one.
    let condition: [Int]?
    /// `[L,D]`, where there is one.
    let imageEmbeds: [Int]?

    /// Reads the whole file: not for a cooperative thread.
    init(path: String) throws {
        let file: SafetensorsFile
        do {
            file = try SafetensorsFile(contentsOf: path)
        } catch let error as SafetensorsError {
            throw LatentProblem(
                "file", "is not a sound safetensors file, \(Self.withoutName(error)). Was it cut off while it was uploaded?")
        }
        backbone = try Self.text(file, "backbone", "the generator's registered name, such as wan-demo")
        vae = try Self.text(file, "vae", "the name of the autoencoder that the latents belong to")
        layout = try Self.word(file, "layout", ["CFHW", "CHW"])
        _ = try Self.word(file, "space", ["normalized"], cause: "were the latents stored before they were normalised?")
        noiseKind = try Self.word(file, "noise.kind", ["flow", "vp_eps", "vp_v"])
        let sigma = try Self.text(file, "noise.sigma", "0 for a finished latent")
        guard let sigma = Double(sigma) else { throw LatentProblem("metadata noise.sigma", "is '\(sigma.prefix(40))', expected a number") }
        guard sigma == 0 else {
            throw LatentProblem(
                "metadata noise.sigma", "is \(sigma), expected 0: pairs compare finished latents. Was it taken before the last step?")
        }
        latents = try Self.tensor(file, "latents", rank: layout.count, axes: layout)
        promptEmbeds = try Self.tensor(file, "prompt_embeds", rank: 2, axes: "LD")
        condition = try Self.optional(file, "condition", rank: layout.count, axes: layout)
        imageEmbeds = try Self.optional(file, "image_embeds", rank: 2, axes: "LD")
        if let condition, condition.dropFirst() != latents.dropFirst() {
            throw LatentProblem("condition", "has the shape \(condition), latents \(latents); all axes but the channels must agree")
        }
    }

    private static func text(_ file: SafetensorsFile, _ key: String, _ meaning: String) throws -> String {
        guard let value = file.metadata[key] else { throw LatentProblem("metadata \(key)", "is missing; expected \(meaning)") }
        guard !value.isEmpty, value.utf8.count <= 200, !value.utf8.contains(where: { $0 < 0x20 || $0 == 0x7f }) else {
            throw LatentProblem("metadata \(key)", "is empty, longer than 200 bytes or has a control character; expected \(meaning)")
        }
        return value
    }

    private static func word(_ file: SafetensorsFile, _ key: String, _ words: [String], cause: String? = nil) throws -> String {
        let expected = (words.count == 1 ? "" : "one of ") + words.joined(separator: ", ")
        let value = try text(file, key, expected)
        guard words.contains(value) else {
            throw LatentProblem("metadata \(key)", "is '\(value.prefix(40))', expected \(expected)\(cause.map { "; \($0)" } ?? "")")
        }
        return value
    }

    private static func optional(_ file: SafetensorsFile, _ name: String, rank: Int, axes: String) throws -> [Int]? {
        file.entries[name] == nil ? nil : try tensor(file, name, rank: rank, axes: axes)
    }

    private static func tensor(_ file: SafetensorsFile, _ name: String, rank: Int, axes: String) throws -> [Int] {
        let order = "[" + axes.map(String.init).joined(separator: ",") + "]"
        guard let entry = file.entries[name] else {
            throw LatentProblem(name, "is missing; the file has \(file.names.prefix(8).joined(separator: ", "))")
        }
        guard entry.shape.count == rank, entry.shape.allSatisfy({ $0 > 0 }) else {
            let cause = entry.shape.count == rank + 1 ? "; is there a batch axis too many?" : ""
            throw LatentProblem(name, "has the shape \(entry.shape), expected \(order)\(cause)")
        }
        let values: Tensor
        do {
            values = try file.tensor(name)
        } catch let error as SafetensorsError {
            throw LatentProblem(name, "cannot be read: \(withoutName(error))")
        }
        let (bad, largest) = values.withUnsafeBufferPointer { buffer in
            var bad: Int?
            var largest: Float = 0
            for index in buffer.indices {
                let value = buffer[index]
                if !value.isFinite {
                    bad = index
                    break
                }
                largest = max(largest, value.magnitude)
            }
            return (bad, largest)
        }
        if let bad {
            throw LatentProblem(name, "has a NaN or infinite value at element \(bad). Did the sampler overflow, in half precision say?")
        }
        guard largest <= magnitudeLimit || name != "latents" else {
            throw LatentProblem(
                name, "reaches \(largest), expected normalised latents of about unit size. Were they stored before they were normalised?")
        }
        return entry.shape
    }

    /// The error without the cache's file name, which tells a client nothing.
    private static func withoutName(_ error: SafetensorsError) -> String {
        let text = error.description
        guard let colon = text.firstRange(of: ": "), text[..<colon.lowerBound].allSatisfy({ $0.isHexDigit || $0 == "." }) else {
            return text
        }
        return String(text[colon.upperBound...])
    }
}
