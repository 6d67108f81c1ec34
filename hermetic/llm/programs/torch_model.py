"""A Hugging Face checkpoint as a torch model that computes the same thing every time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS sums in one order only with this
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from stage_file import Refused, say
from transformers import AutoModelForCausalLM

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
#: What a checkpoint brings along beside its weights.
COMPANIONS = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


def exact(seed: int = 0) -> None:
    """Full precision and one order of sums, whatever the machine could do faster."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)  # what has no such algorithm is named in the log
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def load(folder: Path, dtype: str, device: str = "cpu") -> Any:
    """The model, every weight finite. Raises `Refused` where `device` is not there or a weight is NaN or infinite."""
    if device == "cuda" and not torch.cuda.is_available():
        raise Refused("the stage has a gpu, but the torch of its environment can use none; is it a build with CUDA?")
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=DTYPES[dtype], device_map={"": device}, local_files_only=True, trust_remote_code=False
    )
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise Refused(f"{name} holds NaN or infinity")
    return model.eval()


def logits(model: Any, prompts: Iterable[list[int]]) -> list[torch.Tensor]:
    """[length, vocabulary] of each prompt, in float32 on the processor."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        return [model(torch.tensor([ids], device=device)).logits[0].float().cpu() for ids in prompts]


def difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> tuple[float, float]:
    """The largest deviation of any logit relative to the largest logit, and the share of positions that agree on the
    next token.
    """
    far = max(float((one - other).abs().max()) for one, other in zip(found, expected, strict=True))
    largest = max(float(each.abs().max()) for each in expected)
    same = sum(int((one.argmax(-1) == other.argmax(-1)).sum()) for one, other in zip(found, expected, strict=True))
    return far / largest, same / sum(len(each) for each in expected)


def seeded_prompts(vocabulary: int, count: int = 2, length: int = 32, seed: int = 0) -> list[list[int]]:
    """Token ids that depend on nothing but these numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (count, length), generator=generator).tolist()  # type: ignore[no-any-return]


def copy_companions(source: Path, out: Path) -> None:
    """Tokenizer, chat template and settings of generation, as they are."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def say_memory() -> None:
    if torch.cuda.is_available():
        say(f"peak GPU memory {torch.cuda.max_memory_allocated()} bytes on {torch.cuda.get_device_name()}")
