public import Foundation

/// What a registered model is.
public enum ModelKind: String, Codable, Sendable, CaseIterable {
    /// A diffusion model: a diffusers folder.
    case generator
    /// A reward head.
    case reward
    /// A LoRA.
    case adapter
}

/// A file of a model's folder beside its weights.
public struct ModelFile: Codable, Sendable, Equatable {
    /// Relative to the folder, such as `scheduler/scheduler_config.json`.
    public var path: String
    /// Where it lies.
    public var url: String
    /// What its bytes hash to.
    public var sha256: String
    /// Its size.
    public var bytes: Int64

    /// A file by its place and artifact.
    public init(path: String, url: String, sha256: String, bytes: Int64) {
        self.path = path
        self.url = url
        self.sha256 = sha256
        self.bytes = bytes
    }
}

/// A model that is to be registered.
public struct NewModel: Sendable, Equatable {
    /// Letters, digits, `.`, `_`, `-`; all versions of a name are of one kind.
    public var name: String
    /// What it is.
    public var kind: ModelKind
    /// The weights' artifact.
    public var url: String
    /// What the weights' bytes hash to.
    public var sha256: String
    /// The weights' size.
    public var bytes: Int64
    /// The weights' media type.
    public var mediaType: String
    /// The folder's other files.
    public var files: [ModelFile]
    /// `config.json`, as JSON text: an object.
    public var config: String
    /// Figures of its evaluation, as JSON text: an object.
    public var metrics: String
    /// Snapshot, parents, seed and settings, as JSON text: an object.
    public var lineage: String
    /// What a reward judges.
    public var dimension: String?
    /// The generator that a reward or an adapter belongs to, `NAME:VERSION`.
    public var backbone: String?

    /// A model from its parts.
    public init(
        name: String, kind: ModelKind, url: String, sha256: String, bytes: Int64, mediaType: String = "application/octet-stream",
        files: [ModelFile] = [], config: String = "{}", metrics: String = "{}", lineage: String = "{}", dimension: String? = nil,
        backbone: String? = nil
    ) {
        self.name = name
        self.kind = kind
        self.url = url
        self.sha256 = sha256
        self.bytes = bytes
        self.mediaType = mediaType
        self.files = files
        self.config = config
        self.metrics = metrics
        self.lineage = lineage
        self.dimension = dimension
        self.backbone = backbone
    }
}

/// An immutable version of a model.
public struct ModelVersion: Sendable, Equatable {
    /// What was registered.
    public let model: NewModel
    /// Counted from 1 within the name.
    public let version: Int
    /// The aliases that point here now, in alphabetical order; `latest` is computed and not among them.
    public let aliases: [String]
    /// The job that made it.
    public let jobID: Int64?
    /// When it was registered.
    public let createdAt: Date

    /// The model's name.
    public var name: String { model.name }
    /// What it is.
    public var kind: ModelKind { model.kind }
    /// `NAME:VERSION`, which names this version everywhere and for ever.
    public var reference: String { "\(name):\(version)" }
}

/// A step in an alias's history.
public struct AliasChange: Sendable, Equatable {
    /// Where it pointed before, nil when it is new.
    public let from: Int?
    /// Where it points since.
    public let to: Int
    /// False where the gate looked and kept what was there.
    public let moved: Bool
    /// Why.
    public let reason: String
    /// When.
    public let at: Date
}

/// A model that cannot be found or registered.
public enum RegistryError: Error, Sendable, Equatable, CustomStringConvertible {
    /// Nothing is registered under this reference.
    case notFound(reference: String, known: [String])
    /// The reference names a model of another kind.
    case wrongKind(reference: String, found: ModelKind, expected: ModelKind)
    /// The name is taken by models of another kind.
    case nameTaken(name: String, kind: ModelKind)
    /// The name cannot be used.
    case badName(String)
    /// The alias cannot be used.
    case badAlias(String)

    public var description: String {
        switch self {
        case .notFound(let reference, let known):
            "there is no model '\(reference)'"
                + (known.isEmpty ? "; nothing of this name is registered" : "; registered: \(known.joined(separator: ", "))")
        case .wrongKind(let reference, let found, let expected): "'\(reference)' is a \(found.rawValue), expected a \(expected.rawValue)"
        case .nameTaken(let name, let kind): "the name '\(name)' belongs to \(kind.rawValue) models; choose another"
        case .badName(let name): "'\(name)' cannot be a model's name: up to 100 letters, digits, '.', '_' and '-', a letter or digit first"
        case .badAlias(let alias):
            alias == "latest"
                ? "the alias latest always names the newest version and cannot be set"
                : "'\(alias)' cannot be an alias: up to 64 lower-case letters, digits, '.', '_' and '-', a letter first"
        }
    }
}
