import Artifacts
import Foundation
import NetworkTesting
import Preferences
import Safetensors
import Synchronization
import Tensors

/// Serves files from memory over HTTP on a real socket: an artifact store that tests fill.
final class LatentServer: Sendable {
    private let server: ScriptedServer
    private let files: Files

    var url: String { server.url }

    private final class Files: Sendable {
        private let byPath = Mutex<[String: [UInt8]]>([:])

        subscript(path: String) -> [UInt8]? {
            get { byPath.withLock { $0[path] } }
            set { byPath.withLock { $0[path] = newValue } }
        }
    }

    init() throws {
        let files = Files()
        self.files = files
        server = try ScriptedServer { request, _ in
            files[request.path].map { .answer("200 OK", $0) } ?? .answer("404 Not Found")
        }
    }

    /// Stores bytes under a path, and answers the side of a pair that names them.
    func put(_ name: String, _ bytes: [UInt8]) -> PairSide {
        files["/" + name] = bytes
        return PairSide(url: "\(url)/\(name)", sha256: SHA256.hexDigest(of: bytes))
    }
}

/// A latent's file as a labelling tool's pipeline writes it; every part can be made wrong.
struct LatentSample {
    var latents: [Int] = [4, 3, 2, 2]
    var promptEmbeds: [Int]? = [5, 8]
    var condition: [Int]? = [2, 3, 2, 2]
    var imageEmbeds: [Int]?
    var value: Float = 0.5
    var metadata = [
        "backbone": "wan-test", "vae": "codec", "layout": "CFHW", "space": "normalized", "noise.kind": "flow", "noise.sigma": "0",
    ]

    var bytes: [UInt8] {
        var tensors: [(String, Tensor)] = [("latents", Tensor(full: value, shape: latents))]
        if let promptEmbeds { tensors.append(("prompt_embeds", Tensor(full: 0.25, shape: promptEmbeds))) }
        if let condition { tensors.append(("condition", Tensor(full: 1, shape: condition))) }
        if let imageEmbeds { tensors.append(("image_embeds", Tensor(full: 1, shape: imageEmbeds))) }
        return SafetensorsWriter.data(tensors: tensors, metadata: metadata)
    }

    func with(_ change: (inout LatentSample) -> Void) -> LatentSample {
        var copy = self
        change(&copy)
        return copy
    }
}

/// `wan-test`, to which ``LatentSample`` belongs: 4 latent and 2 condition channels, text width 8.
let wanTest = NewModel(
    name: "wan-test", kind: .generator, url: "file:///models/wan-test", sha256: String(repeating: "0", count: 64), bytes: 1,
    config: #"""
        {"_class_name":"WanTransformer3DModel","in_channels":6,"out_channels":4,"text_dim":8,"image_dim":null,"patch_size":[1,2,2]}
        """#)
