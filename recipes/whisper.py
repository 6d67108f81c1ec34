"""Whisper large-v3 for TensorRT-LLM with eight-bit weights, for one H100: an encoder and a decoder, tested and served.

$ hermetic plan recipes/whisper.py --commands            what would run, offline
$ hermetic realise recipes/whisper.py                    the Triton repository and all it needs, needs an NVIDIA H100
$ hermetic run 'recipes/whisper.py#engine' speech.wav    a transcript

TensorRT-LLM's script takes OpenAI's own file and not the Hub's layout. Its address has its sha256 in it, and the lock
file cites that. Options are those of the examples of TensorRT-LLM (examples/models/core/whisper): thirty seconds of
sound are 3000 frames for the encoder; the decoder begins with 14 tokens at most and writes 100. The test hears two
sentences of Kennedy's inaugural address of 1961. What is said in other languages: ``--set language=de``.
"""

from hermetic import Gpu, Image, param, remote
from hermetic.llm import tensorrt_llm
from hermetic.llm.triton import triton_repository
from hermetic.llm.whisper import ConvertWhisper, Half, Manifest, Whisper, WhisperSmoke

RELEASE = "1.2.1"  # the last stable TensorRT-LLM that builds engines

image = Image(
    param(
        "image",
        f"nvcr.io/nvidia/tensorrt-llm/release:{RELEASE}"
        "@sha256:33cd085b772947bd22b7273886539331420404e5d2a4a039945241945ff927b9",
    )
)
product = param("gpu", "NVIDIA H100 80GB HBM3", help="what builds it, and so what serves it; or none")
gpu = None if product == "none" else Gpu(product)
max_batch_size = param("max_batch_size", 8)
max_beam_width = param("max_beam_width", 4)
frames = 3000

weights = remote(
    param(
        "weights",
        "https://openaipublic.azureedge.net/main/whisper/models/"
        "e5b1a55b89c1367dacf97e3e19bfd829a01529dbfdeefa8caeb59b3f1b81dadb/large-v3.pt",
    )
)

checkpoints = ConvertWhisper(
    environment=image, gpu=gpu, release=RELEASE, weights=weights, model="large-v3", weight_only="int8"
)
encoder_weights = Half(checkpoint=checkpoints, half="encoder")
decoder_weights = Half(checkpoint=checkpoints, half="decoder")

encoder = tensorrt_llm.Engine(
    environment=image,
    gpu=gpu,
    release=RELEASE,
    checkpoint=encoder_weights,
    quantisation="W8A16",
    options={
        "moe_plugin": "disable",
        "gemm_plugin": "disable",
        "bert_attention_plugin": "float16",
        "max_batch_size": max_batch_size,
        "max_input_len": frames,
        "max_seq_len": frames,
    },
)
decoder = tensorrt_llm.Engine(
    environment=image,
    gpu=gpu,
    release=RELEASE,
    checkpoint=decoder_weights,
    quantisation="W8A16",
    options={
        "moe_plugin": "disable",
        "gemm_plugin": "float16",
        "bert_attention_plugin": "float16",
        "gpt_attention_plugin": "float16",
        "max_batch_size": max_batch_size,
        "max_beam_width": max_beam_width,
        "max_input_len": 14,
        "max_seq_len": 114,
        "max_encoder_input_len": frames,
    },
)

vocabulary = remote(
    param(
        "vocabulary",
        "https://raw.githubusercontent.com/openai/whisper/c0d2f624c09dc18e709e37c2ad90c039a4eb72a2/"
        "whisper/assets/multilingual.tiktoken",
    )
)
engine = Whisper(encoder=encoder, decoder=decoder, vocabulary=vocabulary, language=param("language", "en"))

speech = remote(
    param(
        "speech",
        "https://raw.githubusercontent.com/ggml-org/whisper.cpp/233fe1fc9b48a09e361d3594520838ca266537fe/"
        "samples/jfk.wav",
    )
)
smoke = WhisperSmoke(
    engine=engine,
    sound=speech,
    transcript=param(
        "transcript",
        "And so, my fellow Americans: ask not what your country can do for you, ask what you can do for your country.",
    ),
    tolerance="0.2",
)
manifest = Manifest(engine=engine, smoke=smoke)
repository = triton_repository(engine, manifest=manifest)

default = repository
