import CKernels

/// The pool behind all tensors.
public enum Memory {
    /// Bytes that lie idle, ready for the next tensor of their size.
    public static var pooledBytes: Int { ck_pooled_bytes() }
    /// Gives idle memory back to the system: after a large job in a service that lives on.
    public static func trim() { ck_trim() }
}
