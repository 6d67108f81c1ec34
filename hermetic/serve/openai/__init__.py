"""An OpenAI-compatible API before Triton's model ``tensorrt_llm``."""
