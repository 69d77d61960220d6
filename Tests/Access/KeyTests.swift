import Foundation
import Testing

@testable import Access

@Suite struct KeyTests {
    @Test func aKeyIsLongDistinctAndKnownByItsChecksum() {
        let keys = (0..<50).map { _ in APIKey.generate() }
        #expect(Set(keys.map(\.text)).count == 50 && Set(keys.map(\.id)).count == 50)
        for key in keys {
            #expect(key.text.wholeMatch(of: /ft_[0-9A-Za-z]{57}/) != nil)
            #expect(APIKey(key.text) == key && key.hash.count == 32)
            var damaged = Array(key.text)
            damaged[20] = damaged[20] == "a" ? "b" : "a"
            #expect(APIKey(String(damaged)) == nil)
            #expect(APIKey(String(key.text.dropLast())) == nil && APIKey(key.text + "0") == nil)
        }
        // The checksum is the CRC-32 that everybody's library has.
        #expect(APIKey.checksum("123456789") == "3jZRME")
        #expect(
            SHA256.digest("a".utf8, "bc".utf8).map { String(format: "%02x", $0) }.joined()
                == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    }
}
