import CKernels

/// x [B, H, W, C] at another size [B, height, width, C]: pixel i of a row or column is pixel floor(i * old / new) of the old one ("nearest" in
/// torch).
public func upsampleNearest(_ x: Variable, height: Int, width: Int) -> Variable {
    precondition(x.shape.count == 4, "upsampleNearest: x is [B, H, W, C], not \(x.shape)")
    let (batch, oldHeight, oldWidth, channels) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    precondition(oldHeight > 0 && oldWidth > 0 && height > 0 && width > 0, "upsampleNearest: \(x.shape) to \(height) by \(width)")
    let rows = (0..<height).map { $0 * oldHeight / height }
    let columns = (0..<width).map { $0 * oldWidth / width }
    let input = x.tensor
    let result = Tensor(uninitialized: [batch, height, width, channels])
    Profile.measure("upsampleNearest") {
        forParts(batch * height, cost: width * channels) { part in
            for line in part {
                let from = input.pointer + (line / height * oldHeight + rows[line % height]) * oldWidth * channels
                let into = result.mutablePointer + line * width * channels
                for (w, old) in columns.enumerated() { (into + w * channels).update(from: from + old * channels, count: channels) }
            }
        }
    }
    withExtendedLifetime(input) {}
    return .operation(result, inputs: [x]) { gradient, inputs in
        // A row of the old image gathers from the new rows that copied it: a part's rows are its own.
        var copies = [[Int]](repeating: [], count: oldHeight)
        for (h, old) in rows.enumerated() { copies[old].append(h) }
        Profile.measure("upsampleNearest backward") {
            inputs[0].accumulateInPlace { target, adds in
                forParts(batch * oldHeight, cost: oldWidth * channels * max(1, height * width / (oldHeight * oldWidth))) { part in
                    for line in part {
                        let into = target + line * oldWidth * channels
                        if !adds { ck_fill(into, 0, oldWidth * channels) }
                        for h in copies[line % oldHeight] {
                            let from = gradient.pointer + (line / oldHeight * height + h) * width * channels
                            for (w, old) in columns.enumerated() { ck_axpy(from + w * channels, 1, into + old * channels, channels) }
                        }
                    }
                }
            }
        }
        withExtendedLifetime(gradient) {}
    }
}
