"""The two halves of Whisper in TensorRT-LLM, with the architecture that each one's ``config.json`` names.

As NVIDIA's script writes them: examples/models/core/whisper/convert_checkpoint.py at 2a9abd95.
"""

from __future__ import annotations

HALVES = {"encoder": "WhisperEncoder", "decoder": "DecoderModel"}
