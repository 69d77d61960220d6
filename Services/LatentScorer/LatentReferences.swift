import Artifacts
import Foundation
import Safetensors
import ServiceKit
import Tensors

/// A JSON body: latents by URL. `latents` is one safetensors file with everything that a binary body would have, or several files of one
/// candidate each; `prompt_embeds`, `condition` and `image_embeds` may come from files of their own, and `metadata` may say what is to be
/// believed instead of the files'.
///
/// `{"latents":{"url":"https://…","sha256":"…"},"prompt_embeds":{…},"metadata":{"noise.sigma":"0.7","noise.timestep":"700"}}`
struct LatentReferences: Sendable {
    struct Reference: Sendable {
        let pointer: String
        let url: String
        let sha256: String
    }

    let latents: [Reference]
    /// Tensors from files of their own, by name.
    let others: [String: Reference]
    let metadata: [String: String]

    /// - Throws: `Problem` 422 with the pointers of what is wrong.
    init(json: [UInt8]) throws {
        let document: StrictJSON
        do {
            document = try StrictJSON.parse(json)
        } catch {
            throw Problem.invalid([.init(pointer: "", detail: "is no JSON: \(error)")])
        }
        guard case .object(let members) = document else { throw Problem.invalid([.init(pointer: "", detail: "is not a JSON object")]) }
        var errors: [ProblemDocument.FieldError] = []
        var latents: [Reference] = []
        var others: [String: Reference] = [:]
        var metadata: [String: String] = [:]
        for member in members {
            let pointer = "/\(member.key.prefix(80))"
            switch (member.key, member.value) {
            case ("latents", .array(let items)):
                latents = items.enumerated().compactMap { Self.reference($1, "\(pointer)/\($0)", &errors) }
                if items.isEmpty { errors.append(.init(pointer: pointer, detail: "is empty")) }
            case ("latents", let value): latents = Self.reference(value, pointer, &errors).map { [$0] } ?? []
            case ("prompt_embeds", let value), ("condition", let value), ("image_embeds", let value):
                others[member.key] = Self.reference(value, pointer, &errors)
            case ("metadata", .object(let entries)):
                for entry in entries {
                    if case .string(let text) = entry.value {
                        metadata[entry.key] = text
                    } else {
                        errors.append(
                            .init(pointer: "\(pointer)/\(entry.key.prefix(80))", detail: "must be a text, not \(entry.value.kind)"))
                    }
                }
            case ("metadata", let value): errors.append(.init(pointer: pointer, detail: "must be an object of texts, not \(value.kind)"))
            default:
                errors.append(
                    .init(pointer: pointer, detail: "is unknown; expected latents, prompt_embeds, condition, image_embeds, metadata"))
            }
        }
        if latents.isEmpty && errors.isEmpty {
            errors.append(.init(pointer: "/latents", detail: "is missing; expected {\"url\",\"sha256\"}"))
        }
        guard errors.isEmpty else { throw Problem.invalid(errors) }
        self.latents = latents
        self.others = others
        self.metadata = metadata
    }

    private static func reference(_ value: StrictJSON, _ pointer: String, _ errors: inout [ProblemDocument.FieldError]) -> Reference? {
        guard case .object(let members) = value else {
            errors.append(.init(pointer: pointer, detail: "must be {\"url\",\"sha256\"}, not \(value.kind)"))
            return nil
        }
        if let stranger = members.first(where: { !["url", "sha256"].contains($0.key) }) {
            errors.append(.init(pointer: "\(pointer)/\(stranger.key.prefix(80))", detail: "is unknown; expected url, sha256"))
        }
        guard case .string(let url)? = value["url"] else {
            errors.append(.init(pointer: "\(pointer)/url", detail: "is missing or no text"))
            return nil
        }
        guard case .string(let sha256)? = value["sha256"], sha256.wholeMatch(of: /[0-9a-f]{64}/) != nil else {
            errors.append(.init(pointer: "\(pointer)/sha256", detail: "must be 64 lower-case hexadecimal digits"))
            return nil
        }
        return Reference(pointer: pointer, url: url, sha256: sha256)
    }

    /// Fetches everything and puts it together.
    /// - Throws: `Problem` 422 for what cannot be used, 502 for what cannot be reached.
    func load(_ fetcher: ArtifactFetcher, maximumBytes: Int) async throws -> LatentBody {
        func file(_ reference: Reference) async throws -> SafetensorsFile {
            do {
                let path = try await fetcher.fetch(reference.url, sha256: reference.sha256, maximumBytes: maximumBytes)
                return try await NumericThreads.run { try SafetensorsFile(contentsOf: path) }
            } catch let error as ArtifactError {
                guard error.isPermanent else { throw Problem.unavailable("\(reference.pointer): \(error)") }
                throw Problem.invalid([.init(pointer: "\(reference.pointer)/url", detail: "\(error)")])
            } catch let error as SafetensorsError {
                throw Problem.invalid([.init(pointer: reference.pointer, detail: "is no sound safetensors file: \(error)")])
            }
        }
        var files: [SafetensorsFile] = []
        for reference in latents { files.append(try await file(reference)) }
        var own: [String: SafetensorsFile] = [:]
        for (name, reference) in others { own[name] = try await file(reference) }
        let (all, extras, said) = (files, own, metadata)
        return try await NumericThreads.run { try Self.joined(all, extras, metadata: said) }
    }

    private static func joined(
        _ files: [SafetensorsFile], _ own: [String: SafetensorsFile], metadata: [String: String]
    ) throws -> LatentBody {
        var tensors: [(String, Tensor)] = []
        do {
            let parts = try files.map { file in
                let latents = try file.tensor("latents")
                // A finished clip as labelling tools post it has no batch axis.
                return latents.shape.count == 4 ? latents.reshaped([1] + latents.shape) : latents
            }
            guard parts.allSatisfy({ $0.shape.count == 5 && $0.shape.dropFirst() == parts[0].shape.dropFirst() }) else {
                throw Problem.invalid([
                    .init(
                        pointer: "/latents",
                        detail: "have the shapes \(parts.map(\.shape)); expected [C,F,H,W] or [N,C,F,H,W], all alike but for N")
                ])
            }
            tensors.append(("latents", Tensor.concatenate(parts)))
            for name in ["prompt_embeds", "condition", "image_embeds"] {
                if let file = own[name] {
                    tensors.append((name, try file.tensor(name)))
                } else if files[0].entries[name] != nil {
                    tensors.append((name, try files[0].tensor(name)))
                }
            }
        } catch let error as SafetensorsError {
            throw Problem.invalid([.init(pointer: "/latents", detail: "\(error)")])
        }
        // One way in: what is joined here is checked like a body that came whole.
        let bytes = SafetensorsWriter.data(tensors: tensors, metadata: files[0].metadata.merging(metadata) { _, said in said })
        return try LatentBody(bytes)
    }
}
