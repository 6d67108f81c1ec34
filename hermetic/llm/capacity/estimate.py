"""Device memory, host memory and disk of a build and of serving what it makes: estimates, said as such.

Counted are weights and key-value cache. The working memory of a runtime can't be known without it; what is taken for
it here is a stated allowance, and every finding that rests on it says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from hermetic.errors import Domain, HermeticError
from hermetic.llm.capacity.formats import KV_FORMATS, WEIGHT_FORMATS, Bits
from hermetic.llm.capacity.shape import Shape

__all__ = ["CACHE_SHARE", "CONTEXT_BYTES", "Estimate", "Serving", "estimate"]

#: Of the device's memory, below which too little is left for the cache (the serving guide's "at least 25 %").
CACHE_SHARE: Final = Fraction(1, 4)
#: Allowance for the CUDA context, its libraries and the runtime's own buffers on each device. An assumption.
CONTEXT_BYTES: Final = 1 << 30
_WHOLE: Final = 16


@dataclass(frozen=True, slots=True)
class Serving:
    """How the engine is to be built and served. Lengths are tokens, `device_bytes` the memory of one device.

    `weights` and `cache` name a format of `WEIGHT_FORMATS` and `KV_FORMATS`. `tp` and `pp` are the devices that share a
    layer and the layers.
    """

    weights: str = "none"
    cache: str = "none"
    max_batch_size: int = 1
    max_seq_len: int = 0
    max_num_tokens: int = 8192
    tp: int = 1
    pp: int = 1
    device_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes. Of the fullest device: `weights`, `working` (an allowance), `cache_needed` for the largest batch at full
    length, and `cache_left`, negative if the model does not fit. Of all devices: `cache_per_token`, `engine`. Of the
    building machine: `host_peak` and `disk_peak`. `cache_tokens` is how many tokens fit into what is left.
    """

    weights: int
    working: int
    cache_per_token: int
    cache_needed: int
    cache_left: int
    cache_tokens: int
    engine: int
    host_peak: int
    disk_peak: int
    device: int

    @property
    def fits(self) -> bool:
        """Whether weights and working memory leave any room for a cache."""
        return self.cache_left > 0

    @property
    def cache_share(self) -> Fraction:
        """The part of the device's memory that is left for the cache."""
        return Fraction(max(self.cache_left, 0), self.device) if self.device else Fraction(0)


def estimate(shape: Shape, serving: Serving) -> Estimate:
    """What `shape` takes when it is built and served as `serving` says.

    Raises `HermeticError`: recipe/unknown-format, recipe/indivisible for heads that `tp` does not divide.
    """
    bits, cache_bits = _formats(serving)
    _check_division(shape, serving)
    devices = serving.tp * serving.pp
    blocks = _bytes(shape.linear * bits + shape.other * _WHOLE)
    tables = _bytes((shape.embedding + shape.head) * _WHOLE)
    engine = blocks + tables
    weights = -(-blocks // devices) + -(-tables // serving.tp)  # the first and the last stage hold a table each
    per_token = _bytes(shape.cache_per_token * cache_bits)
    length = serving.max_seq_len or shape.context
    request = per_token * length + _bytes(shape.cache_per_request * cache_bits)
    spread = _shared_by(shape, serving)
    working = CONTEXT_BYTES + _activations(shape, serving)
    left = serving.device_bytes - weights - working
    original = shape.parameters * 2
    return Estimate(
        weights=weights,
        working=working,
        cache_per_token=per_token,
        cache_needed=-(-serving.max_batch_size * request // spread),
        cache_left=left,
        cache_tokens=max(left, 0) * spread // per_token if per_token else 0,
        engine=engine,
        host_peak=original + engine,  # the checkpoint is read whole while the engine is serialised beside it
        disk_peak=original + 2 * engine,  # snapshot, converted or quantised checkpoint, engine: none is copied
        device=serving.device_bytes,
    )


def _formats(serving: Serving) -> tuple[Bits, Bits]:
    for name, known in (serving.weights, WEIGHT_FORMATS), (serving.cache, KV_FORMATS):
        if name not in known:
            message = f"there is no format {name!r}"
            raise HermeticError(Domain.RECIPE, "unknown-format", message, hint=f"known are {', '.join(known)}")
    return WEIGHT_FORMATS[serving.weights].bits, KV_FORMATS[serving.cache]


def _check_division(shape: Shape, serving: Serving) -> None:
    if shape.cache_heads and serving.tp > 1 and shape.cache_heads % serving.tp and serving.tp % shape.cache_heads:
        message = f"{shape.cache_heads} key-value heads cannot be divided among {serving.tp} devices"
        raise HermeticError(Domain.RECIPE, "indivisible", message, hint="choose a tp that divides them, or a multiple")


def _shared_by(shape: Shape, serving: Serving) -> int:
    """Over how many devices one token's cache is spread: heads are repeated where there are fewer than devices."""
    return serving.pp * (min(serving.tp, shape.cache_heads) if shape.cache_heads else 1)


def _activations(shape: Shape, serving: Serving) -> int:
    """Two of the widest activations of a full step in 16 bits, and one row of 32-bit logits for each request."""
    return 4 * serving.max_num_tokens * shape.widest // serving.tp + 4 * serving.max_batch_size * shape.vocabulary


def _bytes(bits: Fraction | int) -> int:
    return -int(-bits // 8)
