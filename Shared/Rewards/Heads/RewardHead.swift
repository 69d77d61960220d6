public import Tensors

/// A head's values: its parameters by name, and how the trunk's tokens are brought to a common scale in front of it.
public struct RewardHead: Sendable {
    public let configuration: HeadConfiguration
    /// In the order of `configuration.parameters`.
    public internal(set) var tensors: [Tensor]
    /// Fixed, not learned: measured on the training features.
    public var normalization: FeatureNormalization

    /// A head to be trained: Xavier-uniform matrices and query, zero biases, as PAVRM has it. Each parameter has a stream of its own.
    public init(configuration: HeadConfiguration, normalization: FeatureNormalization? = nil, seed: UInt64) throws {
        try configuration.validate()
        self.configuration = configuration
        self.normalization = normalization ?? FeatureNormalization(identity: configuration.featureWidth)
        tensors = configuration.parameters.enumerated().map { index, parameter in
            guard parameter.shape.count == 2 else { return Tensor(zeros: parameter.shape) }
            var stream = RandomStream(seed: seed, run: RewardStreams.initialHead, item: UInt32(index))
            let bound = (6 / Float(parameter.shape[0] + parameter.shape[1])).squareRoot()
            let count = parameter.shape[0] * parameter.shape[1]
            return Tensor((0..<count).map { _ in (2 * stream.uniform() - 1) * bound }, shape: parameter.shape)
        }
    }

    /// A head from stored tensors, by name.
    /// - Throws: `RewardError` naming the parameter that is missing, misshapen or not finite.
    public init(configuration: HeadConfiguration, normalization: FeatureNormalization, tensor: (String) throws -> Tensor?) throws {
        try configuration.validate()
        self.configuration = configuration
        self.normalization = normalization
        tensors = try configuration.parameters.map { name, shape in
            try Self.checked(try tensor(name), name: name, shape: shape)
        }
    }

    static func checked(_ tensor: Tensor?, name: String, shape: [Int]) throws -> Tensor {
        guard let tensor else { throw RewardError("tensor '\(name)' (shape \(shape)) is missing") }
        guard tensor.shape == shape else { throw RewardError("tensor '\(name)' has shape \(tensor.shape), expected \(shape)") }
        guard tensor.isFinite else { throw RewardError("tensor '\(name)' holds values that are not finite") }
        return tensor
    }

    /// Every tensor that a head's file holds, by name.
    public var named: [(name: String, tensor: Tensor)] {
        zip(configuration.parameters, tensors).map { ($0.name, $1) } + normalization.named
    }

    /// The number of learned values.
    public var parameterCount: Int { tensors.reduce(0) { $0 + $1.count } }
}

/// Per-channel shift and scale of the trunk's tokens, for visual and text tokens apart: (x − mean) · scale.
///
/// A residual stream has a few channels that are far larger than the others; without this a head would spend its steps on finding that out.
public struct FeatureNormalization: Sendable {
    public let visualMean, visualScale, textMean, textScale: Tensor

    /// Leaves everything as it is.
    public init(identity width: Int) {
        (visualMean, textMean) = (Tensor(zeros: [width]), Tensor(zeros: [width]))
        (visualScale, textScale) = (Tensor(full: 1, shape: [width]), Tensor(full: 1, shape: [width]))
    }

    init(visual: ChannelStatistics, text: ChannelStatistics) {
        (visualMean, visualScale) = visual.normalization
        (textMean, textScale) = text.normalization
    }

    static let names = ["visual_mean", "visual_scale", "text_mean", "text_scale"].map { "normalization.\($0)" }

    init(width: Int, tensor: (String) throws -> Tensor?) throws {
        let tensors = try Self.names.map { try RewardHead.checked(try tensor($0), name: $0, shape: [width]) }
        (visualMean, visualScale, textMean, textScale) = (tensors[0], tensors[1], tensors[2], tensors[3])
    }

    var named: [(name: String, tensor: Tensor)] {
        Array(zip(Self.names, [visualMean, visualScale, textMean, textScale]))
    }

    /// Tokens [B,N,D] with a live gradient.
    func visual(_ x: Variable) -> Variable { Self.apply(x, visualMean, visualScale) }
    /// Text tokens [B,L,D].
    func text(_ x: Variable) -> Variable { Self.apply(x, textMean, textScale) }

    private static func apply(_ x: Variable, _ mean: Tensor, _ scale: Tensor) -> Variable {
        let width = mean.count
        let row = Variable(scale.reshaped([1, 1, width]))
        let shift = Variable((mean * scale * -1).reshaped([1, 1, width]))
        return add(multiply(x, row), shift)
    }
}

/// Running sums of channels over tokens, added up in one fixed order.
struct ChannelStatistics {
    private var sums: [Double]
    private var squares: [Double]
    private var count = 0

    init(width: Int) {
        sums = Array(repeating: 0, count: width)
        squares = sums
    }

    /// - Parameter tokens: [N,D] or [B,N,D].
    mutating func add(_ tokens: Tensor) {
        let width = sums.count
        tokens.withUnsafeBufferPointer { values in
            for start in stride(from: 0, to: values.count, by: width) {
                for channel in 0..<width {
                    let value = Double(values[start + channel])
                    sums[channel] += value
                    squares[channel] += value * value
                }
            }
        }
        count += tokens.count / max(width, 1)
    }

    /// A channel that hardly varies is not blown up: its deviation counts for a tenth of the mean deviation at least.
    var normalization: (mean: Tensor, scale: Tensor) {
        let n = Double(max(count, 1))
        let means = sums.map { $0 / n }
        let deviations = zip(squares, means).map { max($0 / n - $1 * $1, 0).squareRoot() }
        let floor = max(deviations.reduce(0, +) / Double(max(deviations.count, 1)) / 10, 1e-6)
        let scales = deviations.map { Float(1 / max($0, floor)) }
        return (Tensor(means.map { Float($0) }, shape: [means.count]), Tensor(scales, shape: [means.count]))
    }
}

/// Runs of random streams, kept apart from others under the same seed.
enum RewardStreams {
    static let initialHead: UInt32 = 0x4EAD0
    static let trainingLevel: UInt32 = 0x4EAD1
    static let trainingNoise: UInt32 = 0x4EAD2
    static let batchOrder: UInt32 = 0x4EAD3
    static let batchDraw: UInt32 = 0x4EAD4
    static let evaluationNoise: UInt32 = 0x4EAD5
}
