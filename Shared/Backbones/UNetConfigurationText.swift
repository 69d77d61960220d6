import Safetensors

extension UNetConfiguration {
    /// The `config.json` as diffusers writes it: sorted keys, two spaces.
    public func encoded() -> [UInt8] {
        func list(_ items: [String]) -> String { "[\n    " + items.joined(separator: ",\n    ") + "\n  ]" }
        func list(_ items: [Int]) -> String { list(items.map(String.init)) }
        func number(_ value: Int?) -> String { value.map(String.init) ?? "null" }
        let size = sampleSize.count == 2 ? list(sampleSize) : number(sampleSize.first)
        let members: [(String, String)] = [
            ("_class_name", "\"UNet2DConditionModel\""),
            ("act_fn", "\"silu\""),
            ("addition_embed_type", textTime == nil ? "null" : "\"text_time\""),
            ("addition_time_embed_dim", number(textTime?.timeDim)),
            ("attention_head_dim", list(attentionHeads)),
            ("block_out_channels", list(blockOutChannels)),
            ("center_input_sample", "\(centerInputSample)"),
            ("cross_attention_dim", number(crossAttentionDim)),
            ("down_block_types", list(downBlocksAttend.map { $0 ? "\"CrossAttnDownBlock2D\"" : "\"DownBlock2D\"" })),
            ("downsample_padding", number(downsamplePadding)),
            ("flip_sin_to_cos", "\(flipSinToCos)"),
            ("freq_shift", number(freqShift)),
            ("in_channels", number(inChannels)),
            ("layers_per_block", list(layersPerBlock)),
            ("mid_block_type", "\"UNetMidBlock2DCrossAttn\""),
            ("norm_eps", "\(normEps)"),
            ("norm_num_groups", number(normNumGroups)),
            ("out_channels", number(outChannels)),
            ("projection_class_embeddings_input_dim", number(textTime?.inputDim)),
            ("sample_size", size),
            ("time_embedding_dim", number(timeEmbeddingDim)),
            ("transformer_layers_per_block", list(transformerLayersPerBlock)),
            ("up_block_types", list(upBlocksAttend.map { $0 ? "\"CrossAttnUpBlock2D\"" : "\"UpBlock2D\"" })),
            ("upcast_attention", "\(upcastAttention)"),
            ("use_linear_projection", "\(useLinearProjection)"),
        ]
        return Array(("{\n" + members.map { "  \"\($0.0)\": \($0.1)" }.joined(separator: ",\n") + "\n}\n").utf8)
    }
}

extension ConfigurationReader {
    /// A number, as a list of one, or a list of numbers.
    func oneOrMore(in range: ClosedRange<Int>, atMost count: Int = 8) throws -> [Int] {
        guard case .array = value else { return [try integer(in: range)] }
        let list = try integers(in: range)
        guard list.count <= count else { throw failure("has \(list.count) entries, more than \(count)") }
        return list
    }

    /// A list of block types, and for each whether it is the attending one.
    func blocks(plain: String, attending: String) throws -> [Bool] {
        try list().map { try ConfigurationReader(key: key, value: $0).string(oneOf: [plain, attending]) == attending }
    }

    /// The value if it is one of those, else an error that names them.
    func only(_ values: [StrictJSON]) throws -> StrictJSON {
        guard values.contains(value) else {
            let texts = values.map { supported -> String in
                switch supported {
                case .null: "null"
                case .bool(let bool): "\(bool)"
                case .integer(let integer): "\(integer)"
                case .number(let number): "\(number)"
                case .string(let string): StrictJSON.quoted(string)
                default: supported.kind
                }
            }
            throw failure("must be \(texts.joined(separator: " or ")): nothing else is supported")
        }
        return value
    }
}
