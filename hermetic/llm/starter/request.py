"""What ``hermetic init`` is asked for, checked against what is known of GPUs, kinds, families and quantisations."""

from __future__ import annotations

import difflib
import json
import os
import re
from dataclasses import dataclass
from typing import Final

from hermetic.errors import Domain, HermeticError
from hermetic.llm.capacity import WEIGHT_FORMATS, Serving, estimate, read_shape
from hermetic.llm.support import BACKENDS, Target, refusals
from hermetic.llm.truss.families import FAMILIES, by_architecture, by_name
from hermetic.llm.truss.hardware import MEMORY, PRODUCTS, SM
from hermetic.recipe.gpu import KNOWN_GPUS

__all__ = ["KINDS", "QUANTISATIONS", "STORED", "Accelerator", "Request", "accelerator", "family_of", "request"]

#: Families that each engine kind takes.
KINDS: Final = {
    "tensorrt-llm": ("llama", "mistral", "qwen2", "qwen3"),
    "tensorrt-llm-pytorch": ("llama", "mistral", "qwen2", "qwen3", "deepseek"),
    "openvino": ("llama", "qwen2", "qwen3"),
    "aoti": ("llama", "qwen2", "qwen3"),
}
#: The first one is what a kind gets when nothing is said.
QUANTISATIONS: Final = {
    "tensorrt-llm": ("none", "fp8", "nvfp4", "int4_awq", "w4a8_awq", "int8_sq", "int8_wo", "int4_wo"),
    "tensorrt-llm-pytorch": ("none", "fp8", "nvfp4", "int4_awq", "w4a8_awq"),
    "openvino": ("int4", "int8", "none"),
    "aoti": ("none",),
}
#: Checkpoints that are quantised already and that each kind takes as they are.
STORED: Final = {
    "tensorrt-llm": ("nvfp4", "fp8"),
    "tensorrt-llm-pytorch": ("nvfp4", "fp8", "int4_awq", "w4a8_awq"),
}
_QUANTISED: Final = re.compile(
    r"(?<![a-z0-9])(nvfp4|fp4|fp8|awq|gptq|w4a8|w4a16|w8a8|int4|int8|gguf|mlx|bnb|4bit|8bit)"
)
_SPELLINGS: Final = {"fp4": "nvfp4", "awq": "int4_awq", "w4a8": "w4a8_awq"}
#: What `hermetic.llm.quantise.quantise` knows.
_DENSE: Final = ("llama", "qwen2", "qwen3")
_HUB: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
#: Repositories whose model is a mixture of experts, by how they are called: Qwen3-30B-A3B, Mixtral-8x7B.
_EXPERTS: Final = re.compile(r"-a\d+b|\d+x\d+b|\bmoe\b")
_WHISPER: Final = "recipes/whisper.py is an example to start from"


@dataclass(frozen=True)
class Accelerator:
    """`word` is what was asked for, `product` as the driver calls it ("" if nobody has read it off one), `sm` its
    compute capability ("9.0"); all but the word are empty for a processor. `least_gib` is the least that a driver
    reports of such a product, where it is not known what exactly. `count` is how many serve the model.
    """

    word: str
    product: str = ""
    memory_gib: int = 0
    sm: str = ""
    count: int = 1
    least_gib: int = 0


@dataclass(frozen=True)
class Request:
    """A recipe that can be written. `model` is a repository of the Hub, or with `local` a folder; `longest` is the
    context of the model in tokens, 0 if it is not known; `torch` is a virtual environment, for the kind `aoti`.
    `stored` is how the model's maker has quantised it already ("nvfp4", …), "" if that is not so as far as can be told.
    """

    model: str
    local: bool
    name: str
    kind: str
    family: str
    gpu: Accelerator
    quantisation: str
    longest: int = 0
    torch: str = ""
    stored: str = ""


