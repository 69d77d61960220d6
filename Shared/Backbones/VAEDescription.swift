import Safetensors

/// What a pipeline's `vae/config.json` says of latents: how many channels, how much smaller, and how they are scaled for the model.
///
/// Only keys that say something of latents are read; the VAE itself is not run here.
public struct VAEDescription: Sendable, Encodable, Equatable {
    public let className: String
    public var latentChannels: Int?
    /// Pixels along an axis to one latent position.
    public var spatialFactor: Int?
    /// Frames after the first to one latent frame; 1 for pictures.
    public var temporalFactor: Int?
    /// The model's latents are `(z - shift) * scaling` …
    public var scalingFactor: Double?
    public var shiftFactor: Double?
    /// … or where these are given `(z - mean) / std`, a value a channel.
    public var latentsMean: [Double]?
    public var latentsStd: [Double]?

    enum CodingKeys: String, CodingKey {
        case className = "class"
        case latentChannels = "latent_channels"
        case spatialFactor = "spatial_factor"
        case temporalFactor = "temporal_factor"
        case scalingFactor = "scaling_factor"
        case shiftFactor = "shift_factor"
        case latentsMean = "latents_mean"
        case latentsStd = "latents_std"
    }

    /// Reads a VAE's `config.json`.
    /// - Throws: `BackboneError` naming the key whose value makes no sense.
    public init(contentsOf path: String) throws {
        self = try ConfigurationReader.read(path) { try VAEDescription(json: $0) }
    }

    init(json: [UInt8]) throws {
        let members = try ConfigurationReader.members(json)
        func reader(_ key: String) -> ConfigurationReader? {
            members.first { $0.key == key && $0.value != .null }.map { ConfigurationReader(key: $0.key, value: $0.value) }
        }
        func list(_ key: String, in range: ClosedRange<Double>) throws -> [Double]? {
            try reader(key)?.list().map { try ConfigurationReader(key: key, value: $0).number(in: range) }
        }
        guard let name = reader("_class_name") else { throw BackboneError("_class_name is missing") }
        className = try name.string()
        let isWan = className == "AutoencoderKLWan"
        // diffusers' defaults for keys that are missing, where the class is known.
        latentChannels = try reader(isWan ? "z_dim" : "latent_channels")?.integer(in: 1...4096)
        scalingFactor = try reader("scaling_factor")?.number(in: 1e-6...1e6)
        shiftFactor = try reader("shift_factor")?.number(in: -1e6...1e6)
        latentsMean = try list("latents_mean", in: -1e6...1e6)
        latentsStd = try list("latents_std", in: 1e-6...1e6)
        switch className {
        case "AutoencoderKL":
            latentChannels = latentChannels ?? 4
            scalingFactor = scalingFactor ?? 0.18215
            // Every block but the last halves the picture.
            let blocks = try reader("block_out_channels")?.integers(in: 1...65536).count ?? 1
            guard blocks <= 8 else { throw BackboneError("block_out_channels has \(blocks) entries, above 8") }
            (spatialFactor, temporalFactor) = (1 << (blocks - 1), 1)
        case "AutoencoderKLWan":
            latentChannels = latentChannels ?? 16
            latentsMean = latentsMean ?? Self.wanMean
            latentsStd = latentsStd ?? Self.wanStd
            spatialFactor = try reader("scale_factor_spatial")?.integer(in: 1...64) ?? 8
            temporalFactor = try reader("scale_factor_temporal")?.integer(in: 1...64) ?? 4
        default: break
        }
        guard (latentsMean == nil) == (latentsStd == nil) else {
            throw BackboneError("latents_\(latentsMean == nil ? "mean" : "std") is missing beside the other")
        }
        for (key, values) in [("latents_mean", latentsMean), ("latents_std", latentsStd)] {
            if let values, let latentChannels, values.count != latentChannels {
                throw BackboneError("\(key) has \(values.count) values for \(latentChannels) latent channels")
            }
        }
    }

    /// `(z - 0.0609) x 1.5305`, or what else a latent goes through between VAE and model.
    public var scaling: String {
        if latentsMean != nil { return "(z - mean) / std, a value a channel" }
        guard let scalingFactor else { return "not given" }
        guard let shiftFactor, shiftFactor != 0 else { return "z x \(scalingFactor)" }
        return "(z - \(shiftFactor)) x \(scalingFactor)"
    }

    /// The defaults of diffusers' `AutoencoderKLWan`.
    private static let wanMean = [
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503,
        -0.2921,
    ]
    private static let wanStd = [
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    ]
}
