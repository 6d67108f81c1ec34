"""The recipe of each engine kind, from the parts of `code`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from hermetic.llm.starter.code import Call, Let, Name, Text, Value, module
from hermetic.llm.starter.request import Accelerator, Request, cache_of

__all__ = ["RELEASE", "recipe"]

#: The last stable TensorRT-LLM that builds engines.
RELEASE: Final = "1.2.1"
_IMAGE: Final = f"nvcr.io/nvidia/tensorrt-llm/release:{RELEASE}"
#: What the engine's config.json must say; SmoothQuant has several spellings, so nothing is asked of it.
_ALGORITHMS: Final = {
    "fp8": "FP8",
    "nvfp4": "NVFP4",
    "int4_awq": "W4A16_AWQ",
    "w4a8_awq": "W4A8_AWQ",
    "int8_wo": "W8A16",
    "int4_wo": "W4A16",
}
_LONGEST: Final = 8192  # tokens, where the model's own context is not known or longer
_WHOLE: Final = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def recipe(asked: Request) -> str:
    """The file's text. Evaluating it gives stages that `hermetic lint` has no error for."""
    return module(_document(asked), [*_BODIES[asked.kind](asked)])


def _document(asked: Request) -> Text:
    where = asked.gpu.word if not asked.gpu.sm else f"{asked.gpu.count} x {asked.gpu.product or asked.gpu.word}"
    file = f"{asked.name}.py"
    return Text(
        (
            f"{asked.model} for {asked.kind}, {_weights_in_words(asked)}, on {where}.",
            "",
            f"$ hermetic lock {file}       # asks once what model, data and image stand for",
            f"$ hermetic lint {file}",
            f"$ hermetic plan {file}       # add --commands to see what would run",
            f"$ hermetic realise {file}",
        )
    )


def _weights_in_words(asked: Request) -> str:
    if asked.stored:
        return f"as it is stored ({asked.stored})"
    if asked.quantisation != "none":
        return f"quantised to {asked.quantisation}"
    return "as it is stored" if asked.kind == "tensorrt-llm-pytorch" else "not quantised"


def _snapshot(asked: Request, *patterns: str) -> Let:
    if asked.local:
        return Let("snapshot", Call("Source", (asked.model,)), apart=True)
    licence = Call("param", ("accept_licence", ""), {"help": "the licence of the weights, as the Hub calls it"})
    fields: dict[str, Value] = {"allow": patterns, "ignore": ("original/", "consolidated*"), "accept_licence": licence}
    return Let("snapshot", Call("hub_snapshot", (asked.model,), fields), apart=True)


def _gpu(gpu: Accelerator, count: int = 1) -> Value:
    more: dict[str, Value] = {"count": count} if count > 1 else {}
    if gpu.memory_gib:
        return Call("Gpu", (gpu.product,), {"memory_gib": gpu.memory_gib, "sm": gpu.sm, **more})
    if gpu.product:
        return Call("Gpu", (gpu.product,), more)
    # A driver reports a little less than the data sheet says.
    least: dict[str, Value] = {"at_least_gib": gpu.least_gib} if gpu.least_gib else {}
    return Call("Gpu", (), {"sm": gpu.sm, "portable": "sm", **least, **more})


def _samples() -> Iterator[Let]:
    """News, until somebody has samples of what the engine will really be asked."""
    data = Call("hub_dataset", ("abisee/cnn_dailymail",), {"allow": "3.0.0/validation*"})
    fields: dict[str, Value] = {
        "count": 512,
        "column": "article",
        "max_length": 512,
        "seed": 1234,
        "split": "validation",
    }
    above = (
        "Take samples of what your engine will be asked, such as Source('samples.txt'), with column='' and split=''."
    )
    yield Let("samples", Call("calibration", (data,), fields), above, apart=True)