def request(
    model: str,
    *,
    kind: str,
    gpu: str = "",
    quantisation: str = "",
    family: str = "",
    name: str = "",
    config: str = "",
    torch: str = "",
) -> Request:
    """Raises `HermeticError` (usage/…) for the first thing that is not known or cannot be: kind-unknown, bad-model,
    bad-name, bad-config, gpu-missing, gpu-unknown, kind-and-gpu, family-unknown, family-for-kind, ranks-for-model,
    already-quantised, quantisation-for-kind, does-not-fit, torch-missing, and the reasons of
    `hermetic.llm.support.refusals`.
    """
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"--kind with one of {', '.join(KINDS)}"
        raise _usage("kind-unknown", f"there is no engine kind {kind!r}", hint)
    local = os.path.isdir(model)
    if not local and not _HUB.fullmatch(model):
        raise _usage("bad-model", f"{model!r} is neither a folder nor a repository of a Hub", "OWNER/NAME, or a path")
    settings = _config(config or os.path.join(model, "config.json")) if config or local else {}
    found = family_of(model, family, settings)
    asked = Request(
        model=model,
        local=local,
        name=_name(name, model),
        kind=kind,
        family=found,
        gpu=_on(kind, gpu),
        quantisation=quantisation or QUANTISATIONS[kind][0],
        longest=_longest(settings),
        torch=torch,
        stored=_stored(model, settings, local=local),
    )
    _check_family(asked, settings)
    _check_ranks(asked, settings)
    _check_stored(asked, quantisation, settings)
    _check_quantisation(asked)
    _check_memory(asked, settings)
    if kind == "aoti" and not os.path.isfile(os.path.join(torch, "pyvenv.cfg")):
        message = f"the engine kind aoti needs a virtual environment with torch; {torch or 'none'} is given"
        raise _usage("torch-missing", message, "--torch DIR; docs/gpu.md says what it must have")
    return asked


