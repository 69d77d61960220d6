import CKernels

extension Tensor {
    static func elementwise(
        _ a: Tensor, _ b: Tensor, _ name: String,
        _ body: (UnsafePointer<Float>, UnsafePointer<Float>, UnsafeMutablePointer<Float>, Int) -> Void
    ) -> Tensor {
        precondition(a.shape == b.shape, "\(name): shapes \(a.shape) and \(b.shape) differ")
        let result = Tensor(uninitialized: a.shape)
        forElements(a.count) { body(a.pointer + $0.lowerBound, b.pointer + $0.lowerBound, result.mutablePointer + $0.lowerBound, $0.count) }
        withExtendedLifetime((a, b)) {}
        return result
    }

    public static func + (a: Tensor, b: Tensor) -> Tensor { elementwise(a, b, "+") { ck_add($0, $1, $2, $3) } }
    public static func - (a: Tensor, b: Tensor) -> Tensor { elementwise(a, b, "-") { ck_subtract($0, $1, $2, $3) } }
    public static func * (a: Tensor, b: Tensor) -> Tensor { elementwise(a, b, "*") { ck_multiply($0, $1, $2, $3, 0) } }
    public static func / (a: Tensor, b: Tensor) -> Tensor { elementwise(a, b, "/") { ck_divide($0, $1, $2, $3) } }

    /// `self * scale + shift`
    func affine(_ scale: Float, _ shift: Float) -> Tensor {
        let result = Tensor(uninitialized: shape)
        forElements(count) { ck_affine(pointer + $0.lowerBound, scale, shift, result.mutablePointer + $0.lowerBound, $0.count) }
        withExtendedLifetime(self) {}
        return result
    }

    public static func + (a: Tensor, b: Float) -> Tensor { a.affine(1, b) }
    public static func - (a: Tensor, b: Float) -> Tensor { a.affine(1, -b) }
    public static func * (a: Tensor, b: Float) -> Tensor { a.affine(b, 0) }
    public static func * (a: Float, b: Tensor) -> Tensor { b.affine(a, 0) }
    public static func / (a: Tensor, b: Float) -> Tensor { a.affine(1 / b, 0) }
    public static prefix func - (a: Tensor) -> Tensor { a.affine(-1, 0) }

    public static func += (a: inout Tensor, b: Tensor) { a.add(b) }
    public static func *= (a: inout Tensor, b: Float) {
        a.withUnsafeMutableBufferPointer { target in
            let base = target.baseAddress!
            forElements(target.count) { ck_affine(base + $0.lowerBound, b, 0, base + $0.lowerBound, $0.count) }
        }
    }

    /// `self += scale * other`, in place where this tensor alone owns its memory.
    public mutating func add(_ other: Tensor, scale: Float = 1) {
        precondition(shape == other.shape, "add: shapes \(shape) and \(other.shape) differ")
        withUnsafeMutableBufferPointer { target in
            let base = target.baseAddress!
            forElements(target.count) { ck_axpy(other.pointer + $0.lowerBound, scale, base + $0.lowerBound, $0.count) }
        }
        withExtendedLifetime(other) {}
    }

    /// The sum of all elements, blocks accumulated in double precision.
    public var sum: Float { Float(withUnsafeBufferPointer { ck_sum($0.baseAddress, $0.count) }) }
    public var mean: Float { Float(withUnsafeBufferPointer { ck_sum($0.baseAddress, $0.count) } / Double(max(count, 1))) }
    /// Sum of squares, in double precision.
    public var sumOfSquares: Double { withUnsafeBufferPointer { ck_sum_of_squares($0.baseAddress, $0.count) } }
    /// The Euclidean norm over all elements.
    public var norm: Float { Float(sumOfSquares.squareRoot()) }
    public var isFinite: Bool { withUnsafeBufferPointer { ck_all_finite($0.baseAddress, $0.count) != 0 } }

    /// ‖self − other‖ / ‖other‖; the norm of the difference itself where `other` is zero.
    public func relativeError(to other: Tensor) -> Float {
        precondition(shape == other.shape, "relativeError: shapes \(shape) and \(other.shape) differ")
        let distance = withUnsafeBufferPointer { a in
            other.withUnsafeBufferPointer { b in ck_squared_distance(a.baseAddress, b.baseAddress, a.count).squareRoot() }
        }
        let size = other.sumOfSquares.squareRoot()
        return Float(size > 0 ? distance / size : distance)
    }

    /// A new tensor of `transform` over every element; for set-up code, not for hot loops.
    public func map(_ transform: (Float) -> Float) -> Tensor {
        Tensor(shape: shape) { target in withUnsafeBufferPointer { source in for i in 0..<count { target[i] = transform(source[i]) } } }
    }
}
