"""The exported graph, and the ONNX file it is written to."""
