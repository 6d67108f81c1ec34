"""The decoder in PyTorch: what is exported and compiled, and, run eagerly, what the compiled engine is compared with.

One call is one prompt of any length, without a KV cache: the engine computes all of its positions anew for each token.
"""

from __future__ import annotations

from typing import Any

import torch
from architecture import Architecture
from safetensors_file import Tensor
from torch.nn import functional

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class Decoder(torch.nn.Module):  # type: ignore[misc]  # torch is not installed where this is checked
    """tokens int64 [1, length] -> logits [1, length, vocabulary], of the type of the weights."""

    def __init__(self, architecture: Architecture, tensors: dict[str, Tensor], dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self.architecture = architecture
        self.names = {name: name.replace(".", "_") for name in tensors}
        for name, tensor in tensors.items():
            value = torch.from_numpy(tensor.float32()).to(dtype).to(device)
            self.register_parameter(self.names[name], torch.nn.Parameter(value, requires_grad=False))
        frequencies = torch.from_numpy(architecture.frequencies()).to(torch.float32).to(device)
        self.register_buffer("frequencies", frequencies)

    def weight(self, name: str) -> torch.Tensor:
        found: torch.Tensor = getattr(self, self.names[name])
        return found

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = functional.embedding(tokens, self.weight("model.embed_tokens.weight"))
        positions = torch.arange(tokens.shape[1], device=tokens.device, dtype=torch.float32)
        angles = positions[:, None] * self.frequencies[None, :]
        turn = (torch.cos(angles), torch.sin(angles))
        for index in range(self.architecture.layers):
            x = self._layer(f"model.layers.{index}", x, turn)
        x = self._norm(x, "model.norm.weight")
        return functional.linear(x, self.weight(self.architecture.head_name))

    def _layer(self, name: str, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x = x + self._attention(f"{name}.self_attn", self._norm(x, f"{name}.input_layernorm.weight"), turn)
        normed = self._norm(x, f"{name}.post_attention_layernorm.weight")
        gate = functional.silu(functional.linear(normed, self.weight(f"{name}.mlp.gate_proj.weight")))
        inner = gate * functional.linear(normed, self.weight(f"{name}.mlp.up_proj.weight"))
        return x + functional.linear(inner, self.weight(f"{name}.mlp.down_proj.weight"))

    def _attention(self, name: str, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        architecture, (batch, length, _) = self.architecture, x.shape

        def heads(which: str) -> torch.Tensor:
            bias = self.weight(f"{name}.{which}_proj.bias") if architecture.qkv_bias else None
            product = functional.linear(x, self.weight(f"{name}.{which}_proj.weight"), bias)
            split = product.reshape(batch, length, -1, architecture.head_dim)
            if architecture.qk_norm and which != "v":
                split = self._norm(split, f"{name}.{which}_norm.weight")
            turned = split if which == "v" else _rotate(split, *turn)
            share = 1 if which == "q" else architecture.heads // architecture.kv_heads
            return turned.repeat_interleave(share, dim=2).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(heads("q"), heads("k"), heads("v"), is_causal=True)
        return functional.linear(mixed.transpose(1, 2).reshape(batch, length, -1), self.weight(f"{name}.o_proj.weight"))

    def _norm(self, x: torch.Tensor, scale: str) -> torch.Tensor:
        wide = x.to(torch.float32)
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.architecture.epsilon)
        return normed.to(x.dtype) * self.weight(scale)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions of x [batch, length, heads, size]; cos and sin are [length, size / 2]."""
    cos, sin = cos[None, :, None, :].to(x.dtype), sin[None, :, None, :].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def exact() -> None:
    """No TF32 and no reduced sums: what is compiled and what it is compared with compute in the type they say."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def exported(decoder: Decoder, longest: int, device: str) -> Any:
    """The decoder as `torch.export` sees it, for prompts of 2 to `longest` tokens."""
    example = torch.arange(8, dtype=torch.int64, device=device)[None]
    length = torch.export.Dim("length", min=2, max=longest)
    with torch.no_grad():
        return torch.export.export(decoder, (example,), dynamic_shapes={"tokens": {1: length}})
