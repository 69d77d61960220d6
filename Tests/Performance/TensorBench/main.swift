// GFLOP/s of one core on the demo's kind of model: micro-batches of 8 clips x 96 tokens, width 128 or 192, heads of 32, a feed-forward layer of
// three widths with tanh-GELU, four text tokens. Time is the thread's own CPU time, so that other work on the machine disturbs less.
// Run: TensorBench [blocks]
import Glibc
import Tensors

func cpuSeconds() -> Double {
    var t = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)
    return Double(t.tv_sec) + Double(t.tv_nsec) * 1e-9
}

/// The best of several rounds, in seconds a call.
func time(rounds: Int = 7, _ body: () -> Void) -> Double {
    body()
    var best = Double.infinity
    for _ in 0..<rounds {
        var calls = 0
        let start = cpuSeconds()
        repeat {
            body()
            calls += 1
        } while cpuSeconds() - start < 0.06
        best = min(best, (cpuSeconds() - start) / Double(calls))
    }
    return best
}

func report(_ name: String, _ seconds: Double, flops: Double = 0, bytes: Double = 0) {
    func figure(_ x: Double) -> String { String(Double(Int(x * 10)) / 10) }
    var line = name + String(repeating: " ", count: max(1, 46 - name.utf8.count)) + figure(seconds * 1e6) + " us"
    if flops > 0 { line += "   " + figure(flops / seconds * 1e-9) + " GFLOP/s" }
    if bytes > 0 { line += "   " + figure(bytes / seconds * 1e-9) + " GB/s" }
    print(line)
}

NumericThreads.count = 1
print(Tensors.machine)

func normalTensor(_ shape: [Int]) -> Tensor {
    var stream = RandomStream(seed: 1, item: UInt32(shape.reduce(7) { $0 * 31 + $1 } % 65_521))
    return Tensor.normal(shape: shape, &stream)
}

struct Block {
    let width: Int
    let heads: Int
    let parameters: [Variable]
    let modulation: [Variable]
    let text: Variable
    let cos: Tensor
    let sin: Tensor

    init(width: Int, batch: Int, tokens: Int, training: Bool) {
        self.width = width
        heads = width / 32
        func normal(_ shape: [Int], _ size: Float) -> Variable { Variable(normalTensor(shape) * size, requiresGradient: training) }
        let size = 1 / Float(width).squareRoot()
        var list: [Variable] = []
        for _ in 0..<8 { list += [normal([width, width], size), normal([width], 0.1)] }
        list += [normal([3 * width, width], size), normal([3 * width], 0.1), normal([width, 3 * width], size), normal([width], 0.1)]
        for _ in 0..<6 { list.append(normal([width], 1)) }
        parameters = list
        modulation = (0..<6).map { _ in normal([batch, 1, width], 0.3) }
        text = Variable(normalTensor([batch, 4, width]))
        let angles = normalTensor([tokens, 16])
        cos = angles.map { cosf($0) }
        sin = angles.map { sinf($0) }
    }

    func callAsFunction(_ x: Variable) -> Variable {
        let p = parameters
        let m = modulation
        let y = layerNormModulate(x, shift: m[0], scale: m[1], eps: 1e-6)
        let q = rotary(rmsNorm(linear(y, p[0], p[1]), p[20], eps: 1e-6), cos: cos, sin: sin, heads: heads)
        let k = rotary(rmsNorm(linear(y, p[2], p[3]), p[21], eps: 1e-6), cos: cos, sin: sin, heads: heads)
        let a = linear(attention(q, k, linear(y, p[4], p[5]), heads: heads), p[6], p[7])
        let h = gatedResidual(x, a, gate: m[2])
        let n = layerNorm(h, p[22], p[23], eps: 1e-6)
        let q2 = rmsNorm(linear(n, p[8], p[9]), p[24], eps: 1e-6)
        let k2 = rmsNorm(linear(text, p[10], p[11]), p[25], eps: 1e-6)
        let c = add(h, linear(attention(q2, k2, linear(text, p[12], p[13]), heads: heads), p[14], p[15]))
        let f = linear(layerNormModulate(c, shift: m[3], scale: m[4], eps: 1e-6), p[16], p[17], activation: .gelu)
        return gatedResidual(c, linear(f, p[18], p[19]), gate: m[5])
    }
}

