"""Tokens to text, stop strings, thinking and tool calls: the same however a stream is cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hermetic.errors import Domain, HermeticError
from hermetic.serve.openai.choice import Choice
from hermetic.serve.openai.detokenise import ByteTokens, WindowTokens, byte_alphabet
from hermetic.serve.openai.parts import Call, Content, Part, Parts, Reasoning
from hermetic.serve.openai.stops import StopStrings
from hermetic.serve.openai.tokenizer import Text

#: One token for each byte, then two special ones.
END = 256
TEXT = (
    "<think>\nWhat? – ё 日本 👩‍🚀\n</think>\n\nLet me <look>.\n"
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>\n'
    "<tool_call>no JSON</tool_call> and <b>the</b> end🎉 <tool_cal"
)


def write(folder: Path, tokenizer: Any, **config: Any) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    vocabulary = dict(byte_alphabet())
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>", "<pad>"])
    return Text(str(write(tmp_path_factory.mktemp("bytes"), tokenizer, eos_token="<end>")))


def joined(parts: Sequence[Part]) -> list[Part]:
    """Neighbours of one kind are one part."""
    found: list[Part] = []
    for part in parts:
        if found and not isinstance(part, Call) and type(found[-1]) is type(part):
            found[-1] = type(part)(found[-1].text + part.text)  # type: ignore[union-attr]  # no call
        else:
            found.append(part)
    return found


def said(text: Text, chunks: Sequence[Sequence[int]], stops: Sequence[str], **way: bool) -> tuple[list[Part], str]:
    choice = Choice(text, Parts(**way), stops, 10_000)
    parts = []
    for ids in chunks:
        if choice.finished is None:
            parts += choice.feed(ids)
    parts += choice.end()
    assert choice.finished is not None
    return joined(parts), choice.finished


def cut(data: Sequence[int], places: Sequence[int]) -> list[Sequence[int]]:
    bounds = [0, *sorted(places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


def test_what_is_in_it(text: Text) -> None:
    parts, finished = said(text, [list(TEXT.encode())], (), thinking=True, calls=True)
    assert parts == [
        Reasoning("What? – ё 日本 👩‍🚀\n"),
        Content("Let me <look>.\n"),
        Call("weather", '{"city": "Zürich"}'),
        Content("<tool_call>no JSON</tool_call> and <b>the</b> end🎉 <tool_cal"),
    ]
    assert finished == "tool_calls"


def test_cut_at_every_byte(text: Text) -> None:
    ids = list(TEXT.encode())
    whole = said(text, [ids], (), thinking=True, calls=True)
    assert said(text, [[one] for one in ids], (), thinking=True, calls=True) == whole
    for place in range(len(ids) + 1):
        assert said(text, [ids[:place], ids[place:]], (), thinking=True, calls=True) == whole


ways = st.fixed_dictionaries({name: st.booleans() for name in ("thinking", "inside", "calls", "forced")})
words = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            '{"name":"f"}',
            "\n",
            " ",
            "<",
            "é",
            "👩",
            "ab",
            "abc",
            "b",
        ]
    )
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@settings(max_examples=400, deadline=None)
@given(
    data=words.map(lambda one: one.encode("utf-8", "surrogatepass")) | st.binary(max_size=30),
    places=st.lists(st.integers(0, 40), max_size=20),
    stops=st.lists(st.sampled_from(["ab", "abc", "b<", "</think>", "é", "\n "]), max_size=3),
    way=ways,
    ended=st.booleans(),
)
def test_any_cut_says_the_same(
    text: Text, data: bytes, places: list[int], stops: list[str], way: dict[str, bool], ended: bool
) -> None:
    """Detokeniser, stop strings, thinking and calls in a row; bytes that are no UTF-8 too."""
    ids = [*data, *([END] if ended else [])]
    whole = said(text, [ids], stops, **way)
    assert said(text, cut(ids, [place for place in places if place <= len(ids)]), stops, **way) == whole
    assert said(text, [[one] for one in ids], stops, **way) == whole


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=40), places=st.lists(st.integers(0, 40), max_size=20))
def test_the_text_is_the_tokenizer_s_own(text: Text, data: bytes, places: list[int]) -> None:
    pieces = cut(list(data), [place for place in places if place <= len(data)])
    detokeniser = text.detokeniser()
    found = "".join([detokeniser.feed(ids) for ids in pieces]) + detokeniser.end()
    assert found == text._tokenizer.decode(list(data))


def test_no_half_character_is_shown(text: Text) -> None:
    detokeniser = text.detokeniser()
    shown = [detokeniser.feed([byte]) for byte in "a👩b".encode()]
    assert shown == ["a", "", "", "", "👩", "b"]
    assert detokeniser.end() == ""


SENTENCE = {"▁a": 0, "b": 1, "▁c": 2, "<0xF0>": 3, "<0x9F>": 4, "<0x91>": 5, "<0xA9>": 6, "▁": 7, "<unk>": 8}


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Text:
    """In the manner of SentencePiece: spaces are marks, unknown characters are bytes, the first space goes."""
    tokenizer = Tokenizer(models.BPE(SENTENCE, [], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return Text(str(write(tmp_path_factory.mktemp("sentence"), tokenizer)))


@pytest.fixture(scope="module")
def metaspace(tmp_path_factory: pytest.TempPathFactory) -> Text:
    tokenizer = Tokenizer(models.WordLevel({"▁a": 0, "b": 1, "▁": 2, "<s>": 3, "▁c": 4, "<unk>": 5}, "<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>"])
    return Text(str(write(tmp_path_factory.mktemp("metaspace"), tokenizer)))


@settings(max_examples=200, deadline=None)
@given(
    ids=st.lists(st.sampled_from([[0], [1], [2], [7], [3, 4, 5, 6]]), max_size=12).map(lambda some: list(chain(*some))),
    places=st.lists(st.integers(0, 40), max_size=10),
)
def test_tokens_with_bytes_among_them(sentence: Text, ids: list[int], places: list[int]) -> None:
    pieces = cut(ids, [place for place in places if place <= len(ids)])
    detokeniser = sentence.detokeniser()
    assert isinstance(detokeniser, ByteTokens)
    found = "".join([detokeniser.feed(one) for one in pieces]) + detokeniser.end()
    assert found == sentence._tokenizer.decode(ids)


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 4), max_size=12), places=st.lists(st.integers(0, 12), max_size=10))
def test_tokens_that_depend_on_those_before(metaspace: Text, ids: list[int], places: list[int]) -> None:
    detokeniser = metaspace.detokeniser()
    assert isinstance(detokeniser, WindowTokens)
    pieces = cut(ids, [place for place in places if place <= len(ids)])
    found = "".join([detokeniser.feed(one) for one in pieces]) + detokeniser.end()
    assert found == metaspace._tokenizer.decode(ids)


def test_bytes_that_become_no_character_do_not_pile_up(sentence: Text) -> None:
    decoded: list[int] = []

    def decode(ids: list[int]) -> str:
        decoded.append(len(ids))
        return str(sentence._tokenizer.decode(ids))

    detokeniser = WindowTokens(decode)
    shown = "".join([detokeniser.feed([3]) for _ in range(200)]) + detokeniser.end()
    assert shown.count("�") == 200
    assert max(decoded) < 10


def test_the_work_for_a_token_does_not_grow() -> None:
    """What is remembered of ten thousand tokens is not more than of ten."""
    detokeniser = ByteTokens([b"a"])
    for _ in range(10_000):
        assert detokeniser.feed([0]) == "a"
    assert detokeniser._decoder.getstate() == (b"", 0)


@pytest.mark.parametrize(
    ("stops", "fed", "shown"),
    [
        (["stop"], ["a st", "op b"], "a "),
        (["stop"], ["a st", "ay"], "a stay"),
        (["abcd", "bc"], ["a", "b", "c", "d"], "a"),
        (["aab"], ["aaa", "ab"], "aa"),
        ([], ["a"], "a"),
    ],
)
def test_stop_strings(stops: list[str], fed: list[str], shown: str) -> None:
    found = StopStrings(stops)
    assert "".join([found.feed(one) for one in fed]) + found.end() == shown


def test_an_answer_that_must_be_a_call() -> None:
    parts = Parts(forced=True)
    assert parts.feed('{"name": "f", "argu') == []
    parts.feed('ments": {"a": 1}}')
    assert parts.end() == [Call("f", '{"a": 1}')]


def test_thinking_that_the_prompt_began() -> None:
    parts = Parts(thinking=True, inside=True)
    assert joined([*parts.feed("hm"), *parts.feed("</thi"), *parts.feed("nk>\n\nyes"), *parts.end()]) == [
        Reasoning("hm"),
        Content("yes"),
    ]


def test_special_tokens_are_not_shown(text: Text) -> None:
    assert said(text, [[*b"a", 257, *b"b", END, *b"c"]], ()) == ([Content("ab")], "stop")
    assert text.ends == (END,)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(HermeticError) as caught:
        Text(str(tmp_path))
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "tokenizer-unusable")
