/// What is wrong with a safetensors file, and where: the message names the tensor, the metadata key or the header field.
public struct SafetensorsError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The sentence for a person.
    public let description: String

    /// An error with its sentence.
    public init(_ description: String) { self.description = description }

    /// The same error with the file it was found in.
    func inside(_ file: String) -> SafetensorsError { SafetensorsError("\(file): \(description)") }
}

extension String {
    /// A name out of a hostile file, made fit for an error message: short, and free of what moves a terminal's cursor or turns its text around.
    var quotedForMessage: String {
        let scalars = unicodeScalars.prefix(117).map { scalar -> Character in
            switch scalar.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator, .unassigned: "?"
            default: Character(scalar)
            }
        }
        return "'" + String(scalars) + (unicodeScalars.dropFirst(117).isEmpty ? "'" : "...'")
    }
}
