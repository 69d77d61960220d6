import Artifacts
import Foundation
import Preferences
import Safetensors
import Synchronization
import Tensors

/// Serves files from memory over HTTP on a real socket: an artifact store that tests fill.
final class LatentServer: Sendable {
    let url: String
    private let listener: Int32
    private let files: Files

    private final class Files: Sendable {
        private let byPath = Mutex<[String: [UInt8]]>([:])

        subscript(path: String) -> [UInt8]? {
            get { byPath.withLock { $0[path] } }
            set { byPath.withLock { $0[path] = newValue } }
        }
    }

    init() throws {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let bound = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, size) == 0 && listen(listener, 64) == 0 && getsockname(listener, $0, &size) == 0
            }
        }
        guard bound else { throw POSIXError(.EADDRINUSE) }
        let files = Files()
        self.listener = listener
        self.files = files
        url = "http://127.0.0.1:\(UInt16(bigEndian: address.sin_port))"
        Thread.detachNewThread {
            while true {
                let connection = accept(listener, nil, nil)
                guard connection >= 0 else { return }
                Thread.detachNewThread {
                    Self.answer(connection, files)
                    close(connection)
                }
            }
        }
    }

    deinit {
        shutdown(listener, Int32(SHUT_RDWR))
        close(listener)
    }

    /// Stores bytes under a path, and answers the side of a pair that names them.
    func put(_ name: String, _ bytes: [UInt8]) -> PairSide {
        files["/" + name] = bytes
        return PairSide(url: "\(url)/\(name)", sha256: SHA256.hexDigest(of: bytes))
    }

    private static func answer(_ connection: Int32, _ files: Files) {
        var head: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while head.firstRange(of: Array("\r\n\r\n".utf8)) == nil {
            let count = recv(connection, &buffer, buffer.count, 0)
            guard count > 0 else { return }
            head += buffer[..<count]
        }
        let parts = String(decoding: head, as: UTF8.self).split(separator: " ", maxSplits: 2)
        let body = parts.count > 1 ? files[String(parts[1])] : nil
        let status = body == nil ? "404 Not Found" : "200 OK"
        var answer = Array("HTTP/1.1 \(status)\r\nContent-Length: \(body?.count ?? 0)\r\nConnection: close\r\n\r\n".utf8)[...]
        answer += body ?? []
        while !answer.isEmpty {
            let count = answer.withUnsafeBytes { send(connection, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            guard count > 0 else { return }
            answer = answer.dropFirst(count)
        }
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
