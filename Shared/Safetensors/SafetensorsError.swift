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
    /// A name out of a hostile file, made fit for an error message: short and free of control characters.
    var quotedForMessage: String {
        let short = count > 120 ? String(prefix(117)) + "..." : self
        return "'" + String(short.unicodeScalars.map { $0.value < 32 || $0.value == 127 ? "?" : Character($0) }) + "'"
    }
}
