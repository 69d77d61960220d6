import Foundation
import Tensors
import Testing

@Suite struct StartingAProcess {
    /// OpenBLAS would keep a thread for every core beside ours, and each would take a core for the first thirty milliseconds.
    @Test func openBLASHasNoThreadsOfItsOwnBeforeOrAfterAProduct() throws {
        func serverIsUp() throws -> Bool {
            let symbol = try #require(
                dlsym(UnsafeMutableRawPointer(bitPattern: 0), "blas_server_avail"), "this OpenBLAS has no thread server")
            return symbol.load(as: Int32.self) != 0
        }
        #expect(try !serverIsUp())
        let a = Tensor(full: 1, shape: [300, 200])
        let product = matmul(Variable(a), Variable(Tensor(full: 2, shape: [200, 400]))).tensor
        #expect(product == Tensor(full: 400, shape: [300, 400]))
        #expect(try !serverIsUp())
    }
}
