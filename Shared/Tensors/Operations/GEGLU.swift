import CKernels

/// x [..., 2D] to [..., D]: the first half times the exact GELU of the second (diffusers' GEGLU).
public func geglu(_ x: Variable) -> Variable {
    let double = x.shape.last ?? 0
    precondition(double % 2 == 0 && double > 0, "geglu: the last axis of \(x.shape) is not two halves")
    let width = double / 2
    let rows = x.tensor.count / double
    let kind = Activation.geluExact.kind
    let input = x.tensor
    let result = Tensor(uninitialized: x.shape.dropLast() + [width])
    Profile.measure("geglu") {
        forParts(rows, cost: 4 * width) { part in
            for row in part {
                let (from, into) = (input.pointer + row * double, result.mutablePointer + row * width)
                ck_activate(kind, from + width, into, width)
                ck_multiply(from, into, into, width, 0)
            }
        }
    }
    withExtendedLifetime(input) {}
    return .operation(result, inputs: [x]) { gradient, inputs in
        Profile.measure("geglu backward") {
            inputs[0].accumulateInPlace { target, adds in
                forParts(rows, cost: 8 * width) { part in
                    let line = Tensor(uninitialized: [width])
                    let scratch = line.mutablePointer
                    for row in part {
                        let (from, into, slope) = (input.pointer + row * double, target + row * double, gradient.pointer + row * width)
                        ck_activate(kind, from + width, scratch, width)
                        ck_multiply(slope, scratch, into, width, adds ? 1 : 0)
                        ck_multiply(slope, from, scratch, width, 0)
                        ck_activate_backward(kind, from + width, scratch, into + width, width, adds ? 1 : 0)
                    }
                    withExtendedLifetime(line) {}
                }
            }
        }
        withExtendedLifetime((input, gradient)) {}
    }
}
