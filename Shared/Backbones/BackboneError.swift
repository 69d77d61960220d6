/// What is wrong with a model folder, an adapter or an argument: the message names the key, the tensor or the argument.
public struct BackboneError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The sentence for a person.
    public let description: String

    /// An error with its sentence.
    public init(_ description: String) { self.description = description }
}
