import Foundation
import Tensors

/// Where a model's time goes on this machine: some passes over random inputs, each operation timed, beside the best matrix product measured
/// on the spot.
public enum BackboneProfile {
    /// Profiles a model folder. The model's parameters are frozen, as a judge's are.
    ///
    /// - Parameters:
    ///   - directory: a diffusers folder of any class that `foretaste backbone` knows.
    ///   - frames: latent frames; for a model of images 1.
    ///   - height: latent rows.
    ///   - width: latent columns.
    ///   - textLength: tokens of text.
    ///   - backward: whether the gradient with respect to the latent is computed too.
    ///   - repetitions: passes that are timed; one more comes before them.
    /// - Throws: what loading throws, and `BackboneError` naming the size that does not fit the model.
    public static func run(
        directory: String, frames: Int = 1, height: Int, width: Int, batch: Int = 1, textLength: Int = 512, backward: Bool = false,
        repetitions: Int = 3
    ) throws -> Report {
        for (name, value, limit) in [
            ("frames", frames, 4096), ("height", height, 4096), ("width", width, 4096), ("batch", batch, 4096),
            ("text", textLength, 65_536),
            ("repetitions", repetitions, 1000),
        ] {
            guard (1...limit).contains(value) else { throw BackboneError("\(name) is \(value), outside of 1 to \(limit)") }
        }
        let size = ProfiledSize(batch: batch, frames: frames, height: height, width: width, textLength: textLength)
        let subject = try ProfiledModel(directory: directory, size: size)
        let peak = sgemmPeak()

        PeakMemory.reset()
        try subject.pass(backward: backward)
        Profile.start()
        var seconds: [Double] = []
        do {
            defer { if Profile.isRecording && seconds.count < repetitions { _ = Profile.stop() } }
            for _ in 0..<repetitions {
                let started = ContinuousClock.now
                try subject.pass(backward: backward)
                seconds.append((ContinuousClock.now - started) / .seconds(1))
            }
        }
        let entries = Profile.stop()
        let passes = Double(repetitions)
        return Report(
            className: subject.className, parameters: subject.parameters, input: size.text(images: subject.images), backward: backward,
            repetitions: repetitions, machine: Tensors.machine, peakFLOPs: peak, seconds: seconds.reduce(0, +) / passes,
            operations: entries.map {
                Report.Operation(name: $0.name, calls: $0.calls / repetitions, seconds: $0.seconds / passes, flops: $0.flops / passes)
            }, peakBytes: PeakMemory.bytes)
    }

    /// The best rate of matrix products of a Wan layer's size, all threads at work, in floating-point operations a second.
    static func sgemmPeak() -> Double {
        let (rows, side, threads) = (768, 1536, NumericThreads.count)
        var stream = RandomStream(seed: 1)
        let a = Variable(Tensor.normal(shape: [threads, rows, side], &stream))
        let b = Variable(Tensor.normal(shape: [side, side], &stream))
        let flops = 2 * Double(threads * rows) * Double(side) * Double(side)
        var best = 0.0
        for round in 0..<8 {
            let started = ContinuousClock.now
            _ = matmul(a, b, transposeB: true)
            let seconds = (ContinuousClock.now - started) / .seconds(1)
            if round > 0 { best = max(best, flops / seconds) }
        }
        return best
    }
}

/// The sizes of a profiled pass: clips or pictures, latent frames, rows and columns, text tokens.
struct ProfiledSize {
    let batch, frames, height, width, textLength: Int

    func text(images: Bool) -> String {
        let grid = images ? "\(height) x \(width)" : "\(frames) x \(height) x \(width)"
        return "\(batch) x \(grid) latent, \(textLength) text tokens"
    }
}

/// A loaded model of whatever class with random inputs that fit it.
private struct ProfiledModel {
    let className: String
    let parameters: Int
    /// Whether the model takes pictures rather than clips.
    let images: Bool
    /// One pass from the latent that is given.
    private let forward: (_ latent: Variable) throws -> Variable
    private let latent: Tensor

