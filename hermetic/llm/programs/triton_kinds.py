"""What each kind of engine is served with: models, limits and files, from its folder and what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton_openvino
import triton_tensorrt_llm as trtllm
import triton_whisper
from stage_file import Refused, read_json
from triton_config import Batching, Model, Tensor
from triton_tensors import TIMES

ENGINE, TOKENIZER, REPOSITORY = "/build/in/engine", "/build/in/tokenizer", "/build/in/repository"
#: Fields of the stage for what is no parameter.
OURS = {"max_queue_delay_microseconds": "queue_delay_us", "max_queue_size": "queue_size"}
XGRAMMAR = "xgrammar_tokenizer_info.json"
_TEXT = {"preprocessing": "triton_tokenize_model.py", "postprocessing": "triton_detokenize_model.py"}

#: Tokens that a Whisper for many languages has at least (examples/models/core/whisper/run.py of TensorRT-LLM).
_MULTILINGUAL = 51865
_BLS = {"tensorrt_llm_bls": "triton_bls_model.py"}


@dataclass(frozen=True)
class Served:
    """A repository to be written. `limits` are in tokens and sequences, `world` is the number of processes with a GPU.

    `code` is the program file that becomes ``1/model.py``, by model, `modules` those that lie beside it; `texts` are
    further files by their place in the repository. `tensors` is the release whose tensors the models have.
    `checkpoint` is where in the engine the tokenizer lies, `vocabulary` the files that it may be read from if it is no
    Hugging Face one, and `guided` whether xgrammar's file is to be made of it.
    """

    kind: str
    models: tuple[Model, ...]
    limits: Mapping[str, int]
    quantisation: str
    tensors: str
    code: Mapping[str, str]
    world: int = 1
    checkpoint: str = ""
    guided: bool = False
    texts: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()


def served(engine: Path, asked: dict[str, Any]) -> Served:
    """What the folder `engine` is served with. Raises `Refused` where it is of no known kind, or can't be so served."""
    if (engine / "openvino_model.xml").is_file():
        return _openvino(engine, asked)
    if (engine / "model.yaml").is_file():
        return _pytorch(engine, asked)
    if (engine / "encoder").is_dir():
        return _whisper(engine, asked)
    config = read_json(engine / "config.json")
    if "build_config" in config and "pretrained_config" in config:
        return _tensorrt_llm(config, asked)
    raise Refused("the engine is neither an OpenVINO folder nor one of TensorRT-LLM")


def _limit(name: str, asked: dict[str, Any], most: object) -> int:
    """What was asked for, else all that the engine can. Raises `Refused` if it can't."""
    if not isinstance(most, int) or most < 1:
        raise Refused(f"the engine says that its {name} is {most!r}")
    wanted = int(asked[name]) or most
    if wanted > most:
        raise Refused(f"{name} is {wanted}, and the engine was made for {most}")
    return wanted


def _none_of(asked: dict[str, Any], kind: str, *names: str) -> None:
    """Settings of other kinds are refused and not dropped."""
    for name in names:
        if asked[name]:
            raise Refused(f"{name} is nothing that an engine of the kind {kind} is served with")


def _openvino(engine: Path, asked: dict[str, Any]) -> Served:
    _none_of(asked, "openvino", "parameters", "queue_delay_us", "queue_size")
    context = read_json(engine / "config.json").get("max_position_embeddings")
    limits = {"max_seq_len": _limit("max_seq_len", asked, context), "max_batch_size": asked["max_batch_size"] or 64}
    parameters = {
        "gpt_model_path": ENGINE,
        "max_seq_len": str(limits["max_seq_len"]),
        "max_batch_size": str(limits["max_batch_size"]),
        "kv_cache_gib": str(asked["kv_cache_gib"]),
        "enable_kv_cache_reuse": _switch(asked["kv_cache_reuse"]),
    }
    path = engine / "quantisation.json"
    return Served(
        kind="openvino",
        models=triton_openvino.models(parameters, TOKENIZER, bls=asked["bls"]),
        limits=limits,
        quantisation=str(read_json(path)["asked"]["mode"]) if path.is_file() else "unknown",
        tensors="0.20",
        code=_TEXT | {"tensorrt_llm": "triton_openvino_model.py"} | _BLS,
    )


