import Glibc
import Testing

@testable import Tensors

@Suite struct RandomTests {
    /// The known answers of Random123 1.14 (kat_vectors, philox4x32 10).
    @Test func philoxMeetsItsKnownAnswers() {
        let ones = UInt32.max
        #expect(RandomStream.philox(counter: (0, 0, 0, 0), key: (0, 0)) == (0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8))
        #expect(
            RandomStream.philox(counter: (ones, ones, ones, ones), key: (ones, ones)) == (
                0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd
            ))
        #expect(
            RandomStream.philox(counter: (0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344), key: (0xa409_3822, 0x299f_31d0))
                == (0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1))
    }

    @Test func aStreamFollowsFromItsCoordinatesAlone() {
        var a = RandomStream(seed: 7, run: 1, step: 2, item: 3)
        var b = RandomStream(seed: 7, run: 1, step: 2, item: 3)
        #expect(a.normals(101) == b.normals(100) + [b.normal()])
        for other in [
            RandomStream(seed: 8, run: 1, step: 2, item: 3), RandomStream(seed: 7, run: 2, step: 2, item: 3),
            RandomStream(seed: 7, run: 1, step: 3, item: 3), RandomStream(seed: 7, run: 1, step: 2, item: 4),
            RandomStream(seed: 7 + 1 << 32, run: 1, step: 2, item: 3),
        ] {
            var (x, y) = (RandomStream(seed: 7, run: 1, step: 2, item: 3), other)
            #expect((0..<4).map { _ in x.next() } != (0..<4).map { _ in y.next() })
        }
    }

    @Test func theFirstWordsAreThoseOfTheFirstBlocks() {
        var stream = RandomStream(seed: 0xdead_beef_0000_0005, run: 3, step: 2, item: 1)
        let words = (0..<8).map { _ in stream.next() }
        let first = RandomStream.philox(counter: (0, 1, 2, 3), key: (5, 0xdead_beef))
        let second = RandomStream.philox(counter: (1, 1, 2, 3), key: (5, 0xdead_beef))
        #expect(words == [first.0, first.1, first.2, first.3, second.0, second.1, second.2, second.3])
    }

    @Test func normalsHaveTheMomentsOfANormal() {
        var stream = RandomStream(seed: 1)
        let x = Tensor.normal(shape: [200_000], &stream).array.map(Double.init)
        let n = Double(x.count)
        func moment(_ k: Double) -> Double { x.reduce(0) { $0 + pow($1, k) } / n }
        #expect(abs(moment(1)) < 0.01 && abs(moment(2) - 1) < 0.015 && abs(moment(3)) < 0.03 && abs(moment(4) - 3) < 0.08)
        #expect(abs(zip(x, x.dropFirst()).reduce(0) { $0 + $1.0 * $1.1 } / n) < 0.01)
    }

    @Test func uniformsAndIntegersFillTheirRange() {
        var stream = RandomStream(seed: 2)
        var counts = [Int](repeating: 0, count: 7)
        for _ in 0..<70_000 { counts[stream.integer(in: 3..<10) - 3] += 1 }
        #expect(counts.allSatisfy { abs($0 - 10_000) < 400 })
        let u = (0..<10_000).map { _ in stream.uniform() }
        #expect(u.allSatisfy { $0 >= 0 && $0 < 1 } && abs(u.reduce(0, +) / 10_000 - 0.5) < 0.02)
        #expect(stream.permutation(50).sorted() == Array(0..<50))
    }
}
