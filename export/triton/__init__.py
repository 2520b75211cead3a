"""A model repository that Triton Inference Server serves as it is."""
