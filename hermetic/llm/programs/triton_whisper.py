"""The Triton models of a Whisper engine: `whisper_bls`, which takes sound, and `tensorrt_llm` behind it.

Names, types and shapes are those of ``all_models/whisper`` and of ``all_models/inflight_batcher_llm/tensorrt_llm`` of
tensorrtllm_backend from 0.15 on (from 0.20 in TensorRT-LLM's ``triton_backend``), parameters as its docs/whisper.md
fills them in. Standard library only.
"""

from __future__ import annotations

from dataclasses import replace

from triton_config import Model, Tensor
from triton_tensorrt_llm import Backend, engine_model

FIRST = "0.15"
NAME = "whisper_bls"
#: Of an encoder's dtype: that of ``encoder_input_features``, as far as NumPy has it.
FEATURES = {"float16": "FP16", "float32": "FP32"}
#: The file that is ``1/model.py``, and those beside it.
CODE = "triton_whisper_model.py"
MODULES = ("whisper_sound.py", "whisper_words.py")


def models(backend: Backend, encoder: str, features: str, parameters: dict[str, str]) -> tuple[Model, Model]:
    """`encoder` is the folder of that engine, `features` the type of its input, `parameters` are those of `NAME`."""
    return _whisper(backend, parameters), _behind(engine_model(backend), encoder, features)


def _whisper(backend: Backend, parameters: dict[str, str]) -> Model:
    return Model(
        name=NAME,
        backend="python",
        max_batch_size=backend.max_batch_size,
        inputs=(
            Tensor("TEXT_PREFIX", "STRING", (1,)),
            Tensor("WAV", "FP32", (-1,)),
            Tensor("WAV_LENS", "INT32", (1,), optional=True),
        ),
        outputs=(Tensor("TRANSCRIPTS", "STRING", (1,)),),
        parameters=parameters,
    )


def _behind(model: Model, encoder: str, features: str) -> Model:
    """The engine's model, which may be asked with sound in place of tokens."""
    sound = (
        Tensor("encoder_input_features", features, (-1, -1), optional=True, ragged=True),
        Tensor("encoder_output_lengths", "INT32", (1,), optional=True, scalar=True),
        Tensor("decoder_input_ids", "INT32", (-1,), optional=True, ragged=True),
        Tensor("decoder_input_lengths", "INT32", (1,), optional=True, scalar=True),
    )
    inputs = (replace(tensor, optional=tensor.optional or tensor.name == "input_ids") for tensor in model.inputs)
    parameters = {**model.parameters, "encoder_model_path": encoder}
    return replace(model, inputs=(*inputs, *sound), parameters=parameters)
