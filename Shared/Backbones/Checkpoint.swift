import Foundation
import Safetensors
import Tensors

/// A model folder's tensors: one `diffusion_pytorch_model.safetensors`, or shards behind an index.
struct Checkpoint: Sendable {
    let directory: String
    /// The file that holds each tensor.
    private(set) var files: [String: SafetensorsFile] = [:]
    /// The files of weights.
    private(set) var shards: [BackboneInspection.Shard] = []
    /// What the files' headers say of all tensors.
    var entries: [SafetensorsEntry] { files.map { $0.value.entries[$0.key]! } }

    /// The index that was read, nil for a single file.
    private(set) var index: String?

    static let single = "diffusion_pytorch_model.safetensors"
    /// Names of indices and single files, first the ones that diffusers takes by itself, then those of its variant `fp16`.
    private static let names = [
        (index: "\(single).index.json", single: single),
        (index: "\(single).index.fp16.json", single: "diffusion_pytorch_model.fp16.safetensors"),
    ]
    /// The classes that we have.
    static var models: [any RunnableBackbone.Type] { [WanTransformer3DModel.self, UNet2DConditionModel.self, SD3Transformer2DModel.self] }

    init(directory: String) throws {
        self.directory = directory
        func exists(_ name: String) -> Bool { FileManager.default.fileExists(atPath: "\(directory)/\(name)") }
        guard let found = Self.names.first(where: { exists($0.index) || exists($0.single) }) else {
            throw BackboneError("\(directory) has neither \(Self.single) nor \(Self.names[0].index)")
        }
        // As in diffusers, an index goes before a single file.
        guard exists(found.index) else {
            let file = try open(found.single)
            for name in file.names { files[name] = file }
            return
        }
        index = found.index
        var opened: [String: SafetensorsFile] = [:]
        for (name, shard) in try weightMap(found.index) {
            let file = try opened[shard] ?? open(shard)
            opened[shard] = file
            guard file.entries[name] != nil else {
                throw BackboneError("\(found.index): '\(name)' is not in \(shard), where weight_map has it")
            }
            files[name] = file
        }
        for (shard, file) in opened {
            for name in file.names where files[name] == nil { throw BackboneError("\(shard): '\(name)' is not in \(found.index)") }
        }
        shards.sort { $0.file < $1.file }
    }

    /// The index's tensors and the plain names of the files that have them.
    private func weightMap(_ index: String) throws -> [(name: String, shard: String)] {
        let json: StrictJSON
        do {
            json = try StrictJSON.parse(contentsOf: "\(directory)/\(index)", limit: 64 << 20)
        } catch { throw BackboneError("\(directory)/\(index): \(error)") }
        guard case .object(let members)? = json["weight_map"], !members.isEmpty else {
            throw BackboneError("\(directory)/\(index): weight_map is missing, empty or no object")
        }
        return try members.map { member in
            guard case .string(let shard) = member.value, shard.hasSuffix(".safetensors"), !shard.hasPrefix("."),
                !shard.unicodeScalars.contains(where: { $0 == "/" || $0 == "\\" || $0.value < 32 || $0.value == 127 })
            else {
                throw BackboneError("\(directory)/\(index): weight_map '\(member.key)' is no plain name of a file beside the index")
            }
            return (member.key, shard)
        }
    }

    /// Writes a model folder, `config.json` and one file of weights, each renamed into place when it is complete.
    static func save(
        _ tensors: [(String, Tensor)], configuration: [UInt8], dtype: FloatStorage, to directory: String
    ) throws {
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        try SafetensorsWriter.write(tensors: tensors, metadata: ["format": "pt"], dtype: dtype, to: "\(directory)/\(single)")
        // An older model's index would go before the file.
        if FileManager.default.fileExists(atPath: "\(directory)/\(names[0].index)") {
            try FileManager.default.removeItem(atPath: "\(directory)/\(names[0].index)")
        }
        try Data(configuration).write(to: URL(fileURLWithPath: "\(directory)/config.json"), options: .atomic)
    }

    private mutating func open(_ name: String) throws -> SafetensorsFile {
        let file = try SafetensorsFile(contentsOf: "\(directory)/\(name)")
        // The hub's cache keeps links to its files.
        let path = URL(fileURLWithPath: "\(directory)/\(name)").resolvingSymlinksInPath().path
        let bytes = try FileManager.default.attributesOfItem(atPath: path)[.size] as? Int ?? 0
        shards.append(.init(file: name, tensors: file.names.count, bytes: bytes))
        return file
    }

    /// The class that `config.json` names.
    /// - Throws: `BackboneError` naming the classes that there are, when it is none of them or the key is missing.
    static func model(directory: String) throws -> any RunnableBackbone.Type {
        let name = try className(directory: directory)
        return models.first { $0.className == name }!
    }

