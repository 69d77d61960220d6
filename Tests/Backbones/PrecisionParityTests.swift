import Testing

@testable import Tensors

/// Every model's parity with diffusers once more with all products in bfloat16x3, even those that are too small to gain by it: the bounds are
/// those of Float32. In processes of their own, since a precision is chosen for a whole process. CPUs without tiles compute in Float32.
@Suite struct ParityInBFloat16x3 {
    @Test func wan() async {
        await #expect(processExitsWith: .success) {
            chooseTiles()
            for name in ["t2v", "i2v", "flf"] { try ParityWithDiffusers().forwardAndGradients(name: name) }
            try ParityWithDiffusers().aLoRAThatDiffusersSavedGivesItsOutputAndGradients()
        }
    }

    @Test func sd3() async {
        await #expect(processExitsWith: .success) {
            chooseTiles()
            for name in ["sd3", "sd35"] { try SD3ParityWithDiffusers().forwardAndGradients(name: name) }
        }
    }

    @Test func unet() async {
        await #expect(processExitsWith: .success) {
            chooseTiles()
            for name in UNetFixture.names { try UNetParityWithDiffusers().forwardAndGradients(name: name) }
        }
    }
}

private func chooseTiles() {
    Precision.current = .bfloat16x3
    Precision.takesSmall = true
    print("products: \(Precision.description)")
}
