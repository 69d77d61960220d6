public import Foundation

/// The `config.json` of a reward head's folder: what it is, and what it may be asked about.
public struct RewardConfiguration: Sendable, Equatable, Codable {
    /// The head's shape.
    public var head: HeadConfiguration
    /// The trunk's block whose residual stream it reads, from 1.
    public var block: Int
    /// `bce`, `bradley-terry`, `rao-kupper`.
    public var loss: String
    /// The tie threshold of Rao-Kupper; nil for others.
    public var eta: Double?
    /// What was judged: `overall`, …
    public var dimension: String
    /// The trunk: `wan-demo:1`.
    public var backbone: String
    /// A digest over the trunk's values up to `block`: the same name with other weights is another trunk.
    public var backboneFingerprint: String
    /// The VAE that the latents belong to.
    public var vae: String
    /// `CFHW`.
    public var layout: String
    /// `normalized`.
    public var space: String
    /// `flow`.
    public var noiseKind: String
    /// By which t was drawn in training: `uniform`.
    public var timestepLaw: String
    /// Channels of the latents, and of the condition behind them (0 for none).
    public var latentChannels: Int
    public var conditionChannels: Int

    enum CodingKeys: String, CodingKey, CaseIterable {
        case className = "_class_name"
        case head, block, loss, eta, dimension, backbone, vae, layout, space
        case backboneFingerprint = "backbone_fingerprint"
        case noiseKind = "noise_kind"
        case timestepLaw = "timestep_law"
        case latentChannels = "latent_channels"
        case conditionChannels = "condition_channels"
    }

    static let className = "ForetasteRewardHead"

    /// A configuration from its parts.
    public init(
        head: HeadConfiguration, block: Int, loss: RewardLoss, dimension: String, backbone: String, backboneFingerprint: String,
        vae: String,
        layout: String = "CFHW", space: String = "normalized", noiseKind: String = "flow", latentChannels: Int, conditionChannels: Int
    ) {
        self.head = head
        self.block = block
        self.loss = loss.name
        eta = loss.eta
        self.dimension = dimension
        self.backbone = backbone
        self.backboneFingerprint = backboneFingerprint
        self.vae = vae
        self.layout = layout
        self.space = space
        self.noiseKind = noiseKind
        timestepLaw = "uniform"
        self.latentChannels = latentChannels
        self.conditionChannels = conditionChannels
    }

    /// Reads a `config.json`.
    /// - Throws: `RewardError` naming the key that is missing or wrong.
    public init(json: Data) throws {
        do {
            self = try JSONDecoder().decode(RewardConfiguration.self, from: json)
        } catch let error as DecodingError {
            throw RewardError("config.json: \(Self.explained(error))")
        }
        try head.validate()
        guard block >= 1 else { throw RewardError("config.json: block is \(block), expected at least 1") }
    }

    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        let name = try values.decode(String.self, forKey: .className)
        guard name == Self.className else {
            throw DecodingError.dataCorruptedError(
                forKey: .className, in: values,
                debugDescription: "is '\(name)', expected \(Self.className): this is no reward head's folder")
        }
        head = try values.decode(HeadConfiguration.self, forKey: .head)
        block = try values.decode(Int.self, forKey: .block)
        loss = try values.decode(String.self, forKey: .loss)
        eta = try values.decodeIfPresent(Double.self, forKey: .eta)
        dimension = try values.decode(String.self, forKey: .dimension)
        backbone = try values.decode(String.self, forKey: .backbone)
        backboneFingerprint = try values.decode(String.self, forKey: .backboneFingerprint)
        vae = try values.decode(String.self, forKey: .vae)
        layout = try values.decode(String.self, forKey: .layout)
        space = try values.decode(String.self, forKey: .space)
        noiseKind = try values.decode(String.self, forKey: .noiseKind)
        timestepLaw = try values.decode(String.self, forKey: .timestepLaw)
        latentChannels = try values.decode(Int.self, forKey: .latentChannels)
        conditionChannels = try values.decode(Int.self, forKey: .conditionChannels)
    }

    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(Self.className, forKey: .className)
        try values.encode(head, forKey: .head)
        try values.encode(block, forKey: .block)
        try values.encode(loss, forKey: .loss)
        try values.encodeIfPresent(eta, forKey: .eta)
        try values.encode(dimension, forKey: .dimension)
        try values.encode(backbone, forKey: .backbone)
        try values.encode(backboneFingerprint, forKey: .backboneFingerprint)
        try values.encode(vae, forKey: .vae)
        try values.encode(layout, forKey: .layout)
        try values.encode(space, forKey: .space)
        try values.encode(noiseKind, forKey: .noiseKind)
        try values.encode(timestepLaw, forKey: .timestepLaw)
        try values.encode(latentChannels, forKey: .latentChannels)
        try values.encode(conditionChannels, forKey: .conditionChannels)
    }

    /// Sorted keys, indented.
    public func encoded() -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        // Strings and finite numbers always encode.
        return try! encoder.encode(self) + Data("\n".utf8)
    }

    private static func explained(_ error: DecodingError) -> String {
        func path(_ context: DecodingError.Context, _ key: (any CodingKey)? = nil) -> String {
            (context.codingPath + (key.map { [$0] } ?? [])).map(\.stringValue).joined(separator: ".")
        }
        switch error {
        case .keyNotFound(let key, let context): return "\(path(context, key)) is missing"
        case .typeMismatch(_, let context), .valueNotFound(_, let context): return "\(path(context)): \(context.debugDescription)"
        case .dataCorrupted(let context): return "\(path(context)) \(context.debugDescription)"
        @unknown default: return "\(error)"
        }
    }
}
