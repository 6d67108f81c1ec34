"""Command lines of TensorRT-LLM's tools, checked against the version that would run them, and put right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hermetic.llm.findings import Finding, Severity
from hermetic.llm.trtllm.options import Option, Table, Value

__all__ = ["Parsed", "check_values", "parse"]


@dataclass
class Parsed:
    """`values` by canonical option name, what was found, and the `corrected` command line where one can be given."""

    values: dict[str, Value] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    corrected: list[str] = field(default_factory=list)


def parse(words: Sequence[str], table: Table) -> Parsed:
    """Check the words that follow the tool's name. Never raises for what they say."""
    parsed = Parsed()
    for spelling, given in _grouped(words):
        _one(spelling, given, table, parsed)
    _add_lengths(words, parsed, table)
    return parsed


def check_values(given: Mapping[str, Value], table: Table) -> Parsed:
    """Check options that a recipe gives by name, with or without dashes, in either spelling."""
    parsed = Parsed()
    for name, value in given.items():
        spelling = "--" + name.lstrip("-").replace("-", "_")
        words = [str(one) for one in value] if isinstance(value, list) else value
        _one(spelling, words, table, parsed)
    return parsed


def _grouped(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option with the words up to the next one."""
    spelling, given = "", list[str]()
    for word in words:
        if word.startswith("-") and not word.lstrip("-").isdigit():
            if spelling or given:
                yield spelling, given
            spelling, mark, value = word.partition("=")
            given = [value] if mark else []
        else:
            given.append(word)
    if spelling or given:
        yield spelling, given


def _one(spelling: str, given: list[str] | Value, table: Table, parsed: Parsed) -> None:
    option = table.find(spelling)
    if option is None:
        option = _misspelt(spelling, given, table, parsed)
    elif option.presence == "no":
        instead = f"use {option.instead}" if option.instead else ""
        parsed.findings.append(_error("option-not-in-version", spelling, _absent(spelling, table), instead))
        parsed.corrected += option.instead.split() if option.instead.startswith("--") else []
        return
    if option is None:
        return
    parsed.findings += _doubts(spelling, option, table)
    _value(option, spelling, given, parsed)


def _misspelt(spelling: str, given: list[str] | Value, table: Table, parsed: Parsed) -> Option | None:
    """Report `spelling`, which is no option, and return the one that was meant."""
    if not spelling:
        text = f"{' '.join(given) if isinstance(given, list) else given!r} follows no option"
        parsed.findings.append(_error("stray-word", "", text, ""))
        return None
    short = table.abbreviated(spelling)
    if short is not None:
        text = f"{spelling} is an abbreviation that the tool happens to take"
        hint = f"write {short.spellings[0]}"
        parsed.findings.append(Finding("abbreviated-option", Severity.WARNING, spelling, text, hint))
        return short
    known = table.never(spelling)
    meant = table.find(known.means) if known is not None and known.means else table.meant(spelling)
    hint = (
        f"use {known.instead}" if known is not None and known.instead else f"use {meant.spellings[0]}" if meant else ""
    )
    text = f"{table.tool} {table.version} has no option {spelling}"
    parsed.findings.append(_error("unknown-option", spelling, text, hint))
    return None if known is not None and known.instead else meant


def _doubts(spelling: str, option: Option, table: Table) -> Iterator[Finding]:
    if option.presence == "unknown":
        text = f"whether {table.tool} {table.version} has {spelling} is not known: its sources were not read"
        yield Finding("unsure-option", Severity.WARNING, spelling, text, "ask the image: trtllm-build --help")
    if option.deprecated:
        yield Finding(
            "deprecated-option", Severity.WARNING, spelling, f"{spelling} is deprecated", f"use {option.instead}"
        )


def _value(option: Option, spelling: str, given: list[str] | Value, parsed: Parsed) -> None:
    try:
        value = option.read(_as_one(option, given))
    except ValueError as error:
        shown = " ".join(map(str, given)) if isinstance(given, list) else given
        text = (
            f"{spelling} takes {error}, not {shown!r}" if shown != "" else f"{spelling} takes {error}, and has nothing"
        )
        parsed.findings.append(_error("wrong-value", spelling, text, ""))
        if "$" in str(shown):  # on a command line, whatever the shell makes of it
            parsed.corrected += [option.spellings[0], str(shown)]
        return
    if option.name in parsed.values:
        text = f"{spelling} is given twice; the last one counts"
        parsed.findings.append(Finding("repeated-option", Severity.WARNING, spelling, text))
    parsed.values[option.name] = value
    parsed.corrected += _written(option, value)


def _as_one(option: Option, given: list[str] | Value) -> object:
    if not isinstance(given, list) or option.type == "list":
        return given
    if option.type == "flag":
        if given:
            raise ValueError("no value")
        return True
    if len(given) != 1:
        raise ValueError("one value")
    return given[0]


def _written(option: Option, value: Value) -> list[str]:
    spelling = option.spellings[0]
    if option.type == "flag":
        return [spelling] if value else []
    if isinstance(value, list):
        return [spelling, *value]
    return [spelling, str(value)]


def _add_lengths(words: Sequence[str], parsed: Parsed, table: Table) -> None:
    """What ``--max_output_tokens`` was meant to say goes into ``--max_seq_len``, the sum of input and output."""
    output = next((words[at + 1] for at, word in enumerate(words[:-1]) if word in _OUTPUT), "")
    inputs, limit = parsed.values.get("max_input_len"), table.find("--max_seq_len")
    if output.isdigit() and isinstance(inputs, int) and limit is not None and "max_seq_len" not in parsed.values:
        parsed.values["max_seq_len"] = inputs + int(output)
        parsed.corrected += ["--max_seq_len", str(inputs + int(output))]


_OUTPUT = ("--max_output_tokens", "--max_output_len")


def _absent(spelling: str, table: Table) -> str:
    return f"{table.tool} {table.version} does not have {spelling}"


def _error(code: str, where: str, message: str, hint: str) -> Finding:
    return Finding(code, Severity.ERROR, where, message, hint)
