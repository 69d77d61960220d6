import ArgumentParser
import Testing

@testable import Foretaste

/// `--set KEY=VALUE`.
@Suite struct SettingsTests {
    @Test func valuesAreNumbersAndFlagsByTheirLooksAndTextOtherwise() throws {
        let json = try Settings.json([
            "steps=400", "rate=1e-3", "seed=-7", "share=0.25", "fast=true", "slow=false", "name=reward-overall", "ref=reward@champion",
            "empty=", "equation=a=b", "method=prfl+sft", "url=http://127.0.0.1:9/a?b=c", "word=nan", "other=inf",
        ])
        #expect(
            json == """
                {"empty":"","equation":"a=b","fast":true,"method":"prfl+sft","name":"reward-overall","other":"inf","rate":0.001,\
                "ref":"reward@champion","seed":-7,"share":0.25,"slow":false,"steps":400,"url":"http://127.0.0.1:9/a?b=c","word":"nan"}
                """)
        #expect(try Settings.json([]) == "{}")
    }

    @Test(arguments: ["steps", "=4", ""]) func whatIsNoSettingIsRefused(setting: String) {
        #expect(throws: ValidationError.self) { try Settings.json([setting]) }
    }

    @Test func theSameKeyTwiceIsRefused() throws {
        let error = #expect(throws: ValidationError.self) { try Settings.json(["steps=4", "seed=1", "steps=4"]) }
        #expect(error?.message.contains("steps") == true)
    }

    @Test func aTableLinesItsColumnsUp() {
        #expect(Table.render(header: ["ID", "KIND"], rows: [["12345", "x"], ["1", "long"]]) == "ID     KIND\n12345  x\n1      long")
    }
}
