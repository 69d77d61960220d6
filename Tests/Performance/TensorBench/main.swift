import Tensors

print(Tensors.machine)
