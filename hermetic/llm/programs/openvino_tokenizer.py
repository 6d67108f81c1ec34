"""``tokenizer.json`` as OpenVINO graphs, without transformers.

openvino_tokenizers converts the fast tokenizers of transformers and asks one for little more than its
``tokenizer.json``. A stand-in gives it that. This leans on names inside openvino_tokenizers, so the lock pins it, and
`compare` checks the result against the tokenizers library on text of many kinds.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import openvino as ov
from openvino_names import settle_names
from stage_file import Refused
from tokenizers import AddedToken, Tokenizer

#: Text on which tokenizers have gone wrong: spaces, line ends, digits, accents in two forms, scripts, emoji, marks.
TEXTS = (
    "Hello, world!",
    "  two  spaces,\ta tab,\n\na blank line and \r\n a Windows one ",
    "Numbers: 0 7 42 1234567890 3.14159 1e-9 0x1F, dates 2026-11-21",
    "It's, we'll, they've; CAPS and CamelCase and snake_case",
    "def f(x: int) -> int:\n    return x ** 2  # squared\n",
    "e\u0301 is not \u00e9; \ufb01 and \u2126 and \u212b",  # decomposed, and signs that NFC replaces or keeps
    "Ça coûte 5 €; naïve Übergröße, þorn, łódź",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم",  # noqa: RUF001
    "你好，世界！こんにちは世界。안녕하세요 세계",  # noqa: RUF001
    "हिन्दी में लिखा हुआ वाक्य। ภาษาไทย",
    "emoji 😀👍🏽👩‍👩‍👧 and ☃ ✓ ½ ²",
    "zero\u200bwidth, no\u00a0break, \u2028 separator, \ufeff mark",
    '{"json": [1, 2.5, null], "path": "C:\\\\temp\\\\x"}',
    "https://example.org/a?b=c&d=%20#e",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa !!!!!!!!!!!! ------------",
    " ",
)


class _Base:
    """Stands for transformers.PreTrainedTokenizerBase."""


class _StandIn(_Base):
    """What openvino_tokenizers asks of a fast tokenizer. Lengths are the engine's matter: nothing is cut off."""

    is_fast = True
    model_max_length = None
    padding_side = "left"
    truncation_side = "right"
    clean_up_tokenization_spaces = False
    model_input_names = ("input_ids", "attention_mask")
    unk_token = None
    unk_token_id = None

    def __init__(self, path: Path, pad: tuple[str, int]) -> None:
        self._path = path
        self.pad_token, self.pad_token_id = pad
        self.tokenizer_library = Tokenizer.from_file(str(path))

    def save_pretrained(self, folder: str) -> None:
        shutil.copyfile(self._path, Path(folder) / "tokenizer.json")

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return dict(sorted(self.tokenizer_library.get_added_tokens_decoder().items()))

    def get_vocab(self) -> dict[str, int]:
        return dict(self.tokenizer_library.get_vocab())


def _stand_in_for_transformers() -> None:
    def unavailable(*_: object) -> None:
        raise ImportError("there is no transformers here")

    def satisfied(_: str) -> None:
        """Any version: the behaviour of the newest transformers is wanted, and it is that of tokenizers."""

    parts: dict[str, dict[str, object]] = {
        "transformers": {"PreTrainedTokenizerBase": _Base, "PreTrainedTokenizerFast": _StandIn},
        "transformers.convert_slow_tokenizer": {"import_protobuf": unavailable},
        "transformers.utils": {},
        "transformers.utils.versions": {"require_version": satisfied},
    }
    for name, members in parts.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        sys.modules[name] = module


def convert(path: Path, pad: tuple[str, int], info: dict[str, str | int]) -> tuple[ov.Model, ov.Model]:
    """The tokenizer and the detokenizer of the ``tokenizer.json`` at `path`.

    `pad` is the padding token and its id; `info` is attached to both graphs as runtime information. Raises `Refused`
    when a part of the tokenizer has no counterpart.
    """
    _stand_in_for_transformers()
    from openvino.exceptions import OVTypeError  # noqa: PLC0415  # after the stand-in
    from openvino_tokenizers.hf_parser import convert_fast_tokenizer  # noqa: PLC0415
    from openvino_tokenizers.utils import (  # noqa: PLC0415
        TokenzierConversionParams,
        change_inputs_type,
        change_outputs_type,
    )

    try:
        made = convert_fast_tokenizer(_StandIn(path, pad), TokenzierConversionParams(with_detokenizer=True))
    except OVTypeError as error:
        raise Refused(f"tokenizer.json cannot be turned into an OpenVINO graph: {error}") from None
    tokenizer, detokenizer = change_outputs_type(made[0], ov.Type.i64), change_inputs_type(made[1], ov.Type.i64)
    for model in (tokenizer, detokenizer):
        settle_names(model)
        for key, value in info.items():
            model.set_rt_info(value, key)
    return tokenizer, detokenizer


def compare(path: Path, folder: Path) -> int:
    """Run both graphs in `folder` against the tokenizers library on `TEXTS`; the number of texts.

    Raises `Refused` on the first text for which either differs.
    """
    import openvino_tokenizers  # noqa: F401, PLC0415  # teaches OpenVINO the tokenizer operations

    core, library = ov.Core(), Tokenizer.from_file(str(path))
    tokenizer = core.compile_model(str(folder / "openvino_tokenizer.xml"), "CPU")
    detokenizer = core.compile_model(str(folder / "openvino_detokenizer.xml"), "CPU")
    for text in TEXTS:
        expected = library.encode(text).ids
        found: list[int] = tokenizer([text])["input_ids"][0].tolist()
        if found != expected:
            raise Refused(f"the OpenVINO tokenizer differs on {text!r}: {found} instead of {expected}")
        said = str(_only(detokenizer(np.array([expected], dtype=np.int64))))
        if said != library.decode(expected):
            raise Refused(f"the OpenVINO detokenizer differs: {said!r} instead of {library.decode(expected)!r}")
    return len(TEXTS)


def _only(result: Any) -> Any:
    return np.asarray(result[0]).reshape(-1)[0]
