import Foundation
import Safetensors
import Tensors

/// What `foretaste backbone forward` does: one pass from file to file under diffusers' names.
public enum BackboneRun {
    /// What to compute, and from where to where.
    public struct Request: Sendable {
        /// A model folder, or a pipeline's.
        public var directory: String
        /// The inputs under diffusers' names: `hidden_states` or `sample`, `timestep`, `encoder_hidden_states` and what else the class takes.
        public var input: String
        public var output: String
        /// Features to write as `features.NAME`: a transformer's blocks from 1, a U-Net's `down.K` and `mid`.
        public var features: [String] = []
        /// Ends the pass after the last of `features`; there is no sample, and a U-Net's up half is not even loaded.
        public var featuresOnly = false
        /// A file with `cotangent`, shaped like `sample`, and `cotangent.features.NAME`, shaped like features, or some of them. Gradients are
        /// those of the sum of their products with the outputs. Without the file no gradient is computed.
        public var cotangent: String?
        /// Parameters whose gradient is written as `grad.NAME`.
        public var gradients: [String] = []
        /// An adapter, as diffusers saves it.
        public var lora: String?

        public init(directory: String, input: String, output: String) {
            self.directory = directory
            self.input = input
            self.output = output
        }
    }

    /// Runs the model and writes the output whole, or throws and leaves no output file.
    public static func forward(_ request: Request) throws {
        let output = try OutputFile(request.output)
        let inputs = [request.input, request.cotangent, request.lora].compactMap { $0 }
        for path in inputs where output.is(path) { throw BackboneError("the output \(request.output) would replace an input") }
        // An older result left in place could be taken for this run's; but never is a model's file taken for one.
        var isOurs = true
        do {
            let directory = try PipelineFolder(request.directory).model
            isOurs = try !FileManager.default.contentsOfDirectory(atPath: directory).contains { output.is("\(directory)/\($0)") }
            guard isOurs else { throw BackboneError("the output \(request.output) would replace a file of the model") }
            try run(request, directory)
        } catch {
            if isOurs { output.remove() }
            throw error
        }
    }

    private static func run(_ request: Request, _ directory: String) throws {
        guard request.gradients.isEmpty || request.cotangent != nil else {
            throw BackboneError("gradients are asked for, but there is no cotangent to begin with")
        }
        guard !request.featuresOnly || !request.features.isEmpty else {
            throw BackboneError("features alone are asked for, but none is named")
        }
        let file = try SafetensorsFile(contentsOf: request.input)
        let cotangents = try request.cotangent.map { try SafetensorsFile(contentsOf: $0) }
        let type = try Checkpoint.model(directory: directory)
        try run(request, directory, file, cotangents, type)
    }

    private static func run<Model: RunnableBackbone>(
        _ request: Request, _ directory: String, _ file: SafetensorsFile, _ cotangents: SafetensorsFile?, _ type: Model.Type
    ) throws {
        let names = Model.featureNames(try Model.configuration(contentsOf: "\(directory)/config.json"))
        let wanted = Set(request.features)
        for name in wanted.sorted() where !names.contains(name) {
            throw BackboneError("features: there is no '\(name)', the model has \(span(names))")
        }
        let model = try request.featuresOnly ? Model.loadForFeatures(directory: directory) : Model.load(directory: directory)
        if let lora = request.lora { try attach(LoRAFile.load(lora), to: model) }
        let parameters = try requireGradients(request.gradients, of: model)

        let inputs = ForwardInputs(file, requiresGradient: cotangents != nil)
        let result = try model.run(inputs, features: request.features, stop: request.featuresOnly)
        var outputs = result.sample.map { [("sample", $0)] } ?? []
        for name in names where wanted.contains(name) { outputs.append(("features.\(name)", result.features[name]!)) }
        var tensors = outputs.map { ($0.0, $0.1.tensor) }
        if let cotangents {
            try backward(outputs, cotangents)
            for (name, variable) in inputs.variables {
                tensors.append(("grad_\(name)", variable.gradient ?? Tensor(zeros: variable.shape)))
            }
            for (name, parameter) in parameters {
                tensors.append(("grad.\(name)", parameter.variable.gradient ?? Tensor(zeros: parameter.variable.shape)))
            }
        }
        try SafetensorsWriter.write(tensors: tensors, to: request.output)
    }

