import CKernels

/// Runs `body(0) … body(count - 1)` on the pool; nested loops run inline. The closure does not escape and may capture pointers: every caller
/// in this module writes disjoint memory from each index.
func forEachIndex(_ count: Int, _ body: (Int) -> Void) {
    if count <= 0 { return }
    if count == 1 { return body(0) }
    withoutActuallyEscaping(body) { escapable in
        var closure = escapable
        withUnsafeMutablePointer(to: &closure) { context in
            ck_parallel_for(count, context) { context, index in context!.assumingMemoryBound(to: ((Int) -> Void).self).pointee(index) }
        }
    }
}

/// Splits `count` items of about `cost` element operations each into parts that are worth a thread. The parts follow from the arguments
/// alone, never from the number of threads: whatever is summed inside a part is summed in the same order on every machine.
func forParts(_ count: Int, cost: Int, grain: Int = 1 << 16, _ body: (Range<Int>) -> Void) {
    guard count > 0 else { return }
    let size = max(1, grain / max(cost, 1))
    let parts = (count + size - 1) / size
    if parts == 1 { return body(0..<count) }
    forEachIndex(parts) { part in body(part * size..<min(count, (part + 1) * size)) }
}

/// Parts of an element-wise operation.
@inline(__always)
func forElements(_ count: Int, _ body: (Range<Int>) -> Void) { forParts(count, cost: 1, body) }
