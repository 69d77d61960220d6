/// What is wrong with a scheduler's configuration or with what was asked of a schedule: the message names the key or the argument.
public struct DiffusionError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The sentence for a person.
    public let description: String

    /// An error with its sentence.
    public init(_ description: String) { self.description = description }
}