    /// `1 to 30`, or the names themselves.
    private static func span(_ names: [String]) -> String {
        names.allSatisfy { Int($0) != nil } ? "\(names.first!) to \(names.last!)" : names.joined(separator: ", ")
    }

    /// Attaches an adapter, without what belongs to the part of the model that was not loaded.
    private static func attach(_ weights: LoRAWeights, to model: some RunnableBackbone) throws {
        var weights = weights
        weights.layers.removeAll { model.leavesOut($0.name) }
        try model.attachLoRA(weights, trainable: false)
    }

    /// Gradients of Σ ⟨cotangent, output⟩ over the outputs that the file has cotangents for.
    private static func backward(_ outputs: [(name: String, variable: Variable)], _ file: SafetensorsFile) throws {
        var pairs: [(variable: Variable, cotangent: Tensor)] = []
        for key in file.names where key == "cotangent" || key.hasPrefix("cotangent.features.") {
            let name = key == "cotangent" ? "sample" : String(key.dropFirst("cotangent.".count))
            guard let output = outputs.first(where: { $0.name == name }) else {
                throw BackboneError("\(key): \(name) is not computed; there are \(outputs.map(\.name).joined(separator: ", "))")
            }
            let shape = output.variable.shape
            guard file.entries[key]!.shape == shape else {
                throw BackboneError("\(key) has shape \(file.entries[key]!.shape), but \(name) has \(shape)")
            }
            let cotangent = try file.tensor(key)
            guard cotangent.isFinite else { throw BackboneError("\(key) holds values that are not finite") }
            pairs.append((output.variable, cotangent))
        }
        guard !pairs.isEmpty else {
            throw BackboneError("the cotangent file has neither 'cotangent' nor 'cotangent.features.NAME'")
        }
        let cotangents = pairs.map(\.cotangent)
        // One node over all of them, so that what they share is gone through once.
        Variable.operation(Tensor(scalar: 0), inputs: pairs.map(\.variable)) { _, outputs in
            for (output, cotangent) in zip(outputs, cotangents) { output.accumulate(cotangent) }
        }.backward()
    }

    /// Makes the named parameters, and no others, require gradients. An adapter's may be called as in its file or without the prefix.
    private static func requireGradients<Model: BackboneModel>(
        _ names: [String], of model: Model
    ) throws -> [(name: String, parameter: Parameter)] {
        var result: [(name: String, parameter: Parameter)] = []
        let adapters = model.tree.layers.compactMap(\.adapter).flatMap { [$0.a, $0.b] }
        for name in names where !result.contains(where: { $0.name == name }) {
            let plain = name.hasPrefix(Model.component + ".") ? String(name.dropFirst(Model.component.count + 1)) : name
            guard let parameter = (model.tree.parameters + adapters).first(where: { $0.name == plain }) else {
                throw BackboneError("gradients: the model has no parameter '\(name)'")
            }
            parameter.variable = Variable(parameter.variable.tensor, requiresGradient: true)
            result.append((name, parameter))
        }
        return result
    }
}

/// A file that is to be written: never one that is read, and gone when there is nothing to write.
private struct OutputFile {
    private let path: String

    init(_ path: String) throws {
        self.path = path
        let type = try? FileManager.default.attributesOfItem(atPath: Self.resolved(path))[.type] as? FileAttributeType
        guard type == nil || type == .typeRegular else { throw BackboneError("the output \(path) is there and no file") }
    }

    private static func resolved(_ path: String) -> String {
        URL(fileURLWithPath: path).resolvingSymlinksInPath().standardizedFileURL.path
    }

    /// Whether the two are one file, by whatever names.
    func `is`(_ other: String) -> Bool {
        if Self.resolved(path) == Self.resolved(other) { return true }
        func identity(_ path: String) -> [UInt64]? {
            let attributes = try? FileManager.default.attributesOfItem(atPath: Self.resolved(path))
            guard let device = attributes?[.systemNumber] as? NSNumber, let file = attributes?[.systemFileNumber] as? NSNumber else {
                return nil
            }
            return [device.uint64Value, file.uint64Value]
        }
        guard let own = identity(path) else { return false }
        return own == identity(other)
    }

    func remove() { try? FileManager.default.removeItem(atPath: path) }
}
