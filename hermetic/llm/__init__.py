"""The stage library: what turns a checkpoint into an engine.

One module for each engine kind; `hermetic.llm.openvino` is the one that needs no GPU. The stages are data; what runs
inside the sandbox lies in ``programs/`` and its environments in ``locks/``.
"""
