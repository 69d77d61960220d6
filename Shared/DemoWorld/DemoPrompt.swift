/// One of the world's twelve prompts: a shape, a colour and a direction.
///
/// The order of the raw numbers is the definition's: `id = shape·6 + colour·2 + direction`.
public struct DemoPrompt: Sendable, Hashable, CaseIterable {
    /// What moves. Both shapes cover 24 pixels, centred in a box of 6×6.
    public enum Shape: Int, Sendable, CaseIterable { case diamond, hourglass }
    /// Permutations of the same three values: colour says nothing about energy.
    public enum Colour: Int, Sendable, CaseIterable { case red, green, blue }
    /// Which way it moves, one latent cell (two pixels) a frame.
    public enum Direction: Int, Sendable, CaseIterable { case right, down }

    /// 0 ..< 12.
    public let id: Int

    /// - Precondition: `id` lies in 0 ..< 12.
    public init(id: Int) {
        precondition((0..<12).contains(id), "a demo prompt is 0 ..< 12, not \(id)")
        self.id = id
    }

    public init(_ shape: Shape, _ colour: Colour, _ direction: Direction) {
        id = shape.rawValue * 6 + colour.rawValue * 2 + direction.rawValue
    }

    /// Reads the words that ``text`` writes; nil for anything else.
    public init?(text: String) {
        guard let match = Self.allCases.first(where: { $0.text == text }) else { return nil }
        self = match
    }

    public static var allCases: [DemoPrompt] { (0..<12).map(DemoPrompt.init(id:)) }

    public var shape: Shape { Shape(rawValue: id / 6)! }
    public var colour: Colour { Colour(rawValue: (id / 2) % 3)! }
    public var direction: Direction { Direction(rawValue: id % 2)! }

    /// Such as `red diamond moving right`.
    public var text: String { "\(colour) \(shape) moving \(direction)" }
}
