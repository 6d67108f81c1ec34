"""What documents say is so: every command and option that they name exists, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_blocks import blocks, calls, documents, problem

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = documents(REPOSITORY)


def title(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("document", DOCUMENTS, ids=title)
def test_commands_and_options_exist(document: Path) -> None:
    wrong = [(" ".join(call), found) for call in calls(document.read_text("utf-8")) if (found := problem(call))]
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=title)
def test_links_lead_to_files(document: Path) -> None:
    text = re.sub(r"^( *)```.*?^\1```$", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


class TestTheCheckItself:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("realise r.py --keep-failed -j 2", ""),
            ("serve triton NAME --http-port=1", ""),
            ("shell r.py#x -- ls -l", ""),
            ("COMMAND --help", ""),
            ("--version", ""),
            ("reaIise r.py", "no command reaIise"),
            ("profile roll back", "no command roll"),
            ("plan r.py --comands", "no option --comands"),
        ],
    )
    def test_what_it_finds(self, words: str, said: str) -> None:
        assert said in problem(words.split())
        assert bool(said) == bool(problem(words.split()))

    def test_calls_in_a_block_and_in_the_text(self) -> None:
        text = (
            'say `hermetic gc`\n\n```console\n$ x=$(hermetic path "a b.py") \\\n  && ! hermetic du\nhermetic no\n```\n'
        )
        assert list(calls(text)) == [["path", "a b.py"], ["du"], ["gc"]]

    def test_blocks(self) -> None:
        first, second = blocks("```python\n# a/b.py\nx = 1\n```\n```console\n$ ls\nfile\n$ true\n```\n")
        assert (first.file, second.file) == ("a/b.py", "")
        assert second.commands == [("ls", ["file"]), ("true", [])]


def test_every_page_is_in_the_index_once() -> None:
    folder = REPOSITORY / "docs"
    index = (folder / "README.md").read_text("utf-8")
    pages = [path.name for path in folder.glob("*.md") if path.name != "README.md"]
    pages += [f"{path.parent.name}/README.md" for path in folder.glob("*/README.md")]
    assert {name: index.count(f"({name})") for name in pages} == dict.fromkeys(pages, 1)
