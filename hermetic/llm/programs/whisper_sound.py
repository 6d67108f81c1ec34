"""Sound as Whisper hears it: 16,000 samples a second of one channel, in pieces of 30 seconds, as a log-mel spectrogram.

The numbers are those of openai/whisper, whisper/audio.py at c0d2f624. The mel filters, which that has as a file made
with librosa, are computed (Slaney's scale and areas); they differ from that file by less than 3e-9. Needs NumPy.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

RATE: Final = 16_000
#: Samples and frames of what is heard at once.
PIECE, FRAMES = 30 * RATE, 3000
_WINDOW, _STEP = 400, 160
#: Where a longer recording is cut: at the quietest tenth of a second of the last five seconds of a piece.
_SEARCH, _QUIET = 5 * RATE, RATE // 10


class NoSound(ValueError):  # noqa: N818  # reads as what happened
    """The file cannot be heard; the message says why."""


def read_wav(path: Path) -> Array:
    """The samples of a WAV file, float32 from −1 to 1, its channels averaged, at 16 kHz. Raises `NoSound`."""
    try:
        with wave.open(str(path), "rb") as stream:
            channels, width, rate = stream.getnchannels(), stream.getsampwidth(), stream.getframerate()
            data = stream.readframes(stream.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise NoSound(f"{path.name} is no WAV file of whole numbers (PCM): {error}") from None
    samples = _samples(data, width)
    samples = samples[: len(samples) // channels * channels].reshape(-1, channels).mean(axis=1)
    if not len(samples) or not rate:
        raise NoSound(f"{path.name} has no sound")
    return resampled(samples, rate)


def _samples(data: bytes, width: int) -> Array:
    """Of 8 bits without a sign, or 16, 24 or 32 with one, least significant byte first."""
    raw = np.frombuffer(data[: len(data) // width * width], np.uint8)
    if width == 1:
        return (raw.astype(np.float64) - 128) / 128
    parts = raw.reshape(-1, width).astype(np.int64)
    values = sum(parts[:, place] << (8 * place) for place in range(width))
    half = 1 << (8 * width - 1)
    return np.asarray(((values ^ half) - half) / half)


def resampled(samples: Array, rate: int) -> Array:
    """At 16 kHz, by cutting or extending the spectrum of the whole."""
    if rate == RATE:
        return samples.astype(np.float32)
    count = max(1, round(len(samples) * RATE / rate))
    spectrum = np.fft.rfft(samples)
    kept = np.zeros(count // 2 + 1, spectrum.dtype)
    both = min(len(kept), len(spectrum))
    kept[:both] = spectrum[:both]
    return (np.fft.irfft(kept, count) * (count / len(samples))).astype(np.float32)


def pieces(samples: Array) -> Iterator[Array]:
    """`samples` cut into pieces of at most 30 s, each at a quiet place."""
    while len(samples) > PIECE:
        last = samples[PIECE - _SEARCH : PIECE].reshape(-1, _QUIET)
        cut = PIECE - _SEARCH + int(np.square(last).sum(axis=1).argmin()) * _QUIET + _QUIET // 2
        yield samples[:cut]
        samples = samples[cut:]
    yield samples


def log_mel(samples: Array, bands: int) -> Array:
    """``[3000, bands]`` in float32, of a piece that is filled up with silence."""
    filled = np.zeros(PIECE)
    filled[: len(samples)] = samples[:PIECE]
    padded = np.pad(filled, _WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_STEP][:FRAMES]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    logs = np.log10(np.maximum(power @ mel_filters(bands).T, 1e-10))
    found: Array = ((np.maximum(logs, logs.max() - 8) + 4) / 4).astype(np.float32)
    return found


def mel_filters(bands: int) -> Array:
    """``[bands, 201]``: triangles of equal area, evenly spaced in mel up to 8 kHz."""
    edges = _hertz(np.linspace(0, _mel(RATE / 2), bands + 2))
    bins = np.linspace(0, RATE / 2, _WINDOW // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    found: Array = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return found


def _mel(hertz: float) -> float:
    """On Slaney's scale, for what is above 1 kHz; below it is linear."""
    return float(15 + 27 * np.log(hertz / 1000) / np.log(6.4))


def _hertz(mel: Array) -> Array:
    found: Array = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))
    return found
