import Foundation
import Tensors

/// A named leaf of the graph. The variable is replaced, never changed, when it starts or stops to require a gradient.
final class Parameter {
    let name: String
    var variable: Variable

    init(name: String, variable: Variable) {
        self.name = name
        self.variable = variable
    }
}

/// A linear or a convolution: a weight [out,in,…] that an adapter may change.
class AdaptableLayer {
    let name: String
    let weight: Parameter
    let bias: Parameter?
    var adapter: LoRALayer?

    init(name: String, weight: Parameter, bias: Parameter?) {
        self.name = name
        self.weight = weight
        self.bias = bias
    }

    /// The shapes of an adapter: A is the layer with `rank` channels out, B a linear or a 1 x 1 convolution behind it.
    func adapterShapes(rank: Int) -> (a: [Int], b: [Int]) {
        let shape = weight.variable.tensor.shape
        return ([rank] + shape.dropFirst(), [shape[0], rank] + [Int](repeating: 1, count: shape.count - 2))
    }
}

/// `y = W x + b`, and beside it the adapter when one is attached: `+ (alpha / rank) B A x`.
final class Linear: AdaptableLayer {
    func callAsFunction(_ x: Variable) -> Variable {
        let y = linear(x, weight.variable, bias?.variable)
        guard let adapter else { return y }
        return add(y, scale(linear(linear(x, adapter.a.variable), adapter.b.variable), adapter.scaling))
    }

    /// The activation of `y`, in one pass where no adapter comes between.
    func callAsFunction(_ x: Variable, _ activation: Activation) -> Variable {
        adapter == nil ? linear(x, weight.variable, bias?.variable, activation: activation) : activate(self(x), activation)
    }
}

/// A convolution of images [B,H,W,C], with its adapter beside it when one is attached: A is the same convolution with `rank` channels
/// out, B a linear map of each position. With a kernel of one it takes tokens [B,N,C] too.
final class Convolution: AdaptableLayer {
    let stride: Int
    let padding: Int

    init(name: String, weight: Parameter, bias: Parameter?, stride: Int, padding: Int) {
        self.stride = stride
        self.padding = padding
        super.init(name: name, weight: weight, bias: bias)
    }

    func callAsFunction(_ x: Variable) -> Variable {
        let y = convolved(x, weight.variable, bias?.variable)
        guard let adapter else { return y }
        let b = adapter.b.variable
        let change = linear(convolved(x, adapter.a.variable, nil), reshape(b, [b.shape[0], b.shape[1]]))
        return add(y, scale(change, adapter.scaling))
    }

    private func convolved(_ x: Variable, _ weight: Variable, _ bias: Variable?) -> Variable {
        let shape = weight.shape
        guard shape[2] == 1, stride == 1, padding == 0 else { return conv2d(x, weight, bias, stride: stride, padding: padding) }
        return linear(x, reshape(weight, [shape[0], shape[1]]), bias)
    }
}

/// How torch initialises a parameter that no checkpoint gives.
enum Initializer {
    case zeros, ones
    /// `kaiming_uniform_(a=sqrt(5))` and the bias rule of `nn.Linear` and `nn.Conv3d`: uniform within ±1/sqrt(fan in).
    case uniform(fanIn: Int)
    /// `randn / sqrt(dim)`, the modulation tables.
    case normal(dim: Int)

    func tensor(shape: [Int], stream: inout RandomStream) -> Tensor {
        switch self {
        case .zeros: return Tensor(zeros: shape)
        case .ones: return Tensor(full: 1, shape: shape)
        case .uniform(let fanIn):
            let bound = 1 / Float(fanIn).squareRoot()
            let count = shape.reduce(1, *)
            return Tensor((0..<count).map { _ in (2 * stream.uniform() - 1) * bound }, shape: shape)
        case .normal(let dim):
            let factor = 1 / Float(dim).squareRoot()
            return Tensor(stream.normals(shape.reduce(1, *)).map { $0 * factor }, shape: shape)
        }
    }
}

/// Declares the parameters while the model's tree is built: each asks `source` for its values once, under its diffusers name.
public final class ParameterTree {
    typealias Source = (_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor
    private let source: Source
    private let trainable: (String) -> Bool
    private(set) var parameters: [Parameter] = []
    /// What an adapter may be attached to, in the order of the parameters.
    private(set) var layers: [AdaptableLayer] = []

    init(trainable: @escaping (String) -> Bool, source: @escaping Source) {
        self.source = source
        self.trainable = trainable
    }

    func parameter(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Parameter {
        let parameter = Parameter(
            name: name, variable: Variable(try source(name, shape, initializer), requiresGradient: trainable(name)))
        parameters.append(parameter)
        return parameter
    }

    func linear(_ name: String, _ input: Int, _ output: Int, bias: Bool = true) throws -> Linear {
        let linear = Linear(
            name: name, weight: try parameter("\(name).weight", [output, input], .uniform(fanIn: input)),
            bias: bias ? try parameter("\(name).bias", [output], .uniform(fanIn: input)) : nil)
        layers.append(linear)
        return linear
    }

    /// A convolution with a square kernel, its weight [output,input,kernel,kernel] as torch stores it.
    func convolution(
        _ name: String, _ input: Int, _ output: Int, kernel: Int, stride: Int = 1, padding: Int = 0, bias: Bool = true
    ) throws -> Convolution {
        let initializer = Initializer.uniform(fanIn: input * kernel * kernel)
        let convolution = Convolution(
            name: name, weight: try parameter("\(name).weight", [output, input, kernel, kernel], initializer),
            bias: bias ? try parameter("\(name).bias", [output], initializer) : nil, stride: stride, padding: padding)
        layers.append(convolution)
        return convolution
    }
}
