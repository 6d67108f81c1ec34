"""The pages under docs/from, followed to the letter: their files are written, their commands run in order.

Hub and TensorRT-LLM are the stand-ins of `hermetic.testing`. A command that takes a recipe gets them by ``--set``, as
docs/from/README.md tells who wants to try it; nothing else of a page is changed. A block ``sh`` must succeed. In a
block ``console`` each line under a command must be in what it prints, in that order (``...`` stands for anything), and
a last line ``exit code N`` is the status that it must end with. A block ``sh server`` is one command that serves: it
is waited for until it prints a line, and stopped at the end of the page.
"""

from __future__ import annotations

import fnmatch
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_blocks import SHELL, Block, blocks
from stand_ins import repositories

from hermetic.sandbox import tools
from hermetic.testing.hub import Hub
from hermetic.testing.ports import free_ports
from hermetic.testing.trtllm.image import build_image

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(path.name for path in (REPOSITORY / "docs" / "from").glob("[!R]*.md"))
PRELUDE = r"""
set -euo pipefail
takes() { grep -qs -e "$2" -e '^from qwen3 import' "$1"; }
hermetic() {
    local word file= more=()
    for word; do
        case $word in *.py|*.py#*|*.yaml|*.yaml#*) file=${word%%#*}; break ;; esac
    done
    case $file in
        *.yaml) more=(--set "image=$IMAGE" --set gpu=none) ;;
        *.py)
            takes "$file" '^image = Image(' && more+=(--set "image=$IMAGE")
            takes "$file" 'param("gpu", .*or none' && more+=(--set gpu=none)
            ;;
    esac
    case ${1-}:${2-} in
        serve:triton|serve:compose|serve:policy|serve:openai) ;;
        serve:*) more+=(--port "$PORT") ;;
    esac
    ${SERVER+exec} "$PYTHON" -m hermetic "$@" ${more[@]+"${more[@]}"}
}
curl() { command curl --silent --show-error --fail "${@//:9000/:$PORT}"; }
"""


_PORTS = ("PORT", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the pages' commands find around them."""
    tools.available()
    folder = tmp_path_factory.mktemp("machine")
    with Hub() as hub:
        for name, files in repositories(REPOSITORY / "recipes").items():
            hub.repository(name).commit(files)
        yield dict(os.environ) | {
            "HF_ENDPOINT": hub.endpoint,
            "HOME": str(folder / "home"),
            # One for all pages, which share images, environments and stages: a page must not show what is new in it.
            "HERMETIC_STORE": str(folder / "store"),
            "IMAGE": build_image(folder / "standin").reference,
            "PYTHON": sys.executable,
            "PYTHONPATH": str(REPOSITORY),
            **dict(zip(_PORTS, map(str, free_ports(len(_PORTS))), strict=True)),
        }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout's recipes, without locks that were made of the real Hub."""
    folder = tmp_path / "project"
    ignored = shutil.ignore_patterns("*.lock.json", "*.nix.json", "__pycache__")
    shutil.copytree(REPOSITORY / "recipes", folder / "recipes", ignore=ignored)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PAGES)
def test_the_page_can_be_followed(name: str, project: Path, machine: dict[str, str]) -> None:
    found = blocks((REPOSITORY / "docs" / "from" / name).read_text("utf-8"))
    for block in found:
        if block.file:
            (project / block.file).parent.mkdir(parents=True, exist_ok=True)
            (project / block.file).write_text(block.text, encoding="utf-8")
    shown = project.parent / "shown"
    shown.mkdir()
    script = PRELUDE + "".join(_script(block, shown / str(at)) for at, block in enumerate(found))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=project,
        env=machine,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    for at, block in enumerate(found):
        _compare(block, shown / str(at))


def _script(block: Block, shown: Path) -> str:
    if block.language not in SHELL:
        return ""
    if block.info == "server":
        log = shlex.quote(f"{shown}.log")
        start = f"coproc SERVICE {{ SERVER=1; {block.text}}} 2>{log}\n"
        stop = f"trap 'kill $SERVICE_PID; wait $SERVICE_PID || tail -n 30 {log} >&2' EXIT\n"
        return f"\n{start}{stop}read -r _ <&${{SERVICE[0]}}\n"
    if block.language != "console":
        return f"\n: --- {shown.name}\n{block.text}\n"
    return "".join(_noted(command, f"{shown}.{at}") for at, (command, _) in enumerate(block.commands))


def _noted(command: str, place: str) -> str:
    """`command` in this very shell, with what it prints and its status in files."""
    kept, status = shlex.quote(place), shlex.quote(f"{place}.code")
    return f"\nset +e\n{{\n{command}\n}} >{kept} 2>&1\necho $? >{status}\nset -e\n"


def _compare(block: Block, shown: Path) -> None:
    for at, (command, expected) in enumerate(block.commands if block.language == "console" else ()):
        printed = Path(f"{shown}.{at}").read_text("utf-8")
        lines = [line for line in expected if line.strip()]
        code = lines.pop().removeprefix("exit code ") if lines and lines[-1].startswith("exit code ") else "0"
        assert Path(f"{shown}.{at}.code").read_text().strip() == code, f"$ {command}\n{printed}"
        assert _missing(lines, printed.splitlines()) == [], f"$ {command}\n{printed}"


def _missing(expected: list[str], printed: list[str]) -> list[str]:
    """The first of `expected` that is not among `printed` after the ones before it."""
    rest = iter(printed)
    for line in expected:
        # Brackets mean nothing here: only `...` stands for something else.
        pattern = line.strip().replace("[", "[[]").replace("...", "*")
        if not any(fnmatch.fnmatchcase(found.strip(), pattern) for found in rest):
            return [line]
    return []


def test_the_stand_in_can_be_made_by_hand(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hermetic.testing.trtllm", str(tmp_path / "image")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == f"oci:{tmp_path / 'image'}:standin-1.2.1\n"
    assert subprocess.run(command[:-1], cwd=REPOSITORY, capture_output=True, check=False).returncode == 2


def test_every_page_is_in_the_index() -> None:
    index = (REPOSITORY / "docs" / "from" / "README.md").read_text("utf-8")
    assert [name for name in PAGES if index.count(f"({name})") != 1] == []
