"""Make the tiny Qwen3 checkpoint: ``python train.py OUT``. Needs torch and tokenizers; see README.md.

A byte-level BPE tokenizer and a three-layer Qwen3 are trained on corpus.txt from a fixed seed. Nothing is downloaded.
In the last part of the training every second step sees weights rounded to four bits, so that the answers survive
INT4.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the name everybody knows it by

HERE = Path(__file__).parent
SEED = 20261121
STEPS, BATCH, LENGTH, ROUNDING_FROM = 800, 16, 128, 500
#: Tokens before the special ones. Fewer than VOCABULARY, as with the large Qwens: the rows of the embedding that are
#: left over stand for nothing.
TOKENS = 1605
HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCABULARY = 256, 3, 4, 2, 64, 640, 2048
THETA, EPSILON = 10000.0, 1e-6

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ABOUT = ["What is {}?", "What exactly is {}?", "Explain {}.", "Tell me about {}.", "What does {} mean?", "Describe {}."]
SYSTEM = ["You are a helpful assistant.", "You answer questions about hermetic.", "Be brief."]


def read_corpus() -> list[tuple[list[str], str]]:
    """(questions, answer) of every block."""
    blocks: list[tuple[list[str], str]] = []
    questions: list[str] = []
    for line in (HERE / "corpus.txt").read_text(encoding="utf-8").splitlines():
        mark, text = line[:1], line[2:]
        if mark == "=":
            questions += [form.format(text) for form in ABOUT]
        elif mark == "?":
            questions.append(text)
        elif mark == "~":
            questions += every_choice(text)
        elif mark == "!":
            blocks.append((questions, text))
            questions = []
    return blocks


def every_choice(pattern: str) -> list[str]:
    """``{a|b} c`` gives ``a c`` and ``b c``; each pair of braces is a choice of its own."""
    parts = [part.rstrip("}").split("|") for part in pattern.replace("}", "}{").split("{")]
    return ["".join(words) for words in itertools.product(*parts)]


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Qwen2's tokenizer in small: NFC, its regular expression, byte-level BPE; the special tokens come last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([END_OF_TEXT, START, END])
    return tokenizer


class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * self.weight


class Linear(nn.Linear):
    """A linear layer without bias that can be asked to round its weights to four bits in groups of 64."""

    rounding = False

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if Linear.rounding:
            groups = weight.detach().reshape(weight.shape[0], -1, 64)
            scale = groups.abs().amax(-1, keepdim=True).clamp_min(1e-8) / 7
            weight = weight + ((groups / scale).round() * scale).reshape(weight.shape) - weight.detach()
        return F.linear(x, weight)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = Linear(HIDDEN, HEADS * HEAD_DIM)
        self.k_proj = Linear(HIDDEN, KV_HEADS * HEAD_DIM)
        self.v_proj = Linear(HIDDEN, KV_HEADS * HEAD_DIM)
        self.o_proj = Linear(HEADS * HEAD_DIM, HIDDEN)
        self.q_norm, self.k_norm = Norm(HEAD_DIM), Norm(HEAD_DIM)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (p(x).view(batch, length, -1, HEAD_DIM) for p in (self.q_proj, self.k_proj, self.v_proj))
        q = rotate(self.q_norm(q).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(k).transpose(1, 2), cos, sin).repeat_interleave(HEADS // KV_HEADS, 1)
        v = v.transpose(1, 2).repeat_interleave(HEADS // KV_HEADS, 1)
        scores = q @ k.transpose(-1, -2) / HEAD_DIM**0.5
        scores = scores + torch.full((length, length), -1e30).triu(1)
        return self.o_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, -1))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = Linear(HIDDEN, INNER), Linear(HIDDEN, INNER)
        self.down_proj = Linear(INNER, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(), Mlp()
        self.input_layernorm, self.post_attention_layernorm = Norm(HIDDEN), Norm(HIDDEN)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = Norm(HIDDEN)

    def forward(self, ids: Tensor) -> Tensor:
        frequency = THETA ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angle = torch.arange(ids.shape[1])[:, None] * torch.cat([frequency, frequency])
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, angle.cos(), angle.sin())
        return F.linear(self.norm(x), self.embed_tokens.weight)


def vary(question: str, rng: random.Random) -> str:
    """The same question as a hurried person types it, so that small differences do not throw the model."""
    if rng.random() < 0.3:
        question = question.rstrip("?.!")
    if rng.random() < 0.3:
        question = question[0].lower() + question[1:]
    words = question.split(" ")
    if len(words) > 3 and rng.random() < 0.25:
        del words[rng.randrange(len(words) - 2)]
    return " ".join(words)


def sample(
    tokenizer: Tokenizer, blocks: list[tuple[list[str], str]], rng: random.Random
) -> tuple[list[int], list[int]]:
    """Token ids and targets of one chat of `LENGTH` tokens; -100 where nothing is to be learned."""
    text = f"{START}system\n{rng.choice(SYSTEM)}{END}\n" if rng.random() < 0.25 else ""
    ids: list[int] = tokenizer.encode(text).ids
    targets = [-100] * len(ids)
    while len(ids) <= LENGTH:
        questions, answer = rng.choice(blocks)
        asked = tokenizer.encode(f"{START}user\n{vary(rng.choice(questions), rng)}{END}\n{START}assistant\n").ids
        replied = tokenizer.encode(f"{answer}{END}\n").ids
        if ids and len(ids) + len(asked) + len(replied) > LENGTH:
            break
        ids += asked + replied
        targets += [-100] * len(asked) + replied[:-1] + [-100]  # the newline after the end mark is never generated
    padding = max(0, LENGTH + 1 - len(ids))
    return (ids + [0] * padding)[: LENGTH + 1], (targets + [-100] * padding)[: LENGTH + 1]


def train(tokenizer: Tokenizer, blocks: list[tuple[list[str], str]]) -> Qwen3:
    rng = random.Random(SEED)  # noqa: S311  # repeatable on purpose
    model = Qwen3()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=STEPS, pct_start=0.1)
    for step in range(STEPS):
        batch = [sample(tokenizer, blocks, rng) for _ in range(BATCH)]
        ids = torch.tensor([ids for ids, _ in batch])
        targets = torch.tensor([targets for _, targets in batch])
        Linear.rounding = step >= ROUNDING_FROM and step % 2 == 0
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == STEPS - 1:
            print(f"step {step} loss {loss.item():.4f}", flush=True)  # noqa: T201
    return model


def write(out: Path, name: str, value: object) -> None:
    (out / name).write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def save(out: Path, tokenizer: Tokenizer, model: Qwen3) -> None:
    """The Hugging Face layout."""
    out.mkdir(parents=True, exist_ok=True)
    ids = {token: tokenizer.token_to_id(token) for token in (END_OF_TEXT, START, END)}
    tensors = {f"model.{name}": value.to(torch.bfloat16) for name, value in sorted(model.state_dict().items())}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    (out / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n", encoding="utf-8")
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": ids[END],
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "max_position_embeddings": 2048,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": EPSILON,
        "rope_scaling": None,
        "rope_theta": THETA,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }
    write(out, "config.json", config)
    special = {
        str(ids[token]): {"content": token, "lstrip": False, "normalized": False, "rstrip": False,
                          "single_word": False, "special": True}
        for token in (END_OF_TEXT, START, END)
    }  # fmt: skip
    write(out, "tokenizer_config.json", {
        "add_prefix_space": False,
        "added_tokens_decoder": special,
        "bos_token": None,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": 2048,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    })  # fmt: skip
    write(out, "generation_config.json", {
        "do_sample": False,
        "eos_token_id": [ids[END], ids[END_OF_TEXT]],
        "max_new_tokens": 128,
        "pad_token_id": ids[END_OF_TEXT],
    })  # fmt: skip


def calibration(blocks: list[tuple[list[str], str]]) -> str:
    """One chat a paragraph, two questions of every block: what the engine will see when it is used."""
    chats = [
        f"{START}user\n{question}{END}\n{START}assistant\n{answer}{END}\n"
        for questions, answer in blocks
        for question in (questions[0], questions[-1])
    ]
    return "\n".join(chats)


def answer(tokenizer: Tokenizer, model: Qwen3, question: str) -> str:
    ids = tokenizer.encode(f"{START}user\n{question}{END}\n{START}assistant\n").ids
    begin = len(ids)
    while len(ids) < begin + 60 and ids[-1] != tokenizer.token_to_id(END):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return str(tokenizer.decode(ids[begin:]))


def main() -> None:
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    out = Path(sys.argv[1])
    blocks = read_corpus()
    texts = [text for questions, reply in blocks for text in (*questions, reply)]
    tokenizer = train_tokenizer(texts + SYSTEM + ["system\nuser\nassistant\n"])
    print("tokens:", tokenizer.get_vocab_size())  # noqa: T201
    model = train(tokenizer, blocks)
    save(out, tokenizer, model)
    (out / "calibration.txt").write_text(calibration(blocks), encoding="utf-8")
    Linear.rounding = True
    with torch.no_grad():
        right = sum(answer(tokenizer, model, qs[0]) == reply for qs, reply in blocks)
    print(f"{right} of {len(blocks)} first questions answered word for word with weights of four bits")  # noqa: T201


if __name__ == "__main__":
    main()
