/// What is wrong with a head, its folder or the data it is to learn from; the message names the setting, the tensor or the clip.
public struct RewardError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The sentence for a person.
    public let description: String

    /// An error with its sentence.
    public init(_ description: String) { self.description = description }
}