for width in [128, 192] {
    let (batch, tokens) = (8, 96)
    let rows = Double(batch * tokens)
    let d = Double(width)
    print("\nwidth \(width), \(batch) x \(tokens) tokens")
    // Matrix products only, as is usual; cross attention's four keys included.
    let flops = rows * 2 * (6 * d * d + 6 * d * d) + rows * 2 * d * 2 * (Double(tokens) + 4) + 8 * 4 * 2 * 2 * d * d
    let x = Variable(normalTensor([batch, tokens, width]))
    let frozen = Block(width: width, batch: batch, tokens: tokens, training: false)
    report("block, forward", time { _ = frozen(x) }, flops: flops)
    let live = Block(width: width, batch: batch, tokens: tokens, training: true)
    let cotangent = normalTensor(x.shape)
    let input = Variable(x.tensor, requiresGradient: true)
    report("block, forward and backward", time { live(input).backward(cotangent) }, flops: 3 * flops)
    report("block, forward and input gradient alone", time { frozen(input).backward(cotangent) }, flops: 2 * flops)

    let (w, b) = (live.parameters[0], live.parameters[1])
    let (up, upBias) = (live.parameters[16], live.parameters[17])
    func backward(_ name: String, flops: Double = 0, bytes: Double = 0, _ make: () -> Variable) {
        let forward = time { _ = make() }
        let shape = make().shape
        let slope = Tensor(full: 0.5, shape: shape)
        let both = time { make().backward(slope) }
        report(name, forward, flops: flops, bytes: bytes)
        report(name + ", backward", both - forward, flops: 2 * flops, bytes: bytes * 1.5)
    }
    let area = rows * d * 4
    backward("linear", flops: 2 * rows * d * d) { linear(input, w, b) }
    backward("linear to 3 widths", flops: 6 * rows * d * d) { linear(input, up, upBias) }
    backward("linear to 3 widths, GELU", flops: 6 * rows * d * d) { linear(input, up, upBias, activation: .gelu) }
    backward("attention", flops: 4 * rows * d * Double(tokens)) { attention(input, input, input, heads: live.heads) }
    let text = Variable(live.text.tensor, requiresGradient: true)
    backward("cross attention", flops: 4 * rows * d * 4) { attention(input, text, text, heads: live.heads) }
    backward("layerNormModulate", bytes: 2 * area) {
        layerNormModulate(input, shift: live.modulation[0], scale: live.modulation[1], eps: 1e-6)
    }
    backward("rmsNorm", bytes: 2 * area) { rmsNorm(input, live.parameters[20], eps: 1e-6) }
    backward("rotary", bytes: 2 * area) { rotary(input, cos: live.cos, sin: live.sin, heads: live.heads) }
    backward("gatedResidual", bytes: 3 * area) { gatedResidual(input, input, gate: live.modulation[0]) }
    backward("gelu", bytes: 2 * area) { gelu(input) }
    backward("add", bytes: 3 * area) { add(input, input) }
}

print("\nlong sequences: 1 x 4096 tokens, 8 heads")
for head in [64, 128] {
    let x = Variable(normalTensor([1, 4096, 8 * head]), requiresGradient: true)
    let flops = 4.0 * 4096 * 4096 * 8 * Double(head)
    report("attention, heads of \(head)", time(rounds: 2) { _ = attention(x, x, x, heads: 8) }, flops: flops)
    let slope = Tensor(full: 0.5, shape: x.shape)
    report(
        "attention, heads of \(head), with backward", time(rounds: 2) { attention(x, x, x, heads: 8).backward(slope) }, flops: 3.5 * flops)
}
