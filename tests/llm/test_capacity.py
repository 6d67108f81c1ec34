"""Memory from a config.json alone. The totals were counted once by the transformers library (5.5.4, meta device)."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.llm.capacity import Serving, estimate, read_shape

CONFIGS = json.loads((Path(__file__).parent / "capacity_configs.json").read_text())
COUNTED = {
    "qwen3-32b": 32_762_123_264,
    "qwen3-0.6b": 596_049_920,
    "qwen2-7b": 7_615_616_512,
    "llama-3.1-8b": 8_030_261_248,
    "mistral-7b": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-moe": 30_532_122_624,
    "deepseek-v3": 671_026_404_352 + 14_848,  # its routers' corrections are buffers, and in the file
    "deepseek-v2-lite": 15_706_484_224,
    "whisper-large-v3": 1_543_490_560,
}
GIB = 1 << 30


@pytest.mark.parametrize("name", COUNTED)
def test_every_weight_is_counted(name: str) -> None:
    assert read_shape(CONFIGS[name]).parameters == COUNTED[name]


class TestCache:
    def test_grouped_queries(self) -> None:
        shape = read_shape(CONFIGS["qwen3-32b"])  # 64 layers, 8 pairs of 128
        assert estimate(shape, Serving(device_bytes=80 * GIB)).cache_per_token == 64 * 2 * 8 * 128 * 2
        assert estimate(shape, Serving(cache="fp8", device_bytes=80 * GIB)).cache_per_token == 64 * 2 * 8 * 128

    def test_latent_attention_is_on_every_device(self) -> None:
        shape = read_shape(CONFIGS["deepseek-v3"])
        alone, shared = (estimate(shape, Serving(max_seq_len=1000, tp=tp)).cache_needed for tp in (1, 8))
        assert alone == shared == 1000 * 61 * (512 + 64) * 2

    def test_heads_are_repeated_where_devices_are_more(self) -> None:
        shape = read_shape(CONFIGS["qwen2-7b"])  # 4 pairs
        needed = [estimate(shape, Serving(max_seq_len=100, tp=tp)).cache_needed for tp in (1, 4, 8)]
        assert needed[0] == 4 * needed[1] == 4 * needed[2]

    def test_an_encoder_s_frames_are_there_once_a_request(self) -> None:
        shape = read_shape(CONFIGS["whisper-large-v3"])
        needed = estimate(shape, Serving(max_batch_size=2, max_seq_len=448)).cache_needed
        assert needed == 2 * (448 + 1500) * 32 * 2 * 1280 * 2


class TestFits:
    def test_the_guide_s_model_on_its_card(self) -> None:
        """Qwen3-32B in W4A8 on a 32 GB RTX 5090: it fits, and a quarter for the cache is there."""
        shape = read_shape(CONFIGS["qwen3-32b"])
        serving = Serving(
            weights="w4a8_awq",
            cache="fp8",
            max_batch_size=4,
            max_seq_len=5120,
            max_num_tokens=4096,
            device_bytes=32 * GIB,
        )
        found = estimate(shape, serving)
        assert 17 * GIB < found.weights < 19 * GIB
        assert found.fits
        assert found.cache_share > Fraction(1, 4)
        assert found.cache_needed == 4 * 5120 * 131_072 < found.cache_left
        assert found.cache_tokens > 4 * 5120

    def test_in_16_bits_it_does_not(self) -> None:
        shape = read_shape(CONFIGS["qwen3-32b"])
        found = estimate(shape, Serving(device_bytes=32 * GIB))
        assert (found.fits, found.cache_share, found.cache_tokens) == (False, 0, 0)
        assert found.cache_left < 0

    def test_two_devices_share_the_weights(self) -> None:
        shape = read_shape(CONFIGS["llama-3.1-8b"])
        one, two, stages = (estimate(shape, Serving(tp=tp, pp=pp)).weights for tp, pp in ((1, 1), (2, 1), (1, 2)))
        assert two == one / 2
        assert two < stages < one  # each stage holds a whole table


class TestRefusals:
    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            ({}, "unknown-architecture"),
            ({"architectures": ["GPT2LMHeadModel"]}, "unknown-architecture"),
            ({"architectures": ["LlamaForCausalLM"], "hidden_size": 64}, "config-incomplete"),
            (CONFIGS["llama-3.1-8b"] | {"hidden_size": "4096"}, "config-invalid"),
            (CONFIGS["llama-3.1-8b"] | {"num_hidden_layers": -1}, "config-invalid"),
        ],
    )
    def test_configs(self, config, reason: str) -> None:
        with pytest.raises(HermeticError) as caught:
            read_shape(config)
        assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, reason)

    @pytest.mark.parametrize(
        ("serving", "reason"),
        [
            (Serving(weights="int3"), "unknown-format"),
            (Serving(cache="int4"), "unknown-format"),
            (Serving(tp=3), "indivisible"),
        ],
    )
    def test_servings(self, serving: Serving, reason: str) -> None:
        with pytest.raises(HermeticError) as caught:
            estimate(read_shape(CONFIGS["llama-3.1-8b"]), serving)
        assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, reason)
