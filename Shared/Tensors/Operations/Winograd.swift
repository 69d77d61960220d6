import CKernels

/// The passes of a 3x3 convolution with stride one that go through Winograd's algorithm (winograd.c): forward, and the input gradient, which
/// is such a convolution too, with the weights turned and inputs and outputs exchanged.
struct WinogradPlan {
    private var shape: ck_winograd

    /// Nil where the algorithm does not apply, or where it would not pay.
    init?(_ convolution: ConvolutionShape, adjoint: Bool) {
        guard convolution.kernelHeight == 3, convolution.kernelWidth == 3, convolution.stride == 1, convolution.padding <= 2 else {
            return nil
        }
        guard convolution.inputs >= 16, convolution.outputs >= 16 else { return nil }
        // Maps of one or two pixels on a side would take as many products as without it.
        let (height, width) = adjoint ? (convolution.height, convolution.width) : (convolution.outHeight, convolution.outWidth)
        guard height * width > 4 * ((height + 3) / 4) * ((width + 3) / 4) else { return nil }
        let (taps, row) = (9, convolution.inputs * 9)
        shape =
            adjoint
            ? ck_winograd(
                batch: convolution.batch, height: convolution.outHeight, width: convolution.outWidth, inputs: convolution.outputs,
                outputs: convolution.inputs, padding: 2 - convolution.padding, outHeight: convolution.height, outWidth: convolution.width,
                outputStride: taps, inputStride: row, flipped: 1)
            : ck_winograd(
                batch: convolution.batch, height: convolution.height, width: convolution.width, inputs: convolution.inputs,
                outputs: convolution.outputs, padding: convolution.padding, outHeight: convolution.outHeight,
                outWidth: convolution.outWidth,
                outputStride: row, inputStride: taps, flipped: 0)
    }

    /// target (+)= the convolution of x (+ bias). A part writes its own pixels and channels.
    func run(
        _ x: UnsafePointer<Float>, _ weight: UnsafePointer<Float>, _ bias: UnsafePointer<Float>?, _ target: UnsafeMutablePointer<Float>,
        adds: Bool
    ) {
        var shape = shape
        withUnsafePointer(to: &shape) { shape in
            let tiles = ck_winograd_tiles(shape)
            let outputs = shape.pointee.outputs
            let (tilesPerPart, outputsPerPart) = (Int(CK_WINOGRAD_TILES), Int(CK_WINOGRAD_OUTPUTS))
            let tileParts = (tiles + tilesPerPart - 1) / tilesPerPart
            let size = tileParts > 0 ? (tiles + tileParts - 1) / tileParts : 0
            let outputParts = (outputs + outputsPerPart - 1) / outputsPerPart
            forEachIndex(tileParts * outputParts) { index in
                let tile = index % tileParts * size
                let output = index / tileParts * outputsPerPart
                let (tiles, outputs) = (min(size, tiles - tile), min(outputsPerPart, outputs - output))
                guard tiles > 0 else { return }
                let scratch = Tensor(uninitialized: [ck_winograd_scratch()])
                ck_winograd_part(shape, x, weight, bias, target, adds ? 1 : 0, tile, tiles, output, outputs, scratch.mutablePointer)
                withExtendedLifetime(scratch) {}
            }
        }
    }
}
