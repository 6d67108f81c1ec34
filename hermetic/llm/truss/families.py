"""Model families: what each one needs, one small class a family.

A config does not say which family its checkpoint is of; its own ``config.json`` does, when it is there. Before that,
the repository's name is a guess, good enough for advice and never for the build: the converting stage reads the
architecture itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import ClassVar, Final

from hermetic.llm.truss.section import EngineBuild, Quantisation, Repository, Source

__all__ = ["FAMILIES", "Family", "by_architecture", "by_name", "family_of"]


class Family:
    """A family that nothing particular is known of.

    `words` are what repositories are called, `architectures` what ``config.json`` says, from which the script that
    converts them follows (``support/conversion.toml``), and `missing` says why no engine can be built, if so.
    """

    name: ClassVar[str] = ""
    words: ClassVar[tuple[str, ...]] = ()
    architectures: ClassVar[tuple[str, ...]] = ()
    missing: ClassVar[str] = ""

    def advice(self, build: EngineBuild) -> Iterator[tuple[str, str, str]]:  # noqa: ARG002  # its heirs read it
        """Warnings about an engine of v1: code, name of the field in `build`, message."""
        if self.missing:
            message = f"judging by what the checkpoint is called, hermetic cannot build this yet: {self.missing}"
            yield "family-not-yet-built", "checkpoint_repository", message


class Llama(Family):
    name = "llama"
    words = ("llama",)
    architectures = ("LlamaForCausalLM",)


class Mistral(Family):
    name = "mistral"
    words = ("mixtral", "mistral", "ministral")
    architectures = ("MistralForCausalLM", "MixtralForCausalLM")


class Qwen2(Family):
    """Its attention has biases, for which Truss's documentation warns of an FP8 cache."""

    name = "qwen2"
    words = ("qwen",)
    architectures = ("Qwen2ForCausalLM", "Qwen2MoeForCausalLM")

    def advice(self, build: EngineBuild) -> Iterator[tuple[str, str, str]]:
        if build.quantization_type is Quantisation.FP8_KV:
            message = "the attention of Qwen2 has biases, with which an FP8 cache loses quality; fp8 keeps 16 bits"
            yield "fp8-cache-with-biases", "quantization_type", message


class Qwen3(Family):
    name = "qwen3"
    words = ("qwen3",)
    architectures = ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM")


class DeepSeek(Family):
    """Mixtures of experts with compressed attention, which the engine builder's scripts here do not take."""

    name = "deepseek"
    words = ("deepseek",)
    architectures = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM")
    missing = "converting DeepSeek for trtllm-build (inference_stack v2 serves it)"

    def advice(self, build: EngineBuild) -> Iterator[tuple[str, str, str]]:
        yield from super().advice(build)
        message = "Truss builds dense models with v1; mixtures of experts are for inference_stack v2"
        yield "experts-in-v1", "base_model", message


class Whisper(Family):
    """An encoder and a decoder, each an engine of its own."""

    name = "whisper"
    words = ("whisper",)
    architectures = ("WhisperForConditionalGeneration",)
    missing = "engines of Whisper, which are two"


FAMILIES: Final[tuple[Family, ...]] = (Llama(), Mistral(), Qwen2(), Qwen3(), DeepSeek(), Whisper())
_UNKNOWN: Final = Family()


def family_of(repository: Repository, folder: str) -> Family:
    """The family of a checkpoint: of one beside the config, in `folder`, by its ``config.json``, else by its name."""
    if repository.source is not Source.LOCAL:
        return by_name(repository.repo)
    try:
        with open(os.path.join(folder, repository.repo, "config.json"), encoding="utf-8") as stream:
            names = json.load(stream).get("architectures") or [""]
    except (OSError, ValueError, AttributeError):
        return by_name(repository.repo)
    return by_architecture(str(names[0]))


def by_name(repository: str) -> Family:
    """By the name: the family that is named last, as in ``DeepSeek-R1-Distill-Llama-8B``, which is a Llama."""
    name = repository.lower().rpartition("/")[2]
    found = [(name.rfind(word), len(word), family) for family in FAMILIES for word in family.words if word in name]
    return max(found, key=lambda item: item[:2])[2] if found else _UNKNOWN


def by_architecture(architecture: str) -> Family:
    """By what ``config.json`` says."""
    return next((family for family in FAMILIES if architecture in family.architectures), _UNKNOWN)