def _tensorrt_llm(config: dict[str, Any], asked: dict[str, Any]) -> Served:
    model, made, release = config["pretrained_config"], config["build_config"], str(config.get("version", ""))
    if not release[:1].isdigit() or trtllm.is_older(release, trtllm.FIRST):
        raise Refused(f"the engine is of TensorRT-LLM {release or 'unknown'}; known are {trtllm.FIRST} and later")
    if (made.get("plugin_config") or {}).get("use_paged_context_fmha") is False:
        for name in ("kv_cache_reuse", "chunked_context"):  # tensorrtllm_backend, issue 251
            if asked[name]:
                raise Refused(f"{name} needs an engine that was built with use_paged_context_fmha")
    names = ("max_batch_size", "max_seq_len")
    limits = {name: _limit(name, asked, made.get(name)) for name in names}
    limits |= {name: made[name] for name in ("max_input_len", "max_num_tokens") if isinstance(made.get(name), int)}
    guided = asked["guided_decoding"] and not trtllm.is_older(release, "0.19")
    backend = trtllm.Backend(
        release=release,
        max_batch_size=limits["max_batch_size"],
        tokenizer=TOKENIZER,
        parameters=_parameters(release, asked, guided=guided),
        batching=Batching(asked["queue_delay_us"], asked["queue_size"]),
        bls=asked["bls"],
    )
    return Served(
        kind="tensorrt-llm",
        models=trtllm.models(backend),
        limits=limits,
        quantisation=str(model.get("quantization", {}).get("quant_algo") or "none"),
        tensors=release,
        code=_TEXT | _BLS,
        world=int(model.get("mapping", {}).get("world_size", 1)),
        guided=guided,
    )


def _whisper(engine: Path, asked: dict[str, Any]) -> Served:
    """An encoder and a decoder, asked with sound; nothing of one is used for another, so caches are not shared."""
    _none_of(asked, "tensorrt-llm for Whisper", "bls", "max_seq_len")
    encoder, decoder = (read_json(engine / half / "config.json") for half in ("encoder", "decoder"))
    described, made, release = encoder["pretrained_config"], decoder["build_config"], str(decoder["version"])
    features = triton_whisper.FEATURES.get(described["dtype"])
    if features is None:
        known = ", ".join(triton_whisper.FEATURES)
        raise Refused(f"the encoder takes {described['dtype']}, and sound can be served as {known}")
    if trtllm.is_older(release, triton_whisper.FIRST):
        raise Refused(f"the engine is of TensorRT-LLM {release}, and sound is served from {triton_whisper.FIRST} on")
    most = min(config["build_config"]["max_batch_size"] for config in (encoder, decoder))
    limits = {"max_batch_size": _limit("max_batch_size", asked, most)}
    limits |= {name: made[name] for name in ("max_seq_len", "max_input_len")}
    alone = asked | {"kv_cache_reuse": False, "chunked_context": False}
    parameters = {"cross_kv_cache_fraction": "0.5", **_parameters(release, alone, guided=False)}
    parameters["gpt_model_path"] = f"{ENGINE}/decoder"
    batching = Batching(asked["queue_delay_us"], asked["queue_size"])
    backend = trtllm.Backend(release, limits["max_batch_size"], TOKENIZER, parameters, batching)
    size = decoder["pretrained_config"]["vocab_size"]
    spoken = f"<|{asked.get('language', 'en')}|><|{asked.get('task', 'transcribe')}|>"
    hearing = {
        "tokenizer_dir": TOKENIZER,
        "vocab_size": str(size),
        "n_mels": str(described["n_mels"]),
        "encoder_dtype": described["dtype"],
        "max_seq_len": str(limits["max_seq_len"]),
        "max_input_len": str(limits["max_input_len"]),
        "text_prefix": f"<|startoftranscript|>{spoken if size >= _MULTILINGUAL else ''}<|notimestamps|>",
    }
    return Served(
        kind="tensorrt-llm",
        models=triton_whisper.models(backend, f"{ENGINE}/encoder", features, hearing),
        limits=limits,
        quantisation=str(decoder["pretrained_config"].get("quantization", {}).get("quant_algo") or "none"),
        tensors=release,
        code={triton_whisper.NAME: triton_whisper.CODE},
        modules={triton_whisper.NAME: triton_whisper.MODULES},
        vocabulary=("multilingual.tiktoken", "gpt2.tiktoken"),
    )