    /// The name of that class.
    static func className(directory: String) throws -> String {
        try ConfigurationReader.read("\(directory)/config.json") { json in
            let knownClasses = models.map { $0.className }
            let known = "expected \(knownClasses.joined(separator: ", "))"
            guard let member = try ConfigurationReader.members(json).first(where: { $0.key == "_class_name" }) else {
                throw BackboneError("_class_name is missing: \(known)")
            }
            guard case .string(let name) = member.value else {
                throw BackboneError("_class_name must be a text, not \(member.value.kind): \(known)")
            }
            guard knownClasses.contains(name) else { throw BackboneError("_class_name is '\(name.prefix(64))': \(known)") }
            return name
        }
    }

    /// A model with the folder's weights, none of which requires a gradient.
    /// - Throws: `BackboneError` or `SafetensorsError` naming the tensor that is missing, superfluous, misshapen or not finite, or the
    ///   key of `config.json`.
    static func load<Model: CheckpointedModel>(_ directory: String) throws -> Model {
        try load(directory, configuration: Model.configuration, ignoring: Model.ignores) { configuration, source in
            try Model(configuration: configuration, trainable: { _ in false }, source: source)
        }
    }

    /// The same for a model that is built otherwise, such as half of one.
    ///
    /// - Parameters:
    ///   - ignoring: tensors that may be in the folder although the model does not ask for them: the other half, or what diffusers skips.
    ///   - build: declares the model's parameters. It is called twice, first with shapes alone, so that a folder that does not fit is
    ///     refused before its weights are read.
    static func load<Model: BackboneModel, Configuration>(
        _ directory: String, configuration read: (String) throws -> Configuration, ignoring: (String) -> Bool,
        build: (Configuration, @escaping ParameterTree.Source) throws -> Model
    ) throws -> Model {
        let (configuration, checkpoint) = try opened(directory, Model.self, read)
        let names = try checkpoint.shapes(ignoring: ignoring) { try build(configuration, $0) }.tree.parameters.map(\.name)
        // Conversion and the search for what is not finite take their time in a large model.
        let read = try NumericThreads.parallelMap(names.count) { try checkpoint.values(names[$0]) }
        var values = Dictionary(uniqueKeysWithValues: zip(names, read))
        return try build(configuration) { name, _, _ in values.removeValue(forKey: name)! }
    }

    /// Checks a folder as `load` does, tensor by tensor: the weights are never in memory together.
    /// - Returns: a model with shapes and no values.
    static func check<Model: CheckpointedModel>(_ directory: String) throws -> Model {
        let (configuration, checkpoint) = try opened(directory, Model.self, Model.configuration)
        let model = try checkpoint.shapes(ignoring: Model.ignores) {
            try Model(configuration: configuration, trainable: { _ in false }, source: $0)
        }
        for (name, shape) in Model.buffers(configuration) {
            guard let entry = checkpoint.files[name]?.entries[name] else { continue }
            try checkpoint.require(name, entry, shape)
        }
        for name in checkpoint.files.keys.sorted() where checkpoint.files[name]!.entries[name]!.dtype.isFloatingPoint {
            _ = try checkpoint.values(name)
        }
        return model
    }

    private static func opened<Model: BackboneModel, Configuration>(
        _ directory: String, _ type: Model.Type, _ read: (String) throws -> Configuration
    ) throws -> (Configuration, Checkpoint) {
        let found = try className(directory: directory)
        guard found == Model.className else {
            throw BackboneError("\(directory)/config.json: _class_name is \(found), expected \(Model.className)")
        }
        return (try read("\(directory)/config.json"), try Checkpoint(directory: directory))
    }

    /// Builds the model over memory that is never touched, checking that the folder has just its tensors.
    private func shapes<Model: BackboneModel>(
        ignoring: (String) -> Bool, build: (@escaping ParameterTree.Source) throws -> Model
    ) throws -> Model {
        var known: Set<String> = []
        var hollow = Tensor(shape: [0]) { _ in }
        let model = try build { name, shape, _ in
            known.insert(name)
            guard let entry = files[name]?.entries[name] else {
                throw BackboneError("\(directory): tensor '\(name)' (shape \(shape)) is missing")
            }
            try require(name, entry, shape)
            // All share the memory of the largest.
            if hollow.count < entry.count { hollow = Tensor(shape: [entry.count]) { _ in } }
            return hollow[0..<entry.count].reshaped(shape)
        }
        let extra = files.keys.filter { !known.contains($0) && !ignoring($0) }.sorted()
        guard extra.isEmpty else {
            throw BackboneError(
                "\(directory): tensor '\(extra[0])' is none of this model's\(extra.count > 1 ? " (and \(extra.count - 1) more)" : "")")
        }
        return model
    }

    private func require(_ name: String, _ entry: SafetensorsEntry, _ shape: [Int]) throws {
        guard entry.shape == shape else {
            throw BackboneError("\(directory): tensor '\(name)' has shape \(entry.shape), but config.json makes it \(shape)")
        }
        guard entry.dtype.isFloatingPoint else {
            throw BackboneError("\(directory): tensor '\(name)' is \(entry.dtype.rawValue), not a floating-point type")
        }
    }

    private func values(_ name: String) throws -> Tensor {
        let tensor = try files[name]!.tensor(name)
        guard tensor.isFinite else { throw BackboneError("\(directory): tensor '\(name)' holds values that are not finite") }
        return tensor
    }
}
