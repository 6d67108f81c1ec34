"""Thousands of configs: every field with values of every kind, and the combinations that rules are about."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from hermetic.llm.truss.config import Config
from hermetic.llm.truss.hints import _models
from hermetic.llm.truss.section import EngineBuild, Quantisation, RuntimeV1, RuntimeV2, Source, Speculator, Versions
from hermetic.llm.truss.serving import AcceleratorName, DockerMethod
from hermetic.llm.truss.sources import ModelRepo, WeightsMethod, WeightsSource

Value = dict[str, Any]

VALUES: tuple[Any, ...] = (
    *(None, "", 0, 1, -1, 2, 1.5, 1.0, 64, True, float("nan")),
    *("1", "x", "1Gi", "H100", "2024-01-01"),
    *([], ["x"], [1], [None], [{}], {}, {"x": 1}, {1: 2}, {"a": None}),
)
REPOSITORY = {"source": "HF", "repo": "a/b"}
LOOKAHEAD = {
    "speculative_decoding_mode": "LOOKAHEAD_DECODING",
    "lookahead_windows_size": 5,
    "lookahead_ngram_size": 5,
    "lookahead_verification_set_size": 5,
}
TAGS = ("openai-compatible", "force-legacy-api-non-openai-compatible")
CLOUD = [f"{kind}_{field}" for kind, fields in (
    ("aws_oidc", ("role_arn", "region")),
    ("gcp_oidc", ("service_account", "workload_id_provider")),
    ("aws_assume", ("role_arn", "role_region")),
) for field in fields]  # fmt: skip


def engine(**build: Any) -> Value:
    return {"resources": {"accelerator": "H100"}, "trt_llm": {"build": {"checkpoint_repository": REPOSITORY, **build}}}


def bases() -> dict[str, Value]:
    """A small config of each kind."""
    v2 = engine()
    v2["trt_llm"] |= {"inference_stack": "v2", "runtime": {}}
    bert = engine(base_model="encoder_bert") | {"resources": {"accelerator": "L4"}}
    return {
        "v1": engine(),
        "v2": v2,
        "speculator": engine(speculator=LOOKAHEAD),
        "bert": bert,
        "encoder": engine(base_model="encoder"),
    }


def put(config: Value, path: tuple[str, ...], value: Any) -> Value:
    """A copy of `config` with `value` at `path`."""
    made = here = copy.deepcopy(config)
    for part in path[:-1]:
        here = here.setdefault(part, {})
    here[path[-1]] = value
    return made


def paths(kind: type[BaseModel], above: tuple[str, ...], levels: int) -> Iterator[tuple[str, ...]]:
    for name, field in kind.model_fields.items():
        yield (*above, name)
        inner = next(_models(field.annotation), None)
        if inner is not None and levels and "list" not in str(field.annotation):
            yield from paths(inner, (*above, name), levels - 1)


def configs() -> Iterator[Value]:
    yield from fields()
    yield from lists()
    yield from amounts()
    yield from hardware()
    yield from lookahead()
    yield from ranks()
    yield from plugins()
    yield from names()


def fields() -> Iterator[Value]:
    """Each field of the whole config, and of each kind of section, with each value."""
    for path, value in itertools.product(list(paths(Config, (), 3)), VALUES):
        yield put({}, path, value)
    for name, base in bases().items():
        kinds: list[tuple[type[BaseModel], tuple[str, ...]]] = [
            (EngineBuild, ("trt_llm", "build")),
            (RuntimeV2 if name == "v2" else RuntimeV1, ("trt_llm", "runtime")),
            (Versions, ("trt_llm", "version_overrides")),
        ]
        if name == "speculator":
            kinds.append((Speculator, ("trt_llm", "build", "speculator")))
        for kind, above in kinds:
            for path, value in itertools.product(list(paths(kind, above, 1)), VALUES):
                yield put(base, path, value)


def lists() -> Iterator[Value]:
    """Entries of lists, and ways to authenticate."""
    for name, value in itertools.product(ModelRepo.model_fields, (*VALUES, "hf", "gcs")):
        volume = {"use_volume": True, "revision": "abc", "volume_folder": "x"}
        yield {"model_cache": [{"repo_id": "a", "use_volume": False, name: value}]}
        yield {"model_cache": [{"repo_id": "a", **volume, name: value}]}
        yield {"cache_internal": [{"repo_id": "a", name: value}]}
    addresses = ("s3://", "hf://", "https:///x", "gs://a@b", "azure://x", "HF://a/b", "r2://a", "hf:///a")
    for name, value in itertools.product(WeightsSource.model_fields, (*VALUES, *addresses)):
        yield {"weights": [{"source": "s3://a/b", "mount_location": "/a", name: value}]}
    for method, count in itertools.product((*(item.value for item in WeightsMethod), "aws_oidc"), range(3)):
        for given in itertools.combinations(["auth_secret_name", *CLOUD], count):
            auth = {"auth_method": method, **dict.fromkeys(given, "x")}
            yield {"weights": [{"source": "s3://a/b", "mount_location": "/a", "auth": auth}]}
    for method, count in itertools.product((item.value for item in DockerMethod), range(3)):
        for given in itertools.combinations(["secret_name", *CLOUD], count):
            yield {"base_image": {"image": "x", "docker_auth": {"auth_method": method, **dict.fromkeys(given, "x")}}}
    server = {"start_command": "s", "server_port": 1}
    server |= dict.fromkeys(("predict_endpoint", "readiness_endpoint", "liveness_endpoint"), "/")
    for name, value in itertools.product((*server, "run_as_user_id", "no_build"), VALUES):
        yield {"docker_server": {**server, name: value}}


def amounts() -> Iterator[Value]:
    numbers = ["1", "1.5Gi", "1e3", "1e3Mi", ".5Gi", "5.Gi", "1 Gi", "Ki", "1K", "1k", "1Ei", "inf", "nan", "-1", "+1"]
    numbers += ["1_000", "0x10", "1.2.3", "1.2.3Gi", "", "  1  ", "1Gi\n", "100m", "m", ".m", "1.5m", "1.2.3m", "-1m"]
    for text in numbers:
        yield {"resources": {"memory": text}}
        yield {"resources": {"cpu": text}}
        yield engine() | {"resources": {"accelerator": "H100", "memory": text}}
    for text in (
        "H100:1",
        "H100:02",
        " H100",
        "h100",
        "_B10",
        "B10",
        "H100:",
        "H100:1.0",
        ":2",
        "",
        "H100:-1",
        "H100: 2",
    ):
        yield {"resources": {"accelerator": text}}


def hardware() -> Iterator[Value]:
    accelerators = [*(item.value for item in AcceleratorName), None]
    for kind, name, stack in itertools.product(Quantisation, accelerators, ("v1", "v2", "bert", "encoder")):
        config = put(bases()[stack], ("trt_llm", "build", "quantization_type"), kind.value)
        yield config | {"resources": {"accelerator": name}}


def lookahead() -> Iterator[Value]:
    for window, ngram, verification in itertools.product((1, 2, 8, 300), (1, 2, 3, 9), (1, 3, 200)):
        for tokens in ({}, *({"num_draft_tokens": count} for count in (1, 2048, 2049))):
            sizes = {"lookahead_windows_size": window, "lookahead_ngram_size": ngram}
            sizes["lookahead_verification_set_size"] = verification
            yield engine(speculator={**LOOKAHEAD, **sizes, **tokens})


def ranks() -> Iterator[Value]:
    counts = itertools.product((1, 2, 4), (1, 2), (1, 2), (1, 2, 4), (-1, 1, 3), ("v1", "bert", "encoder"))
    for tensor, pipeline, sequence, gpus, experts, stack in counts:
        config = bases()[stack] | {"resources": {"accelerator": f"H100:{gpus}"}}
        parallel = {"tensor": tensor, "pipeline": pipeline, "sequence": sequence}
        for name, count in parallel.items():
            config = put(config, ("trt_llm", "build", f"{name}_parallel_count"), count)
        yield put(config, ("trt_llm", "build", "moe_expert_parallel_option"), experts)


def plugins() -> Iterator[Value]:
    names = ("paged_kv_cache", "use_paged_context_fmha", "use_fp8_context_fmha")
    for *switches, chunked, stack in itertools.product(*[(None, True, False)] * 4, bases()):
        given = {name: value for name, value in zip(names, switches, strict=True) if value is not None}
        config = put(bases()[stack], ("trt_llm", "build", "plugin_configuration"), given)
        if chunked is not None and stack != "v2":
            config = put(config, ("trt_llm", "runtime", "enable_chunked_context"), chunked)
        yield config


def names() -> Iterator[Value]:
    tags = ([], [TAGS[0]], [TAGS[1]], [*TAGS], TAGS[0], "x", None, 5, {}, {TAGS[0]: 1}, [1])
    for given, base in itertools.product(tags, bases().values()):
        yield base | {"model_metadata": {"tags": given}}
    repositories = ["a/b", "/x", "s3://a", "", "a b", "x" * 97, "a/" + "b" * 97, "a/b.git", "-a/b", "a-/b", "a/.b"]
    for source, name in itertools.product(Source, [*repositories, "a/b.", "A_b/c.d", "a..b/c"]):
        given = {"source": source.value, "repo": name}
        yield put(engine(), ("trt_llm", "build", "checkpoint_repository"), given)
        yield put(engine(), ("trt_llm", "build", "lora_adapters"), {"n": given})
