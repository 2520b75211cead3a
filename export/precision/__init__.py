"""Files in lower precision than float32: fp16, and INT8 with measured exceptions."""
