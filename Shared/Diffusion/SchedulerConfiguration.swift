import Safetensors

/// A hub folder's `scheduler/scheduler_config.json`: which noise a model was trained on, and how diffusers would walk it back.
///
/// Read strictly. A key that nobody here knows is refused by name, because it might change numbers; so is a known key whose value asks for
/// something that is not supported. Keys that change nothing in the schedule that is built (a solver's order, what diffusers notes for itself)
/// are accepted.
///
/// Stable Diffusion's folders name a solver (PNDM, Euler, DDPM, UniPC); of these the noise is read, as `DDIMScheduler.from_config` reads it: the
/// keys that stand in the file and that DDIM knows, and DDIM's own defaults for all others. Wan's folder names UniPC with flow sigmas; it is read
/// as flow matching with its `flow_shift`.
public struct SchedulerConfiguration: Sendable, Hashable {
    /// Which family of noise this is, with its numbers.
    public enum Noise: Sendable, Hashable {
        /// x_t = √ā·x₀ + √(1 − ā)·ε.
        case variancePreserving(DDIMConfiguration)
        /// x_t = (1 − σ)·x₀ + σ·ε.
        case flowMatching(FlowMatchConfiguration)
    }

    /// `_class_name`: the scheduler that the folder names.
    public let className: String
    /// What was read.
    public let noise: Noise

    /// Reads a `scheduler_config.json` of at most a mebibyte.
    /// - Throws: `DiffusionError` with the path and the key.
    public init(contentsOf path: String) throws {
        do {
            try self.init(StrictJSON.parse(contentsOf: path, limit: 1 << 20))
        } catch { throw DiffusionError("\(path): \(error)") }
    }

    /// Reads the text of a `scheduler_config.json`.
    /// - Throws: `DiffusionError` with the key.
    public init(json: [UInt8]) throws {
        do {
            try self.init(StrictJSON.parse(json))
        } catch { throw DiffusionError("\(error)") }
    }

    private init(_ json: StrictJSON) throws {
        guard case .object(let members) = json else { throw DiffusionError("the configuration is not a JSON object") }
        guard case .string(let name)? = json["_class_name"] else { throw DiffusionError("_class_name is missing or no text") }
        className = name
        let values = SchedulerValues(className: name, members: members.filter { !$0.key.hasPrefix("_") })
        switch name {
        case "FlowMatchEulerDiscreteScheduler": noise = .flowMatching(try FlowMatchConfiguration(euler: values))
        case "UniPCMultistepScheduler" where try values.bool("use_flow_sigmas", default: false):
            noise = .flowMatching(try FlowMatchConfiguration(uniPC: values))
        case "DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler":
            noise = .variancePreserving(try DDIMConfiguration(values))
        default:
            throw DiffusionError(
                "_class_name \(quoted(name)) is not supported (DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, "
                    + "FlowMatchEulerDiscreteScheduler, PNDMScheduler, UniPCMultistepScheduler)")
        }
    }

    /// What a person wants to know of the schedule, by name, in a fixed order.
    public var fields: [(name: String, value: String)] {
        switch noise {
        case .variancePreserving(let ddim):
            let readAs = className == "DDIMScheduler" ? "" : ", read as DDIM"
            return [("scheduler", className + readAs), ("noise", "variance preserving")] + ddim.fields
        case .flowMatching(let flow):
            let readAs = className == "FlowMatchEulerDiscreteScheduler" ? "" : ", read as Euler flow matching"
            return [("scheduler", className + readAs), ("noise", "flow matching")] + flow.fields
        }
    }

    /// `fields` as lines "name: value".
    public var summaryLines: [String] { fields.map { "\($0.name): \($0.value)" } }
}

/// The members of a `scheduler_config.json` with the checks that their types need; every message names the key.
struct SchedulerValues {
    let className: String
    let members: [StrictJSON.Member]

    private func value(_ key: String) -> StrictJSON? { members.first { $0.key == key }?.value }

    func failure(_ key: String, _ what: String) -> DiffusionError { DiffusionError("\(key) \(what)") }

    /// Refuses keys that are not among these: what they would change is not known here.
    func requireKnown(_ known: Set<String>) throws {
        for member in members where !known.contains(member.key) {
            throw DiffusionError("\(quoted(member.key)) is not a key known of \(className)")
        }
    }

    func integer(_ key: String, default fallback: Int, in range: ClosedRange<Int>) throws -> Int {
        guard let value = value(key) else { return fallback }
        guard case .integer(let integer) = value else { throw failure(key, "must be a whole number, not \(value.kind)") }
        guard range.contains(integer) else { throw failure(key, "is \(integer), outside of \(range.lowerBound) to \(range.upperBound)") }
        return integer
    }

    func number(_ key: String, default fallback: Double, in range: ClosedRange<Double>) throws -> Double {
        let number: Double
        switch value(key) {
        case nil: return fallback
        case .integer(let integer)?: number = Double(integer)
        case .number(let double)?: number = double
        case let other?: throw failure(key, "must be a number, not \(other.kind)")
        }
        guard range.contains(number) else { throw failure(key, "is \(number), outside of \(range.lowerBound) to \(range.upperBound)") }
        return number
    }

    func bool(_ key: String, default fallback: Bool) throws -> Bool {
        guard let value = value(key) else { return fallback }
        guard case .bool(let bool) = value else { throw failure(key, "must be true or false, not \(value.kind)") }
        return bool
    }

    func choice<Choice: RawRepresentable<String> & CaseIterable>(_ key: String, default fallback: Choice) throws -> Choice {
        guard let value = value(key) else { return fallback }
        guard case .string(let text) = value else { throw failure(key, "must be a text, not \(value.kind)") }
        guard let choice = Choice(rawValue: text) else {
            throw failure(key, "is \(quoted(text)), expected \(Choice.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        return choice
    }

    /// Refuses a switch that is on: what it asks for is not supported.
    func requireOff(_ keys: String...) throws {
        for key in keys {
            switch value(key) {
            case nil, .null?, .bool(false)?: continue
            case .bool(true)?: throw failure(key, "is true, which is not supported")
            case let other?: throw failure(key, "must be true or false, not \(other.kind)")
            }
        }
    }

    /// Refuses a value other than null.
    func requireNull(_ keys: String...) throws {
        for key in keys {
            if let value = value(key), value != .null { throw failure(key, "is \(value.kind), and anything but null is not supported") }
        }
    }

    /// Refuses a text other than this one.
    func require(_ key: String, _ text: String) throws {
        guard let value = value(key) else { return }
        guard case .string(let found) = value else { throw failure(key, "must be a text, not \(value.kind)") }
        guard found == text else { throw failure(key, "is \(quoted(found)), and only '\(text)' is supported") }
    }
}

/// A text out of a file, made fit for a message: short and free of control characters.
func quoted(_ text: String) -> String {
    let short = text.count > 64 ? String(text.prefix(61)) + "..." : text
    return "'" + String(short.unicodeScalars.map { $0.value < 32 || $0.value == 127 ? "?" : Character($0) }) + "'"
}
