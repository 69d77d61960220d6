import CKernels

/// A contiguous row-major array of Float32 with value semantics: copies share memory until one of them is changed.
public struct Tensor: Sendable {
    public let shape: [Int]
    /// The number of elements, the product of `shape`.
    public let count: Int
    var storage: TensorStorage
    /// Where this tensor starts in `storage`: rows of a larger tensor are views.
    var offset: Int

    init(shape: [Int], storage: TensorStorage, offset: Int) {
        self.shape = shape
        self.count = shape.reduce(1, *)
        self.storage = storage
        self.offset = offset
    }

    /// Memory that the caller fills completely.
    init(uninitialized shape: [Int]) {
        precondition(shape.allSatisfy { $0 >= 0 }, "a shape holds no negative size: \(shape)")
        self.init(shape: shape, storage: TensorStorage(count: shape.reduce(1, *)), offset: 0)
    }

    public init(_ values: [Float], shape: [Int]) {
        precondition(values.count == shape.reduce(1, *), "\(values.count) values do not fill the shape \(shape)")
        self.init(uninitialized: shape)
        values.withUnsafeBufferPointer { source in
            if let base = source.baseAddress { mutablePointer.update(from: base, count: source.count) }
        }
    }

    public init(zeros shape: [Int]) { self.init(full: 0, shape: shape) }

    public init(full value: Float, shape: [Int]) {
        self.init(uninitialized: shape)
        ck_fill(mutablePointer, value, count)
    }

    /// A tensor of shape [] with one element.
    public init(scalar: Float) { self.init(full: scalar, shape: []) }

    /// `body` must write every element of the buffer it is given.
    public init(shape: [Int], initializingWith body: (UnsafeMutableBufferPointer<Float>) throws -> Void) rethrows {
        self.init(uninitialized: shape)
        try body(UnsafeMutableBufferPointer(start: mutablePointer, count: count))
    }

    /// For code that knows the storage to be unshared (fresh tensors).
    var mutablePointer: UnsafeMutablePointer<Float> { storage.pointer + offset }
    /// Valid only while the tensor is alive: inside the module, wrapped in `withExtendedLifetime` or with the tensor used afterwards.
    var pointer: UnsafePointer<Float> { UnsafePointer(storage.pointer + offset) }

    public var array: [Float] { withUnsafeBufferPointer(Array.init) }

    /// The only element.
    public var item: Float {
        precondition(count == 1, "item of a tensor of shape \(shape)")
        return withUnsafeBufferPointer { $0[0] }
    }

    public func withUnsafeBufferPointer<R>(_ body: (UnsafeBufferPointer<Float>) throws -> R) rethrows -> R {
        try withExtendedLifetime(storage) { try body(UnsafeBufferPointer(start: pointer, count: count)) }
    }

    /// Copies first unless this is the only tensor over its memory.
    public mutating func withUnsafeMutableBufferPointer<R>(_ body: (UnsafeMutableBufferPointer<Float>) throws -> R) rethrows -> R {
        makeUnique()
        return try withExtendedLifetime(storage) { try body(UnsafeMutableBufferPointer(start: mutablePointer, count: count)) }
    }

    mutating func makeUnique() {
        guard !isKnownUniquelyReferenced(&storage) else { return }
        let fresh = TensorStorage(count: count)
        fresh.pointer.update(from: pointer, count: count)
        storage = fresh
        offset = 0
    }

    /// The same elements in another shape; no copy.
    public func reshaped(_ shape: [Int]) -> Tensor {
        precondition(shape.reduce(1, *) == count, "\(self.shape) cannot be reshaped to \(shape)")
        return Tensor(shape: shape, storage: storage, offset: offset)
    }

    /// Rows along axis 0, shared with this tensor; no copy.
    public subscript(rows: Range<Int>) -> Tensor {
        precondition(!shape.isEmpty && rows.lowerBound >= 0 && rows.upperBound <= shape[0], "rows \(rows) of shape \(shape)")
        let row = shape.dropFirst().reduce(1, *)
        return Tensor(shape: [rows.count] + shape.dropFirst(), storage: storage, offset: offset + rows.lowerBound * row)
    }

    /// One element by its full index.
    public subscript(indices: Int...) -> Float {
        precondition(indices.count == shape.count, "\(indices.count) indices for shape \(shape)")
        var place = 0
        for (index, size) in zip(indices, shape) {
            precondition(index >= 0 && index < size, "index \(indices) outside shape \(shape)")
            place = place * size + index
        }
        return withUnsafeBufferPointer { $0[place] }
    }
}

extension Tensor: Equatable {
    /// Same shape and the same bits in the sense of Float `==` (so NaN differs from itself).
    public static func == (a: Tensor, b: Tensor) -> Bool {
        a.shape == b.shape && a.withUnsafeBufferPointer { x in b.withUnsafeBufferPointer { y in x.elementsEqual(y) } }
    }
}

extension Tensor: CustomStringConvertible {
    public var description: String {
        let head = withUnsafeBufferPointer { $0.prefix(8).map { String($0) }.joined(separator: ", ") }
        return "Tensor\(shape)[\(head)\(count > 8 ? ", …" : "")]"
    }
}
