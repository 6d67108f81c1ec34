"""The Triton models of an engine of the kind `openvino`. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping

from triton_config import Model, Step, Tensor
from triton_tensors import LOG_PROBS, OPENVINO, SETTINGS, TIMES, TOKENS, bls_of

_SETTINGS = tuple(setting for setting in SETTINGS if setting.name in OPENVINO)


def models(parameters: Mapping[str, str], tokenizer: str, *, bls: bool = False) -> tuple[Model, ...]:
    """All of the repository. `parameters` are those of the model `tensorrt_llm`, `tokenizer` is its folder.

    A batch is one request here (`max_batch_size` 1), so that tensors have the batch dimension that they have with
    TensorRT-LLM; requests are batched by the engine itself, which takes them one by one.
    """
    found = (_preprocessing(tokenizer), _engine(parameters), _postprocessing(tokenizer), _ensemble())
    return (*found, bls_of(found[-1])) if bls else found


def _preprocessing(tokenizer: str) -> Model:
    return Model(
        name="preprocessing",
        backend="python",
        max_batch_size=1,
        inputs=(Tensor("QUERY", "STRING", (1,)), Tensor("REQUEST_OUTPUT_LEN", "INT32", (1,))),
        outputs=(
            Tensor("INPUT_ID", "INT32", (-1,)),
            Tensor("REQUEST_INPUT_LEN", "INT32", (1,)),
            Tensor("REQUEST_OUTPUT_LEN", "INT32", (1,)),
        ),
        parameters={"tokenizer_dir": tokenizer},
    )


def _engine(parameters: Mapping[str, str]) -> Model:
    required = (Tensor("input_ids", "INT32", (-1,)), *(Tensor(name, "INT32", (1,)) for name in _LENGTHS))
    optional = tuple(Tensor(setting.inner, setting.type, _dims(setting.name), optional=True) for setting in _SETTINGS)
    return Model(
        name="tensorrt_llm",
        backend="python",
        max_batch_size=1,
        decoupled=True,
        inputs=(*required, *optional, Tensor("stop", "BOOL", (1,), optional=True)),
        outputs=(*TOKENS, LOG_PROBS, *TIMES),
        parameters=parameters,
    )


_LENGTHS = ("input_lengths", "request_output_len")


def _dims(setting: str) -> tuple[int, ...]:
    return (-1,) if setting == "end_id" else (1,)  # any of several may end an answer


def _postprocessing(tokenizer: str) -> Model:
    return Model(
        name="postprocessing",
        backend="python",
        max_batch_size=1,
        inputs=(Tensor("TOKENS_BATCH", "INT32", (-1, -1)), Tensor("SEQUENCE_LENGTH", "INT32", (-1,))),
        outputs=(Tensor("OUTPUT", "STRING", (-1,)),),
        parameters={"tokenizer_dir": tokenizer, "skip_special_tokens": "true"},
    )


def _ensemble() -> Model:
    required = (Tensor("text_input", "STRING", (1,)), Tensor("max_tokens", "INT32", (1,)))
    optional = tuple(Tensor(setting.name, setting.type, _dims(setting.name), optional=True) for setting in _SETTINGS)
    passed = {tensor.name: tensor.name for tensor in (LOG_PROBS, *TIMES)}
    return Model(
        name="ensemble",
        max_batch_size=1,
        decoupled=True,
        inputs=(*required, *optional),
        outputs=(Tensor("text_output", "STRING", (-1,)), LOG_PROBS, *TIMES),
        steps=(
            Step(
                "preprocessing",
                {"QUERY": "text_input", "REQUEST_OUTPUT_LEN": "max_tokens"},
                {"INPUT_ID": "_INPUT_ID", "REQUEST_INPUT_LEN": "_INPUT_LEN", "REQUEST_OUTPUT_LEN": "_OUTPUT_LEN"},
            ),
            Step(
                "tensorrt_llm",
                {"input_ids": "_INPUT_ID", "input_lengths": "_INPUT_LEN", "request_output_len": "_OUTPUT_LEN"}
                | {setting.inner: setting.name for setting in _SETTINGS},
                {"output_ids": "_TOKENS", "sequence_length": "_LENGTH"} | passed,
            ),
            Step(
                "postprocessing", {"TOKENS_BATCH": "_TOKENS", "SEQUENCE_LENGTH": "_LENGTH"}, {"OUTPUT": "text_output"}
            ),
        ),
    )
