import Safetensors
import Tensors

/// A model that `foretaste backbone` runs from file to file, whatever its class.
protocol RunnableBackbone: CheckpointedModel {
    var configuration: Configuration { get }
    /// The features that there are, in the order in which a pass comes upon them.
    static func featureNames(_ configuration: Configuration) -> [String]
    static func load(directory: String) throws -> Self
    /// Loads what a pass up to the last feature needs, which may be less than the model.
    static func loadForFeatures(directory: String) throws -> Self
    /// Parameters that a partly loaded model is without; an adapter may name them.
    func leavesOut(_ parameter: String) -> Bool
    /// One pass with the inputs of a file. With `stop` it ends after the last of `features`, and there is no sample.
    func run(_ inputs: ForwardInputs, features: [String], stop: Bool) throws -> ForwardResult
    /// What a person wants to know of it.
    func described() -> BackboneDescription
}

extension RunnableBackbone {
    func leavesOut(_ parameter: String) -> Bool { false }
}

/// What a pass gives: features by their names.
struct ForwardResult {
    let sample: Variable?
    let features: [String: Variable]
}

/// The inputs of one pass out of a file under diffusers' names; each is read when it is asked for, after its shape was checked.
final class ForwardInputs {
    /// One axis of an input's shape: any extent, or just one.
    enum Axis {
        case any(String)
        case exactly(Int, String)

        var text: String {
            switch self {
            case .any(let name): name
            case .exactly(let size, let name): name == "B" ? "\(size)" : "\(size) (\(name))"
            }
        }

        func fits(_ extent: Int) -> Bool {
            switch self {
            case .any: extent > 0
            case .exactly(let size, _): extent == size
            }
        }
    }

    /// Values of one input; real ones are a hundredth of it.
    static let valueLimit = 1 << 27

    private let file: SafetensorsFile
    private let requiresGradient: Bool
    /// The inputs that gradients are computed for, in the order in which they were asked for.
    private(set) var variables: [(name: String, variable: Variable)] = []

    init(_ file: SafetensorsFile, requiresGradient: Bool) {
        self.file = file
        self.requiresGradient = requiresGradient
    }

    func has(_ name: String) -> Bool { file.entries[name] != nil }

    /// A floating-point input, with a gradient if gradients are wanted.
    func variable(_ name: String, _ axes: [Axis]) throws -> Variable {
        if let entry = file.entries[name], !entry.dtype.isFloatingPoint {
            throw BackboneError("\(name) is \(entry.dtype.rawValue), not a floating-point type")
        }
        let variable = Variable(try tensor(name, axes), requiresGradient: requiresGradient)
        variables.append((name, variable))
        return variable
    }

    /// Numbers that no gradient passes through: integers, booleans or floats.
    func tensor(_ name: String, _ axes: [Axis]) throws -> Tensor {
        guard let entry = file.entries[name] else { return try file.tensor(name) }
        guard entry.shape.count == axes.count, zip(axes, entry.shape).allSatisfy({ $0.fits($1) }) else {
            throw BackboneError("\(name) has shape \(entry.shape), expected [\(axes.map(\.text).joined(separator: ", "))]")
        }
        guard entry.count <= Self.valueLimit else {
            throw BackboneError("\(name) has shape \(entry.shape): more than \(Self.valueLimit) values")
        }
        guard entry.dtype.isFloatingPoint else { return Tensor(try file.integers(name).map { Float($0) }, shape: entry.shape) }
        let tensor = try file.tensor(name)
        guard tensor.isFinite else { throw BackboneError("\(name) holds values that are not finite") }
        return tensor
    }

    /// One value a row, integers or floats; a single value stands for all rows, as in diffusers.
    func timestep(batch: Int) throws -> [Float] {
        guard let entry = file.entries["timestep"] else { return try file.tensor("timestep").array }
        guard entry.shape.count <= 1, entry.count == 1 || entry.count == batch else {
            throw BackboneError("timestep has shape \(entry.shape), expected [\(batch)]: a timestep for each token is not supported")
        }
        let values = try tensor("timestep", entry.shape.map { .exactly($0, "B") }).array
        return values.count == 1 ? [Float](repeating: values[0], count: batch) : values
    }
}
