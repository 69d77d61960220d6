/// Slots: permits that a job holds while it runs.
extension ModelDatabase {
    /// A row of `queue.slot` that is taken.
    struct Permit: Hashable, Sendable, Comparable {
        var slot: Int
        var lease: Lease

        static func < (a: Self, b: Self) -> Bool { (a.slot, a.lease) < (b.slot, b.lease) }
    }

    func isFree(_ slot: Int?) -> Bool {
        guard let slot else { return true }
        return permits.count { $0.slot == slot } < slots[slot]
    }

    /// All or none.
    mutating func takePermits(_ lease: Lease, of wanted: [Int?], _ rules: Rules) -> Bool {
        var slots = Set(wanted.compactMap { $0 })
        if rules.hold(.claimTakesPermit), !slots.allSatisfy({ isFree($0) }) { return false }
        if !rules.hold(.machinePermitToo), let machineSlot { slots.remove(machineSlot) }
        permits += slots.map { Permit(slot: $0, lease: lease) }
        return true
    }

    mutating func givePermitsBack(_ ids: [Int], _ rules: Rules) {
        if rules.hold(.permitsAreGivenBack) { permits.removeAll { ids.contains($0.lease.id) } }
    }

    /// An outcome under a token that is no longer live does nothing at all.
    mutating func refuse(_ lease: Lease, _ rules: Rules) -> Bool {
        if !rules.hold(.permitsAreFenced) { permits.removeAll { $0.lease.id == lease.id } }
        return false
    }
}
