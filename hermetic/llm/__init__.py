"""The stage library: what turns a checkpoint into an engine.

One module for each engine kind; `hermetic.llm.openvino` is the one that needs no GPU. `lora`, `quantise` and `convert`
are for what comes before the engine. The stages are data; what runs inside the sandbox lies in ``programs/``, its
environments in ``locks/``, and what is known of other people's tools in ``support/`` and ``trtllm/``.
"""