def _parameters(release: str, asked: dict[str, Any], *, guided: bool) -> dict[str, str]:
    given = {**trtllm.speculation(asked.get("speculation") or {}), **asked["parameters"]}
    for name in sorted(given):
        if name in trtllm.ELSEWHERE:
            raise Refused(f"{name} is no parameter but a field of {trtllm.ELSEWHERE[name]}: use {OURS[name]}")
        since = trtllm.PARAMETERS.get(name)
        if since is None:
            raise Refused(f"{name} is no parameter of the model tensorrt_llm that is known")
        if trtllm.is_older(release, since):
            raise Refused(f"{name} came with {since}, and the engine's backend is {release}")
    ours = {
        "gpt_model_type": "inflight_fused_batching",
        "enable_kv_cache_reuse": _switch(asked["kv_cache_reuse"]),
        "enable_chunked_context": _switch(asked["chunked_context"]),
        "exclude_input_in_output": "true",
    }
    if guided:
        ours |= {
            "guided_decoding_backend": "xgrammar",
            "tokenizer_dir": TOKENIZER,
            "xgrammar_tokenizer_info_path": f"{REPOSITORY}/{XGRAMMAR}",
        }
    return {**ours, **given, "gpt_model_path": ENGINE}


def _pytorch(engine: Path, asked: dict[str, Any]) -> Served:
    """The LLM API's layout: one model, whose arguments are in ``model.yaml``."""
    kind = "tensorrt-llm-pytorch"
    _none_of(asked, kind, "bls", "parameters", "queue_delay_us", "queue_size", "max_batch_size", "max_seq_len")
    checkpoint = engine / "checkpoint"
    path = checkpoint / "hf_quant_config.json"
    quantised = read_json(path).get("quantization", {}) if path.is_file() else {}
    lines = (engine / "model.yaml").read_text(encoding="utf-8").splitlines()
    values = dict(line.partition(": ")[::2] for line in lines if not line.startswith(" "))
    context = read_json(checkpoint / "config.json").get("max_position_embeddings")
    return Served(
        kind=kind,
        models=(_llmapi(),),
        limits={"max_seq_len": int(values.get("max_seq_len", context or 0))},
        quantisation=str(quantised.get("quant_algo") or "none"),
        tensors="llmapi",
        code={"tensorrt_llm": "triton_llmapi_model.py"},
        world=int(values.get("tensor_parallel_size", 1)) * int(values.get("pipeline_parallel_size", 1)),
        checkpoint="checkpoint",
        texts={"tensorrt_llm/1/model.yaml": _model_yaml(lines)},
    )


def _model_yaml(lines: list[str]) -> str:
    """With the checkpoint's fixed place, and what the backend reads of Triton from here and not from config.pbtxt."""
    kept = [f'model: "{ENGINE}/checkpoint"' if line.startswith("model: ") else line for line in lines]
    return "\n".join([*kept, "triton_config:", "  decoupled: true", "  max_batch_size: 0", ""])


def _llmapi() -> Model:
    types = {
        "temperature": "FP32", "top_k": "INT32", "top_p": "FP32", "frequency_penalty": "FP32",
        "presence_penalty": "FP32", "max_tokens": "INT32", "seed": "UINT64", "exclude_input_from_output": "BOOL",
        "return_perf_metrics": "BOOL",
    }  # fmt: skip
    switches = ("streaming", "return_finish_reason", "return_stop_reason", "return_cumulative_logprob", "stop")
    return Model(
        name="tensorrt_llm",
        backend="python",
        inputs=(
            Tensor("text_input", "STRING", (-1,)),
            *(Tensor(name, "BOOL", (1,), optional=True) for name in switches),
            *(Tensor(f"sampling_param_{name}", kind, (1,), optional=True) for name, kind in types.items()),
            Tensor("sampling_param_stop", "STRING", (-1,), optional=True),
        ),
        outputs=(
            *(Tensor(name, "STRING", (-1,)) for name in ("text_output", "finish_reason", "stop_reason")),
            Tensor("cumulative_logprob", "FP32", (-1,)),
            *TIMES,
        ),
    )


def _switch(on: bool) -> str:
    return "true" if on else "false"