    init(directory: String, size: ProfiledSize) throws {
        className = try Checkpoint.className(directory: directory)
        guard size.frames == 1 || className == WanTransformer3DModel.className else {
            throw BackboneError("frames is \(size.frames), but \(className) takes pictures")
        }
        var stream = RandomStream(seed: 2)
        switch className {
        case WanTransformer3DModel.className:
            let model = try WanTransformer3DModel.load(directory: directory)
            let c = model.configuration
            images = false
            parameters = model.parameterCount
            latent = .normal(shape: [size.batch, c.inChannels, size.frames, size.height, size.width], &stream)
            let text = Variable(.normal(shape: [size.batch, size.textLength, c.textDim], &stream))
            // As many image tokens as CLIP gives, or as the model has positions for; two pictures a clip then.
            let pictures = c.imageDim.map { width in
                Variable(
                    .normal(shape: [c.posEmbedSeqLen == nil ? size.batch : 2 * size.batch, (c.posEmbedSeqLen ?? 514) / 2, width], &stream))
            }
            forward = { latent in
                try model(
                    hiddenStates: latent, timestep: [Float](repeating: 500, count: size.batch), encoderHiddenStates: text,
                    encoderHiddenStatesImage: pictures
                ).sample!
            }
        case UNet2DConditionModel.className:
            let model = try UNet2DConditionModel.load(directory: directory)
            let c = model.configuration
            images = true
            parameters = model.parameterCount
            latent = .normal(shape: [size.batch, c.inChannels, size.height, size.width], &stream)
            let text = Variable(.normal(shape: [size.batch, size.textLength, c.crossAttentionDim], &stream))
            // SDXL: pooled text beside six sizes and crops, each of which becomes timeDim numbers.
            let pooled = c.textTime.map { Variable(.normal(shape: [size.batch, $0.inputDim - 6 * $0.timeDim], &stream)) }
            let ids = c.textTime.map { _ in Tensor(full: 512, shape: [size.batch, 6]) }
            forward = { latent in
                try model(
                    sample: latent, timestep: [Float](repeating: 500, count: size.batch), encoderHiddenStates: text, textEmbeds: pooled,
                    timeIds: ids
                ).sample!
            }
        case SD3Transformer2DModel.className:
            let model = try SD3Transformer2DModel.load(directory: directory)
            let c = model.configuration
            images = true
            parameters = model.parameterCount
            latent = .normal(shape: [size.batch, c.inChannels, size.height, size.width], &stream)
            let text = Variable(.normal(shape: [size.batch, size.textLength, c.jointAttentionDim], &stream))
            let pooled = Variable(.normal(shape: [size.batch, c.pooledProjectionDim], &stream))
            forward = { latent in
                try model(
                    hiddenStates: latent, timestep: [Float](repeating: 500, count: size.batch), encoderHiddenStates: text,
                    pooledProjections: pooled
                ).sample!
            }
        default: throw BackboneError("\(directory): \(className) cannot be profiled")
        }
    }

    func pass(backward: Bool) throws {
        let result = try forward(Variable(latent, requiresGradient: backward))
        if backward { result.backward(Tensor(full: 1, shape: result.shape)) }
    }
}

extension BackboneProfile {
    /// What a profile found, a pass.
    public struct Report: Sendable {
        /// One kind of operation.
        public struct Operation: Sendable {
            public let name: String
            public let calls: Int
            public let seconds: Double
            /// Of matrix products and convolutions; 0 where there are none.
            public let flops: Double
        }
        public let className: String
        /// Values in all parameters.
        public let parameters: Int
        /// The sizes of the input, for a person.
        public let input: String
        public let backward: Bool
        public let repetitions: Int
        /// CPU, kernels, threads.
        public let machine: String
        /// The best matrix product's rate, in floating-point operations a second.
        public let peakFLOPs: Double
        /// Wall time.
        public let seconds: Double
        /// The costliest first.
        public let operations: [Operation]
        /// Of the whole process, weights included, while the passes ran.
        public let peakBytes: Int

