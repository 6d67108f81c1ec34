"""The `trt_llm` section: which checkpoint, quantised how, built with which limits, served how.

Two stacks: ``v1`` builds a TensorRT engine, ``v2`` serves a checkpoint with TensorRT-LLM's PyTorch backend. Only types
and ranges are here; what one field says about another is in `hermetic.llm.truss.checks`.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AliasChoices, Field, StringConstraints

from hermetic.llm.speculation import draft_len
from hermetic.llm.truss.base import HF_SECRET, Count, Model, wrong

__all__ = [
    "ENCODERS",
    "BaseModelKind",
    "EngineBuild",
    "Quantisation",
    "Repository",
    "RuntimeV1",
    "RuntimeV2",
    "SectionV1",
    "SectionV2",
    "Source",
    "SpeculationMode",
    "Speculator",
    "Versions",
]


class BaseModelKind(str, Enum):
    ENCODER = "encoder"
    ENCODER_BERT = "encoder_bert"
    DECODER = "decoder"
    PALMYRA = "palmyra"
    QWEN = "qwen"
    LLAMA = "llama"
    MISTRAL = "mistral"
    DEEPSEEK = "deepseek"
    WHISPER = "whisper"


ENCODERS: Final = frozenset({BaseModelKind.ENCODER, BaseModelKind.ENCODER_BERT})


class Quantisation(str, Enum):
    NO_QUANT = "no_quant"
    WEIGHTS_INT8 = "weights_int8"
    WEIGHTS_KV_INT8 = "weights_kv_int8"
    WEIGHTS_INT4 = "weights_int4"
    WEIGHTS_INT4_KV_INT8 = "weights_int4_kv_int8"
    SMOOTH_QUANT = "smooth_quant"
    FP8 = "fp8"
    FP8_KV = "fp8_kv"
    FP8_MLP_ONLY = "fp8_mlp_only"
    FP4 = "fp4"
    FP4_KV = "fp4_kv"
    FP4_MLP_ONLY = "fp4_mlp_only"


class Source(str, Enum):
    """What kind of place `repo` names: a repository, ``bucket/path``, an address of a tar.gz, or a training job."""

    HF = "HF"
    GCS = "GCS"
    S3 = "S3"
    AZURE = "AZURE"
    LOCAL = "LOCAL"
    REMOTE_URL = "REMOTE_URL"
    BASETEN_TRAINING = "BASETEN_TRAINING"


class SpeculationMode(str, Enum):
    DRAFT_TOKENS_EXTERNAL = "DRAFT_TOKENS_EXTERNAL"
    LOOKAHEAD_DECODING = "LOOKAHEAD_DECODING"


class Repository(Model):
    """Where weights are. `runtime_secret_name` is the name of the secret with the token, not the token."""

    source: Source
    repo: str
    revision: str | None = None
    runtime_secret_name: str = HF_SECRET


def _calibration(value: int) -> int:
    if not 64 <= value <= 16384 or value % 64:
        raise wrong("bad-calibration", f"{value} is no multiple of 64 from 64 to 16384")
    return value


class Calibration(Model):
    """`quantization_config`: samples, data set, and tokens of a sample."""

    calib_size: Annotated[int, AfterValidator(_calibration)] = 1024
    calib_dataset: str = "abisee/cnn_dailymail"
    calib_max_seq_length: Annotated[int, AfterValidator(_calibration)] = 1536


class Plugins(Model):
    """`plugin_configuration`."""

    paged_kv_cache: bool = True
    use_paged_context_fmha: bool = True
    use_fp8_context_fmha: bool = False


class Lora(Model):
    """`lora_configuration`."""

    max_lora_rank: int = 64
    lora_target_modules: list[str] = Field(default_factory=list)


Length = Annotated[int, Field(strict=True, ge=1, le=1048576)]
Batch = Annotated[int, Field(strict=True, ge=1, le=2048)]
AdapterName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_\-\.:]+$")]


class RuntimeV1(Model):
    """`runtime` of ``v1``: how the engine is served. None of it changes the engine."""

    kv_cache_free_gpu_mem_fraction: Annotated[float, Field(allow_inf_nan=False)] = 0.9
    kv_cache_host_memory_bytes: Count | None = None
    lora_cache_max_adapter_size: Count | None = None
    lora_cache_optimal_adapter_size: Count | None = None
    lora_cache_gpu_memory_fraction: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None
    lora_cache_host_memory_bytes: Count | None = None
    enable_chunked_context: bool = True
    batch_scheduler_policy: Literal["max_utilization", "guaranteed_no_evict"] = "guaranteed_no_evict"
    request_default_max_tokens: Count | None = None
    served_model_name: str | None = None
    total_token_limit: int = 500000
    webserver_default_route: (
        Literal["/v1/embeddings", "/v1/systemone", "/rerank", "/predict", "/predict_tokens"] | None
    ) = None


class RuntimeV2(Model):
    """`runtime` of ``v2``."""

    max_seq_len: Length | None = None
    max_batch_size: Batch = 256
    max_num_tokens: Annotated[int, Field(strict=True, gt=64, le=131072)] = 8192
    tensor_parallel_size: Count = 1
    enable_chunked_prefill: bool = True
    served_model_name: str | None = None
    patch_kwargs: dict[str, str | bool | int | float | dict[Any, Any] | list[Any] | None] = Field(
        default_factory=dict, validation_alias=AliasChoices("patch_kwargs", "gated_features")
    )


class EngineBuild(Model):
    """`build`: what the engine is."""

    base_model: BaseModelKind = BaseModelKind.DECODER
    max_seq_len: Length | None = None
    max_batch_size: Batch = 256
    max_num_tokens: Annotated[int, Field(strict=True, gt=64, le=1048576)] = 8192
    max_beam_width: Annotated[int, Field(strict=True, ge=1, le=1)] = 1
    max_prompt_embedding_table_size: int = 0
    checkpoint_repository: Repository | None = None
    gather_all_token_logits: bool = False
    strongly_typed: bool = False
    quantization_type: Quantisation = Quantisation.NO_QUANT
    quantization_config: Calibration = Field(default_factory=Calibration)
    tensor_parallel_count: Count = 1
    pipeline_parallel_count: int = 1
    moe_expert_parallel_option: int = -1
    sequence_parallel_count: int = 1
    plugin_configuration: Plugins = Field(default_factory=Plugins)
    num_builder_gpus: Count | None = None
    speculator: Speculator | None = None
    lora_adapters: dict[AdapterName, Repository] | None = None
    lora_configuration: Lora | None = None
    skip_build_result: bool = False

    @property
    def world_size(self) -> int:
        """GPUs of one engine. Truss builds encoders for one, whatever the config says."""
        if self.base_model in ENCODERS:
            return 1
        return self.tensor_parallel_count * self.pipeline_parallel_count * self.sequence_parallel_count

    @property
    def plugins(self) -> Plugins:
        """The plug-ins in effect: embeddings need no cache of keys and values."""
        if self.base_model is BaseModelKind.ENCODER:
            return self.plugin_configuration.model_copy(
                update={"paged_kv_cache": False, "use_paged_context_fmha": False}
            )
        return self.plugin_configuration

    @property
    def tokens(self) -> int:
        """`max_num_tokens` in effect: an encoder that says nothing gets twice the usual."""
        unsaid = self.base_model is BaseModelKind.ENCODER and "max_num_tokens" not in self.model_fields_set
        return 16384 if unsaid else self.max_num_tokens


class Speculator(Model):
    """`speculator`: how tokens are guessed ahead. Sizes are those of lookahead decoding."""

    speculative_decoding_mode: SpeculationMode = SpeculationMode.DRAFT_TOKENS_EXTERNAL
    num_draft_tokens: Count | None = None
    checkpoint_repository: Repository | None = None
    runtime: RuntimeV1 = Field(default_factory=RuntimeV1)
    build: EngineBuild | None = None
    lookahead_windows_size: Count | None = None
    lookahead_ngram_size: Count | None = None
    lookahead_verification_set_size: Count | None = None
    enable_b10_lookahead: bool | None = False

    @property
    def lookahead_tokens(self) -> int | None:
        """Draft tokens that one step of lookahead decoding may have; None unless all three sizes are known."""
        sizes = (self.lookahead_windows_size, self.lookahead_ngram_size, self.lookahead_verification_set_size)
        window, ngram, verification = sizes
        if window is None or ngram is None or verification is None:
            return None
        return draft_len(window, ngram, verification)

    @property
    def draft_tokens(self) -> int | None:
        return self.num_draft_tokens if self.num_draft_tokens is not None else self.lookahead_tokens


def _numbered(value: str) -> str:
    if not value[:1].isdigit():
        raise wrong("bad-version", f"{value!r} does not begin with a digit", hint="as in 0.20.0.post8")
    return value


_Version = Annotated[str, AfterValidator(_numbered)]


class Versions(Model):
    """`version_overrides`: images of Baseten's, by version."""

    engine_builder_version: _Version | None = None
    briton_version: _Version | None = None
    bei_version: _Version | None = None
    bei_bert_version: _Version | None = None
    v2_llm_version: str | None = None


class SectionV1(Model):
    """``inference_stack: v1``."""

    inference_stack: Literal["v1"] = "v1"
    build: EngineBuild
    runtime: RuntimeV1 = Field(default_factory=RuntimeV1)
    version_overrides: Versions = Field(default_factory=Versions)


class SectionV2(Model):
    """``inference_stack: v2``."""

    inference_stack: Literal["v2"] = "v2"
    build: EngineBuild
    runtime: RuntimeV2
    version_overrides: Versions = Field(default_factory=Versions)


EngineBuild.model_rebuild()
