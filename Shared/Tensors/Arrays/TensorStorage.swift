import CKernels

/// The memory of one or more tensors: 64-byte aligned, from the pool, returned to it when the last tensor goes.
final class TensorStorage: @unchecked Sendable {  // written only while one tensor alone refers to it (isKnownUniquelyReferenced)
    let pointer: UnsafeMutablePointer<Float>
    private let bytes: Int

    /// Uninitialised memory for `count` values.
    init(count: Int) {
        bytes = max(count, 1) * MemoryLayout<Float>.stride
        guard let block = ck_allocate(bytes) else { fatalError("out of memory: \(bytes) bytes for a tensor") }
        pointer = block.assumingMemoryBound(to: Float.self)
    }

    deinit { ck_release(pointer, bytes) }
}
