"""A real Triton with a STAND-IN for TensorRT-LLM's backend, on this machine and in an image."""
