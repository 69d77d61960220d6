import Tensors

/// What a process is asked to do again and again; `peer.py` takes the same options.
struct Options: Sendable {
    /// A diffusers folder.
    var model = ""
    /// `forward`; `input` for the gradient of the latent with a frozen model; `lora` for an adapter's gradients; `training` for all
    /// parameters' gradients of a mean square; `half` for a U-Net's down and mid blocks alone, `half-input` with the latent's gradient.
    var pass = "forward"
    /// Latent frames, rows and columns (rows and columns of a picture).
    var grid: [Int] = []
    var batch = 1
    var text = 512
    var threads = 1
    /// How large products are computed; the peer is asked for Float32 alone.
    var precision = Precision.float32

    init(_ arguments: [String]) throws {
        guard arguments.count % 2 == 0 else { throw Usage("an option without a value") }
        for i in stride(from: 0, to: arguments.count, by: 2) {
            let value = arguments[i + 1]
            func number() throws -> Int {
                guard let number = Int(value), number > 0 else { throw Usage("\(arguments[i]) \(value)") }
                return number
            }
            switch arguments[i] {
            case "--model": model = value
            case "--pass": pass = value
            case "--grid": grid = value.split(separator: "x").compactMap { Int($0) }
            case "--batch": batch = try number()
            case "--text": text = try number()
            case "--threads": threads = try number()
            case "--precision":
                guard let named = Precision(rawValue: value) else { throw Usage("--precision \(value)") }
                precision = named
            default: throw Usage("unknown option \(arguments[i])")
            }
        }
    }
}

struct Usage: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// A model with its inputs, ready to run.
protocol Work {
    /// Does the work once and returns the tensors whose magnitude both sides compare.
    func run() throws -> [Tensor]
    /// Floating-point operations of matrix products and convolutions in one `run`.
    var flops: Double { get }
    /// The sizes at which this work's linears call sgemm.
    var sgemm: [Sgemm.Size] { get }
}
