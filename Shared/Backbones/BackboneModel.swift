public import Tensors

/// A network with its weights by their diffusers names: what checkpoints, adapters and optimisers know of a model.
///
/// Not Sendable, as a graph belongs to one thread.
public protocol BackboneModel: AnyObject {
    /// diffusers' name of the class, as `_class_name` in `config.json` has it.
    static var className: String { get }
    /// The part of a diffusers pipeline that the model is, which precedes its keys in an adapter's file: `transformer` or `unet`.
    static var component: String { get }
    /// What adapters change unless told otherwise: ends of layers' names.
    static var adapterTargets: [String] { get }
    /// The parameters in the order in which the model declared them.
    var tree: ParameterTree { get }
}

/// A model that a diffusers folder describes whole: `config.json` and the tensors that follow from it.
///
/// `public static func load(directory: String) throws -> Model { try Checkpoint.load(directory) }` is all that a model adds.
protocol CheckpointedModel: BackboneModel {
    associatedtype Configuration
    /// Reads `config.json` strictly: a value out of range is refused before anything is built from it.
    static func configuration(contentsOf path: String) throws -> Configuration
    /// Builds the tree, asking `source` for each parameter once.
    ///
    /// Nothing may be computed from a parameter's values here: the first pass over a checkpoint has shapes and no values yet.
    init(configuration: Configuration, trainable: @escaping (String) -> Bool, source: @escaping ParameterTree.Source) throws
    /// Tensors that are in real checkpoints and that diffusers itself skips.
    static func ignores(_ tensor: String) -> Bool
    /// Tensors that a folder may have and may lack, and that are no parameters.
    static func buffers(_ configuration: Configuration) -> [(name: String, shape: [Int])]
}

extension CheckpointedModel {
    static func ignores(_ tensor: String) -> Bool { false }
    static func buffers(_ configuration: Configuration) -> [(name: String, shape: [Int])] { [] }
}

extension BackboneModel {
    public static var component: String { "transformer" }
    public static var adapterTargets: [String] { LoRAConfiguration.attentionTargets }

    /// The parameters by their diffusers names, in a fixed order; an attached adapter's are in `loraParameters`.
    public var parameters: [(name: String, variable: Variable)] { tree.parameters.map { ($0.name, $0.variable) } }

    /// The number of values in all parameters.
    public var parameterCount: Int { tree.parameters.reduce(0) { $0 + $1.variable.tensor.count } }

    /// Makes exactly the parameters that `predicate` names require gradients. Their variables are new leaves afterwards.
    public func setRequiresGradient(where predicate: (String) -> Bool) {
        for parameter in tree.parameters where predicate(parameter.name) != parameter.variable.requiresGradient {
            parameter.variable = Variable(parameter.variable.tensor, requiresGradient: predicate(parameter.name))
        }
    }

    /// Replaces the parameters' values, for an optimiser's result or an average of weights; in the order of `parameters`.
    public func setParameters(_ tensors: [Tensor]) {
        precondition(tensors.count == tree.parameters.count, "\(tensors.count) tensors for \(tree.parameters.count) parameters")
        for (parameter, tensor) in zip(tree.parameters, tensors) {
            precondition(tensor.shape == parameter.variable.tensor.shape, "\(parameter.name): shape \(tensor.shape)")
            parameter.variable = Variable(tensor, requiresGradient: parameter.variable.requiresGradient)
        }
    }
}