def accelerator(text: str) -> Accelerator:
    """``h100``, ``h100:2``, ``cpu``, or ``NAME,GIB,SM`` with what ``hermetic doctor`` shows.

    Raises `HermeticError` (usage/gpu-unknown).
    """
    word, mark, count = text.partition(":")
    if mark and not (count.isdigit() and int(count) > 0):
        raise _usage("gpu-unknown", f"--gpu {text}: {count!r} is no number of GPUs", f"--gpu {word}:2")
    number = int(count or 1)
    if word.lower() in ("cpu", "none"):
        return Accelerator("cpu")
    parts = [part.strip() for part in word.split(",")]
    if len(parts) == 3 and parts[1].isdigit() and re.fullmatch(r"\d+\.\d", parts[2]):
        return Accelerator(parts[0], parts[0], int(parts[1]), parts[2], number)
    known = {one.value.lower().replace("_", "-"): one for one in SM}
    one = known.get(word.lower().replace("_", "-"))
    if one is None:
        close = difflib.get_close_matches(word.lower().replace("_", "-"), known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        hint += f"{', '.join(sorted(known))}, cpu, or NAME,GIB,SM as hermetic doctor shows a machine's GPUs"
        raise _usage("gpu-unknown", f"what a GPU {word!r} can do is not known here", hint)
    product, least = PRODUCTS.get(one.value, ""), MEMORY[one] * 23 // 25
    sm = f"{SM[one] // 10}.{SM[one] % 10}"
    return Accelerator(word.lower(), product, 0, sm, number, 0 if product else least)


def family_of(model: str, given: str = "", settings: dict[str, object] | None = None) -> str:
    """The family that is `given`, that the model's ``config.json`` names, or that its name tells.

    Raises `HermeticError` (usage/family-unknown).
    """
    known = [family.name for family in FAMILIES]
    architectures = (settings or {}).get("architectures")
    named = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    found = (
        given or by_architecture(named).name or by_name(os.path.abspath(model) if os.path.isdir(model) else model).name
    )
    if found not in known:
        message = (
            f"which family {named or model} is of is not known" if not given else f"the family {given!r} is not known"
        )
        hint = f"--family with one of {', '.join(known)}, or --config PATH with the model's config.json"
        raise _usage("family-unknown", message, hint)
    return found


def _on(kind: str, gpu: str) -> Accelerator:
    """Whether the kind runs there at all."""
    if not gpu and kind != "openvino":
        raise _usage(
            "gpu-missing", f"an engine of the kind {kind} is for one GPU product", "--gpu h100, or --gpu cpu for aoti"
        )
    found = accelerator(gpu or "cpu")
    if kind == "openvino" and found.sm:
        hint = "--gpu cpu, or --kind tensorrt-llm"
        raise _usage("kind-and-gpu", f"the engine kind openvino runs on processors, not on {found.word}", hint)
    if kind not in BACKENDS and found.count > 1:
        message = f"an engine of the kind {kind} is for one GPU, not for {found.count}"
        raise _usage("kind-and-gpu", message, f"--gpu {found.word}, or --kind tensorrt-llm")
    if kind in BACKENDS and not found.sm:
        hint = "--kind openvino, or --gpu h100"
        raise _usage("kind-and-gpu", f"the engine kind {kind} needs an NVIDIA GPU", hint)
    if kind in BACKENDS and not any(_runs(kind, found.sm, one) for one in QUANTISATIONS[kind]):
        message = f"nothing is known to run on {found.word} (sm {found.sm}) with the engine kind {kind}"
        raise _usage("kind-and-gpu", message, "a GPU of sm 8.0 or later")
    return found


def _runs(kind: str, sm: str, quantisation: str) -> bool:
    return quantisation in _COMPUTED and not [*refusals(Target(kind, sm), quantisation, "none", _export(kind))]


#: Formats that the support matrix lists GPUs for; the others are weights that kernels unpack.
_COMPUTED: Final = ("fp8", "nvfp4", "int4_awq", "w4a8_awq", "int8_sq")


def _export(kind: str) -> str:
    return "tensorrt_llm" if kind == "tensorrt-llm" else "hf"


def _check_family(asked: Request, settings: dict[str, object]) -> None:
    able = KINDS[asked.kind]
    if asked.family not in able:
        kinds = [kind for kind, families in KINDS.items() if asked.family in families]
        hint = " or ".join(f"--kind {kind}" for kind in kinds) or _WHISPER
        message = f"hermetic builds no engine of the kind {asked.kind} from {asked.family}"
        raise _usage("family-for-kind", message, hint)
    experts = "num_experts" in settings or "num_local_experts" in settings or _EXPERTS.search(asked.model.lower())
    if experts and asked.kind in ("openvino", "aoti"):
        message = f"{asked.model} is a mixture of experts, and the engine kind {asked.kind} takes dense models"
        raise _usage("family-for-kind", message, "--kind tensorrt-llm-pytorch")
    if (
        asked.kind == "tensorrt-llm-pytorch"
        and asked.quantisation != "none"
        and (experts or asked.family not in _DENSE)
    ):
        message = f"hermetic quantises {', '.join(_DENSE)} for this kind, and no mixtures of experts"
        hint = "--quantisation none, with a checkpoint that its maker has quantised"
        raise _usage("family-for-kind", message, hint)


def _check_ranks(asked: Request, settings: dict[str, object]) -> None:
    """Attention is split by heads, so as many GPUs as share them divide their number."""
    heads, count = settings.get("num_attention_heads"), asked.gpu.count
    if isinstance(heads, int) and heads % count:
        able = ", ".join(str(number) for number in range(1, min(heads, 16) + 1) if heads % number == 0)
        message = f"{heads} attention heads cannot be shared by {count} GPUs"
        raise _usage("ranks-for-model", message, f"--gpu {asked.gpu.word}:N with N one of {able}")


def _stored(model: str, settings: dict[str, object], *, local: bool) -> str:
    """By the folder's own files, else by what the repository is called."""
    said = settings.get("quantization_config")
    if local:
        try:
            with open(os.path.join(model, "hf_quant_config.json"), encoding="utf-8") as stream:
                said = json.load(stream).get("quantization", {}).get("quant_algo", said)
        except (OSError, ValueError, AttributeError):
            pass
    text = json.dumps(said) if said else model.rpartition("/")[2]
    found = _QUANTISED.search(text.lower())
    return _SPELLINGS.get(found[1], found[1]) if found is not None else "unknown" if said else ""


def _check_stored(asked: Request, quantisation: str, settings: dict[str, object]) -> None:
    """What is quantised already can be used as it is, or not at all."""
    if not asked.stored:
        return
    if quantisation not in ("", "none"):
        message = f"{asked.model} is quantised already ({asked.stored})"
        raise _usage("already-quantised", message, "leave out --quantisation, or take the model in 16 bits")
    if asked.stored not in STORED.get(asked.kind, ()):
        able = " or ".join(f"--kind {kind}" for kind, formats in STORED.items() if asked.stored in formats)
        message = f"{asked.model} is quantised already ({asked.stored}), which hermetic makes no {asked.kind} of"
        raise _usage("already-quantised", message, able or "take the model in 16 bits")
    if asked.kind == "tensorrt-llm" and not _is_of_modelopt(asked, settings):
        message = f"trtllm-bench builds from what NVIDIA's ModelOpt has quantised, which nothing says of {asked.model}"
        raise _usage("already-quantised", message, "--kind tensorrt-llm-pytorch, or --config with its config.json")
    if asked.kind == "tensorrt-llm" and asked.gpu.count > 1:
        message = f"engines of a checkpoint that is quantised already are built for one GPU, not for {asked.gpu.count}"
        raise _usage("kind-and-gpu", message, f"--gpu {asked.gpu.word}, or --kind tensorrt-llm-pytorch")
    for found in refusals(Target(asked.kind, asked.gpu.sm), asked.stored, "none", _export(asked.kind)):
        if found.reason == "format-for-gpu":
            raise _usage(found.reason, found.message, f"{found.instead} ({found.source})")


def _is_of_modelopt(asked: Request, settings: dict[str, object]) -> bool:
    own = asked.local and os.path.isfile(os.path.join(asked.model, "hf_quant_config.json"))
    return own or asked.model.startswith("nvidia/") or "modelopt" in json.dumps(settings.get("quantization_config", ""))


def _check_quantisation(asked: Request) -> None:
    able = QUANTISATIONS[asked.kind]
    if asked.quantisation not in able:
        message = f"the engine kind {asked.kind} has no quantisation {asked.quantisation!r}"
        raise _usage("quantisation-for-kind", message, f"--quantisation {', '.join(able)}")
    if asked.kind not in BACKENDS or asked.quantisation not in _COMPUTED:
        return
    target = Target(asked.kind, asked.gpu.sm)
    for found in refusals(target, asked.quantisation, cache_of(asked.quantisation), _export(asked.kind)):
        raise _usage(found.reason, found.message, f"{found.instead} ({found.source})")


def _check_memory(asked: Request, settings: dict[str, object]) -> None:
    """Whether the weights of a model whose config.json is known leave room for anything."""
    device = KNOWN_GPUS.get(asked.gpu.product, (asked.gpu.memory_gib or asked.gpu.least_gib, ""))[0]
    weights = asked.stored or asked.quantisation
    if not (device and settings) or asked.kind not in BACKENDS or weights not in WEIGHT_FORMATS:
        return
    serving = Serving(weights, tp=asked.gpu.count, device_bytes=device << 30)
    try:
        found = estimate(read_shape(settings), serving)
    except HermeticError:
        return  # not a model that is known; what reads it will say so
    if not found.fits:
        message = f"its weights take {found.weights / 2**30:.1f} GiB of the {device} GiB of each {asked.gpu.word}"
        hint = "--quantisation with a smaller format, --gpu NAME:N for more GPUs, or another GPU"
        raise _usage("does-not-fit", message, hint)


def cache_of(quantisation: str) -> str:
    """How keys and values are kept: in FP8 where weights and activations are that or less."""
    return "fp8" if quantisation in ("fp8", "nvfp4") else "none"


def _config(path: str) -> dict[str, object]:
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError) as error:
        raise _usage("bad-config", f"{path} cannot be read: {error}", "the config.json of the model") from error
    if not isinstance(found, dict) or "architectures" not in found:
        raise _usage("bad-config", f"{path} names no architectures", "the config.json of the model, not of an engine")
    return found


def _longest(settings: dict[str, object]) -> int:
    found = settings.get("max_position_embeddings")
    return found if isinstance(found, int) and found > 0 else 0


def _name(given: str, model: str) -> str:
    last = os.path.basename(os.path.abspath(model)) if os.path.isdir(model) else model.rpartition("/")[2]
    made = re.sub(r"[^a-z0-9]+", "_", last.lower()).strip("_")
    found = given or (made if made[:1].isalpha() else f"model_{made}".rstrip("_"))
    if not _NAME.fullmatch(found):
        raise _usage("bad-name", f"{found!r} is no name for a recipe", "letters, digits, _ and -, a letter first")
    return found


def _usage(reason: str, message: str, hint: str) -> HermeticError:
    return HermeticError(Domain.USAGE, reason, message, hint=hint)
