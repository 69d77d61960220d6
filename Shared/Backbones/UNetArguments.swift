import Tensors

// What a forward pass is given, checked before anything is computed: the operations themselves take shapes on trust.

extension UNet2DConditionModel {
    func check(
        _ sample: Variable, _ timestep: [Float], _ text: Variable, _ textEmbeds: Variable?, _ timeIds: Tensor?, _ mask: Tensor?,
        _ features: Set<String>, half: Bool
    ) throws {
        let shape = sample.shape
        guard shape.count == 4, !shape.contains(0) else { throw BackboneError("sample has shape \(shape), expected [B,C,H,W]") }
        guard shape[1] == configuration.inChannels else {
            throw BackboneError(
                "sample has \(shape[1]) channels (shape \(shape)), but the model's in_channels is \(configuration.inChannels)")
        }
        var size = [shape[2], shape[3]]
        for case let downsampler? in downBlocks.map(\.downsampler) {
            size = size.map(downsampler.extent)
            guard !size.contains(0) else { throw BackboneError("sample has shape \(shape): nothing is left of it in the innermost block") }
        }
        try finite(sample.tensor, "sample")
        let batch = shape[0]
        guard timestep.count == batch, timestep.allSatisfy(\.isFinite) else {
            throw BackboneError("timestep has \(timestep.count) values, expected \(batch) finite ones, as sample has \(batch) pictures")
        }
        let words = text.shape
        guard words.count == 3, words[0] == batch, words[1] > 0, words[2] == configuration.crossAttentionDim else {
            throw BackboneError("encoder_hidden_states has shape \(words), expected [\(batch),L,\(configuration.crossAttentionDim)]")
        }
        try finite(text.tensor, "encoder_hidden_states")
        try checkAdded(textEmbeds, timeIds, batch: batch)
        if let mask { try check(mask, words) }
        let names = downBlocks.indices.map { "down.\($0)" } + ["mid"]
        for name in features.sorted() where !names.contains(name) {
            throw BackboneError("features: there is no '\(name)', the model has \(names.joined(separator: ", "))")
        }
        guard half || !isDownOnly else { throw BackboneError("the model was loaded without its up half: it has features and no sample") }
    }

    private func checkAdded(_ textEmbeds: Variable?, _ timeIds: Tensor?, batch: Int) throws {
        guard let textTime = configuration.textTime else {
            guard textEmbeds == nil else { throw BackboneError("text_embeds is given, but the model has no addition_embed_type") }
            guard timeIds == nil else { throw BackboneError("time_ids is given, but the model has no addition_embed_type") }
            return
        }
        guard let textEmbeds else { throw BackboneError("text_embeds is missing: the model's addition_embed_type is text_time") }
        guard let timeIds else { throw BackboneError("time_ids is missing: the model's addition_embed_type is text_time") }
        let (text, numbers) = (textEmbeds.shape, timeIds.shape)
        guard text.count == 2, text[0] == batch, text[1] > 0 else {
            throw BackboneError("text_embeds has shape \(text), expected [\(batch),P]")
        }
        guard numbers.count == 2, numbers[0] == batch, numbers[1] > 0 else {
            throw BackboneError("time_ids has shape \(numbers), expected [\(batch),6]")
        }
        guard text[1] + numbers[1] * textTime.timeDim == textTime.inputDim else {
            throw BackboneError(
                "text_embeds \(text) and time_ids \(numbers), at \(textTime.timeDim) for a number, make a width of "
                    + "\(text[1] + numbers[1] * textTime.timeDim), but projection_class_embeddings_input_dim is \(textTime.inputDim)")
        }
        try finite(textEmbeds.tensor, "text_embeds")
        try finite(timeIds, "time_ids")
    }

    private func check(_ mask: Tensor, _ words: [Int]) throws {
        guard mask.shape == [words[0], words[1]] else {
            throw BackboneError("encoder_attention_mask has shape \(mask.shape), expected [\(words[0]),\(words[1])]")
        }
        let values = mask.array
        guard values.allSatisfy({ $0 == 0 || $0 == 1 }) else {
            throw BackboneError("encoder_attention_mask holds values other than 0 and 1")
        }
        for picture in 0..<words[0] where !values[picture * words[1]..<(picture + 1) * words[1]].contains(1) {
            throw BackboneError("encoder_attention_mask leaves picture \(picture) no token")
        }
    }

    private func finite(_ tensor: Tensor, _ name: String) throws {
        guard tensor.isFinite else { throw BackboneError("\(name) holds values that are not finite") }
    }

    /// Text tokens with those that count in front, and how many they are: attention does not see the order of its keys.
    func masked(_ text: Variable, _ mask: Tensor?) -> (text: Variable, lengths: [Int]?) {
        guard let mask, mask.array.contains(0) else { return (text, nil) }
        let (batch, count, width) = (text.shape[0], text.shape[1], text.shape[2])
        let values = mask.array
        let kept = (0..<batch).map { picture in (0..<count).filter { values[picture * count + $0] == 1 } }
        let order = kept.enumerated().flatMap { picture, front in
            (front + (0..<count).filter { values[picture * count + $0] == 0 }).map { picture * count + $0 }
        }
        let source = text.tensor
        let sorted = Tensor(shape: source.shape) { target in
            source.withUnsafeBufferPointer { rows in
                for (to, from) in order.enumerated() {
                    for column in 0..<width { target[to * width + column] = rows[from * width + column] }
                }
            }
        }
        let result = Variable.operation(sorted, inputs: [text]) { gradient, inputs in
            inputs[0].accumulate(
                Tensor(shape: gradient.shape) { target in
                    gradient.withUnsafeBufferPointer { rows in
                        for (to, from) in order.enumerated() {
                            for column in 0..<width { target[from * width + column] = rows[to * width + column] }
                        }
                    }
                })
        }
        return (result, kept.map(\.count))
    }
}
