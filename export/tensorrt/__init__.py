"""TensorRT engines, built on the GPU that runs them."""