        /// Arithmetic of all operations.
        public var flops: Double { operations.reduce(0) { $0 + $1.flops } }
        /// Wall time in no operation: the graph, and what has no name yet.
        public var unattributedSeconds: Double { max(0, seconds - operations.reduce(0) { $0 + $1.seconds }) }

        /// A table for a person.
        public var text: String {
            var lines = [
                "\(className), \(parameters) parameters, \(backward ? "forward and backward" : "forward")",
                "input        \(input)",
                "machine      \(machine)",
                "best sgemm   \(Self.figure(peakFLOPs * 1e-9, 1)) GFLOP/s",
                "peak memory  \((peakBytes + 1_048_575) / 1_048_576) MiB, \((parameters * 4 + 1_048_575) / 1_048_576) of them weights",
                "",
                Self.row("operation", "calls", "ms", "share", "GFLOP/s", "of sgemm"),
            ]
            for operation in operations { lines.append(row(operation.name, operation.calls, operation.seconds, operation.flops)) }
            lines.append(row("(between operations)", nil, unattributedSeconds, 0))
            lines.append(row("all", nil, seconds, flops))
            return lines.joined(separator: "\n")
        }

        /// The same for a program.
        public var json: String {
            func text(_ value: String) -> String {
                "\"" + value.replacingOccurrences(of: "\\", with: "\\\\").replacingOccurrences(of: "\"", with: "\\\"") + "\""
            }
            let rows = operations.map {
                "{\"name\": \(text($0.name)), \"calls\": \($0.calls), \"seconds\": \($0.seconds), \"flops\": \($0.flops)}"
            }
            return """
                {"class": \(text(className)), "parameters": \(parameters), "input": \(text(input)), "backward": \(backward), \
                "repetitions": \(repetitions), "machine": \(text(machine)), "peak_flops": \(peakFLOPs), "seconds": \(seconds), \
                "flops": \(flops), "unattributed_seconds": \(unattributedSeconds), "peak_bytes": \(peakBytes), \
                "operations": [\(rows.joined(separator: ", "))]}
                """
        }

        private func row(_ name: String, _ calls: Int?, _ spent: Double, _ flops: Double) -> String {
            let rate = spent > 0 ? flops / spent : 0
            return Self.row(
                name, calls.map(String.init) ?? "", Self.figure(spent * 1e3, 2),
                Self.figure(seconds > 0 ? 100 * spent / seconds : 0, 1) + " %", flops > 0 ? Self.figure(rate * 1e-9, 1) : "",
                flops > 0 && peakFLOPs > 0 ? Self.figure(100 * rate / peakFLOPs, 0) + " %" : "")
        }

        private static func row(_ name: String, _ columns: String...) -> String {
            func padded(_ text: String, _ width: Int) -> String { String(repeating: " ", count: max(0, width - text.count)) }
            return name + padded(name, 28) + zip(columns, [8, 12, 9, 10, 10]).map { padded($0, $1) + $0 }.joined()
        }

        private static func figure(_ value: Double, _ digits: Int) -> String { String(format: "%.\(digits)f", value) }
    }
}

/// The most memory that the process has held.
private enum PeakMemory {
    /// Counts from here on, where the system allows it.
    static func reset() {
        guard let file = fopen("/proc/self/clear_refs", "w") else { return }
        fputs("5", file)
        fclose(file)
    }

    static var bytes: Int {
        if let file = fopen("/proc/self/status", "r") {
            defer { fclose(file) }
            var line = [CChar](repeating: 0, count: 256)
            while let text = fgets(&line, 256, file) {
                let words = String(cString: text).split(whereSeparator: \.isWhitespace)
                if words.first == "VmHWM:", words.count > 1, let kibibytes = Int(words[1]) { return kibibytes << 10 }
            }
        }
        #if os(Linux)
            return 0
        #else
            var usage = rusage()
            getrusage(RUSAGE_SELF, &usage)
            return usage.ru_maxrss
        #endif
    }
}
