import ServiceKit
import Synchronization

/// What the bodies of all requests hold in memory together, so that many clients that send half of something large cannot take it all.
///
/// A request's first bytes are free, so that small posts are taken whatever others do: what is held in all is the limit, and those first bytes
/// of each connection.
final class BodyMemory: Sendable {
    /// What each request may hold beside the limit.
    static let free = 1 << 17

    private let limit: Int
    private let taken = Mutex(0)

    init(limit: Int) {
        self.limit = limit
    }

    /// A request's share, nothing yet. It must be given back.
    func share() -> Share { Share(self) }

    /// One request's share.
    final class Share: Sendable {
        private let memory: BodyMemory
        private let held = Mutex(0)

        fileprivate init(_ memory: BodyMemory) {
            self.memory = memory
        }

        /// Takes room for bytes, and answers false where there is none.
        func tryTake(_ bytes: Int) -> Bool {
            held.withLock { held in
                let more = max(0, held + bytes - BodyMemory.free) - max(0, held - BodyMemory.free)
                let isRoom = memory.taken.withLock { taken in
                    guard more == 0 || taken + more <= memory.limit else { return false }
                    taken += more
                    return true
                }
                if isRoom { held += bytes }
                return isRoom
            }
        }

        /// Takes room for bytes; 503 where there is none.
        func take(_ bytes: Int) throws {
            guard tryTake(bytes) else {
                throw Problem.unavailable(
                    "The bodies that others are sending fill the memory that there is for them. Send this one again later.")
            }
        }

        /// Gives back so much, or everything.
        func giveBack(_ bytes: Int = .max) {
            held.withLock { held in
                let rest = max(0, held - bytes)
                let less = max(0, held - BodyMemory.free) - max(0, rest - BodyMemory.free)
                held = rest
                memory.taken.withLock { $0 -= less }
            }
        }
    }
}
