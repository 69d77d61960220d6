import Foundation

/// Progress for people on a terminal, lines for everything else.
///
/// On a terminal the current step's bar is redrawn in place on standard error; elsewhere (CI, a file) each step prints one line when it ends.
final class Terminal: Sendable {
    private let interactive = isatty(STDERR_FILENO) == 1
    private let started = Date()

    func headline(_ text: String) { write(text + "\n") }

    /// Draws `step` as a bar at `fraction` of 1 with a short message behind it.
    func progress(_ step: String, _ fraction: Double, _ message: String = "") {
        guard interactive else { return }
        let width = 28
        let filled = Int((min(max(fraction, 0), 1) * Double(width)).rounded())
        let bar = String(repeating: "█", count: filled) + String(repeating: "░", count: width - filled)
        let percent = String(format: "%3.0f %%", min(max(fraction, 0), 1) * 100)
        write("\r\u{1B}[2K  \(step.padding(toLength: 34, withPad: " ", startingAt: 0)) \(bar) \(percent)  \(message)")
    }

    /// Ends the current step with its wall seconds and one line of what came out.
    func finished(_ step: String, seconds: Double, _ result: String) {
        let name = step.padding(toLength: 34, withPad: " ", startingAt: 0)
        let line = "  \(name) \(String(format: "%6.1f s", seconds))  \(result)\n"
        write(interactive ? "\r\u{1B}[2K" + line : line)
    }

    private func write(_ text: String) { FileHandle.standardError.write(Data(text.utf8)) }
}
