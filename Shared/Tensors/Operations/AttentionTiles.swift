import CKernels
import Synchronization

extension AttentionShape {
    /// Whether `forwardOnTiles` is asked for, possible, and faster than Float32 for these sizes.
    private var isWorthTiles: Bool {
        guard Precision.current == .bfloat16x3, Precision.hasTiles, batch * heads * queries > 0, width > 0 else { return false }
        return Precision.takesSmall || (width >= 64 && queries >= 128 && keys >= 128)
    }

    /// The forward pass in `Precision.bfloat16x3`; nil where it does not pay, and where an operand is refused. A head's keys and values are
    /// packed once for all its queries.
    func forwardOnTiles(_ q: Tensor, _ k: Tensor, _ v: Tensor, _ logs: Tensor?) -> Tensor? {
        guard isWorthTiles else { return nil }
        let all = batch * heads
        let (keyBytes, valueBytes) = (ck_amx_packed_bytes(width, keys), ck_amx_packed_bytes(keys, width))
        guard let packed = ck_amx_allocate(all * (keyBytes + valueBytes)) else { return nil }
        defer { ck_release(packed, all * (keyBytes + valueBytes)) }
        let refused = Atomic<Bool>(false)
        forParts(all, cost: keys * width * 2) { part in
            for index in part {
                let (b, h) = (index / heads, index % heads)
                let length = keyLengths?[b] ?? keys
                let place = b * keys * total + h * width
                let target = packed + index * (keyBytes + valueBytes)
                if ck_amx_pack(k.pointer + place, total, 1, width, length, 0, (length + 31) / 32, target) != 0
                    || ck_amx_pack(v.pointer + place, total, 0, length, width, 0, (width + 31) / 32, target + keyBytes) != 0
                {
                    refused.store(true, ordering: .relaxed)
                }
            }
        }
        if refused.load(ordering: .relaxed) { return nil }
        let result = Tensor(uninitialized: q.shape)
        let tile = ck_amx_attention_queries()
        let tiles = (queries + tile - 1) / tile
        let grain = max(1, (1 << 22) / (min(tile, queries) * keys * width))
        forParts(all * tiles, cost: 1, grain: grain) { part in
            let bytes = ck_amx_attention_scratch(width)
            let scratch = ck_allocate(bytes)!
            defer { ck_release(scratch, bytes) }
            for index in part {
                let (head, start) = (index / tiles, index % tiles * tile)
                let (b, h) = (head / heads, head % heads)
                let place = (b * queries + start) * total + h * width
                let keys = packed + head * (keyBytes + valueBytes)
                var call = ck_attention()
                (call.q, call.y) = (q.pointer + place, result.mutablePointer + place)
                call.logs = logs.map { $0.mutablePointer + head * queries + start }
                (call.queries, call.keys, call.width) = (min(tile, queries - start), keyLengths?[b] ?? self.keys, width)
                (call.queryStride, call.scale) = (total, scale)
                if ck_amx_attention_forward(&call, keys, keys + keyBytes, scratch) != 0 { refused.store(true, ordering: .relaxed) }
            }
        }
        withExtendedLifetime((q, k, v)) {}
        return refused.load(ordering: .relaxed) ? nil : result
    }

    /// What `ck_amx_attention_backward` needs to compute parts no larger than `head`; nil where tiles do not pay.
    func backwardScratch(_ head: ck_attention_gradient) -> Tensor? {
        var head = head
        return isWorthTiles ? Tensor(uninitialized: [ck_amx_attention_backward_scratch(&head) / 4]) : nil
    }
}
