"""What runs a model file: ONNX Runtime, OpenVINO or TensorRT."""