def _limits(asked: Request) -> dict[str, Value]:
    longest = min(asked.longest or _LONGEST, _LONGEST)
    return {
        "max_batch_size": Call("param", ("max_batch_size", 16)),
        "max_input_len": Call("param", ("max_input_len", longest * 3 // 4)),
        "max_seq_len": Call("param", ("max_seq_len", longest)),
    }


def _tensorrt_llm(asked: Request) -> Iterator[Let]:
    yield Let("RELEASE", RELEASE, behind="the last stable TensorRT-LLM that builds engines")
    yield Let("image", Call("Image", (Call("param", ("image", _IMAGE)),)))
    yield Let("gpu", _gpu(asked.gpu))
    yield _snapshot(asked, *_WHOLE)
    place: dict[str, Value] = {"environment": Name("image"), "gpu": Name("gpu"), "release": Name("RELEASE")}
    yield from _as_stored(asked, place) if asked.stored else _compiled(asked, place)
    served: dict[str, Value] = {"gpu": _gpu(asked.gpu, asked.gpu.count)} if asked.gpu.count > 1 else {}
    above = "No manifest, and so nothing to serve, of an engine that does not answer."
    yield Let("smoke", Call("Smoke", (), {"engine": Name("engine"), **served}), above, apart=True)
    more: dict[str, Value] = {"calibration": Name("samples")} if _calibrated(asked) else {}
    manifest = {"engine": Name("engine"), **more, "smoke": Name("smoke")}
    yield Let("manifest", Call("tensorrt_llm.Manifest", (), manifest))
    yield from _served("engine")


def _as_stored(asked: Request, place: dict[str, Value]) -> Iterator[Let]:
    """convert_checkpoint.py does not read such checkpoints; trtllm-bench does."""
    algorithm = _ALGORITHMS[asked.stored]
    options: dict[str, Value] = {
        "quantization": algorithm,
        "max_batch_size": Call("param", ("max_batch_size", 16)),
        "max_num_tokens": Call("param", ("max_num_tokens", _LONGEST)),
        "max_seq_len": Call("param", ("max_seq_len", min(asked.longest or _LONGEST, _LONGEST))),
    }
    fields = place | {"builder": "trtllm-bench", "model": asked.model, "checkpoint": Name("snapshot")}
    fields |= {"tokenizer": Name("snapshot"), "quantisation": algorithm, "options": options}
    yield Let("engine", Call("tensorrt_llm.Engine", (), fields), apart=True)


def _compiled(asked: Request, place: dict[str, Value]) -> Iterator[Let]:
    yield from _weights(asked, place)
    options: dict[str, Value] = {"use_paged_context_fmha": True, **_limits(asked)}
    fields = place | {"checkpoint": Name("weights"), "tokenizer": Name("snapshot")}
    fields |= {"quantisation": _ALGORITHMS[asked.quantisation]} if asked.quantisation in _ALGORITHMS else {}
    yield Let("engine", Call("tensorrt_llm.Engine", (), fields | {"options": options}), apart=True)


def _calibrated(asked: Request) -> bool:
    return asked.quantisation not in ("none", "int8_wo", "int4_wo")


def _weights(asked: Request, place: dict[str, Value]) -> Iterator[Let]:
    tp: dict[str, Value] = {"tp": asked.gpu.count} if asked.gpu.count > 1 else {}
    if not _calibrated(asked):
        only: dict[str, Value] = {} if asked.quantisation == "none" else {"weight_only": asked.quantisation[:4]}
        fields = place | {"dtype": "bfloat16"} | only | tp
        yield Let("weights", Call("convert", (Name("snapshot"),), fields), apart=True)
        return
    yield from _samples()
    fields = place | {"snapshot": Name("snapshot"), "calibration": Name("samples"), "format": asked.quantisation}
    fields |= {"kv_cache": "fp8"} if cache_of(asked.quantisation) == "fp8" else {}
    yield Let("weights", Call("tensorrt_llm.Quantise", (), fields | tp), apart=True)


def _pytorch(asked: Request) -> Iterator[Let]:
    yield Let("image", Call("Image", (Call("param", ("image", _IMAGE)),)))
    yield _snapshot(asked, *_WHOLE)
    checkpoint, algorithm = Name("snapshot"), dict[str, Value]()
    if asked.quantisation != "none":
        yield from _samples()
        checkpoint, algorithm = Name("weights"), {"quantisation": _ALGORITHMS[asked.quantisation]}
        target = Call("Target", (asked.kind,), {"sm": asked.gpu.sm})
        fields: dict[str, Value] = {
            "calibration": Name("samples"),
            "kv_cache": cache_of(asked.quantisation),
            "target": target,
        }
        above = "On the processor, with CPython 3.11 and the CPU build of torch: docs/models.md."
        quantised = Call("quantise", (Name("snapshot"), asked.quantisation), fields)
        yield Let("weights", quantised, above, apart=True)
    options: dict[str, Value] = {
        "max_batch_size": Call("param", ("max_batch_size", 16)),
        "max_seq_len": Call("param", ("max_seq_len", min(asked.longest or _LONGEST, _LONGEST))),
        "kv_cache_config": {"free_gpu_memory_fraction": "0.85"},
    }
    made: dict[str, Value] = {"checkpoint": checkpoint, "release": RELEASE, "tp": asked.gpu.count, **algorithm}
    made |= {"runtime": Name("image"), "runtime_gpu": _gpu(asked.gpu, asked.gpu.count), "options": options}
    yield Let("model", Call("PyTorchModel", (), made), apart=True)
    yield Let("smoke", Call("Smoke", (), {"engine": Name("model")}))
    more: dict[str, Value] = {"calibration": Name("samples")} if asked.quantisation != "none" else {}
    yield Let("manifest", Call("Manifest", (), {"engine": Name("model"), **more, "smoke": Name("smoke")}))
    yield from _served("model")


def _openvino(asked: Request) -> Iterator[Let]:
    mode = {"int4": "int4_sym", "int8": "int8_asym", "none": "none"}[asked.quantisation]
    far = {"int4": "1.0", "int8": "0.2", "none": "0.001"}[asked.quantisation]
    weights, engine = Name("weights"), Name("engine")
    yield _snapshot(asked, "*.json", "*.safetensors")
    yield Let("weights", Call("openvino.Checkpoint", (), {"model": Name("snapshot")}), apart=True)
    group: dict[str, Value] = {"group_size": 64} if mode == "int4_sym" else {}
    yield Let("quantised", Call("openvino.Quantise", (), {"weights": weights, "mode": mode, **group}))
    yield Let("engine", Call("openvino.Engine", (), {"weights": weights, "quantised": Name("quantised")}))
    yield Let("manifest", Call("openvino.Manifest", (), {"weights": weights, "engine": engine}))
    above = "How far logits may be from those of the original weights; from the weights as stored it is a thousandth."
    smoke: dict[str, Value] = {"weights": weights, "engine": engine, "manifest": Name("manifest")}
    yield Let("smoke", Call("openvino.Smoke", (), smoke | {"original_tolerance": far}), above, apart=True)
    yield Let("repository", Call("triton_repository", (engine,), {"manifest": Name("manifest")}), apart=True)
    yield Let("default", engine, apart=True)


def _aoti(asked: Request) -> Iterator[Let]:
    torch = Call("param", ("torch", Call("Path", (asked.torch,))), {"help": "a virtual environment with torch"})
    yield Let("env", Call("aoti.toolchain", (torch,)))
    yield _snapshot(asked, "*.json", "*.safetensors")
    place: dict[str, Value] = {"environment": Name("env")}
    yield Let("weights", Call("aoti.Checkpoint", (), {"model": Name("snapshot"), **place}), apart=True)
    model: dict[str, Value] = {"model": Name("weights"), **place}
    if asked.gpu.sm:
        yield Let("gpu", _gpu(asked.gpu))
        model |= {"gpu": Name("gpu")}
    made = model | {"dtype": "bfloat16", "longest": Call("param", ("longest", 512))}
    yield Let("tuned", Call("aoti.Tune", (), made), "Kernels are measured once, and kept for every later build.")
    yield Let("engine", Call("aoti.Engine", (), made | {"tuned": Name("tuned")}))
    smoke = model | {"engine": Name("engine"), "tolerance": "0.05", "reference_tolerance": "0.1"}
    yield Let("smoke", Call("aoti.Smoke", (), smoke))
    yield Let("default", Name("engine"), apart=True)


def _served(engine: str) -> Iterator[Let]:
    yield Let("repository", Call("triton_repository", (Name(engine),), {"manifest": Name("manifest")}), apart=True)
    yield Let("default", Name("repository"), apart=True)


_BODIES: Final[dict[str, Callable[[Request], Iterator[Let]]]] = {
    "tensorrt-llm": _tensorrt_llm,
    "tensorrt-llm-pytorch": _pytorch,
    "openvino": _openvino,
    "aoti": _aoti,
}
