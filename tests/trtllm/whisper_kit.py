"""Sound, a vocabulary and the two halves of an engine, for tests of Whisper."""

from __future__ import annotations

import base64
import functools
import json
import wave
from pathlib import Path

import numpy as np

#: The first 256 tokens of Whisper's vocabularies are single bytes, in this order.
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = bytes([*_PRINTED, *(byte for byte in range(256) if byte not in _PRINTED)])
GERMAN, ENGLISH = 51866, 51864
SIZES = {"multilingual.tiktoken": 50257, "gpt2.tiktoken": 50256}


@functools.cache
def vocabulary(name: str = "multilingual.tiktoken") -> bytes:
    """In the form of OpenAI's file and of its length; beyond the single bytes its tokens are made up."""
    tokens = [bytes([byte]) for byte in BYTES] + [b"<%d>" % rank for rank in range(256, SIZES[name])]
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))


def wav(path: Path, seconds: float = 1.0, rate: int = 16000, width: int = 2, channels: int = 1) -> Path:
    """A tone of 440 Hz."""
    wave_ = np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate) / 2
    half = 1 << (8 * width - 1)
    values = np.round(wave_ * (half - 1)).astype(np.int64) + (half if width == 1 else 0)
    data = np.repeat(values, channels).astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(channels)
        stream.setsampwidth(width)
        stream.setframerate(rate)
        stream.writeframes(data)
    return path


def halves(folder: Path, size: int = GERMAN, **said: object) -> Path:
    """``encoder`` and ``decoder``, engines of the stand-in."""
    for half, architecture in (("encoder", "WhisperEncoder"), ("decoder", "DecoderModel")):
        (folder / half).mkdir(parents=True)
        model = {"architecture": architecture, "dtype": "float16", "vocab_size": size}
        model |= {"n_mels": 128} if half == "encoder" else {}
        made = {"max_seq_len": 114, "max_input_len": 14, "max_encoder_input_len": 3000}
        config = {"version": "1.2.1", "pretrained_config": model, "build_config": made} | said
        (folder / half / "config.json").write_text(json.dumps(config))
        (folder / half / "rank0.engine").write_bytes(b"ftrt" + half.encode())
    return folder
