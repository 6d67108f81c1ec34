"""Where wheels come from is the user's configuration, in a stated order."""

from __future__ import annotations

from pathlib import Path

from hermetic.fetch.indexes import find_indexes


def config(home: Path, text: str) -> dict[str, str]:
    folder = home / ".config/pip"
    folder.mkdir(parents=True)
    (folder / "pip.conf").write_text(text)
    return {"HOME": str(home)}


def test_nothing_said_is_uvs_default() -> None:
    assert find_indexes({}, {"PIP_CONFIG_FILE": "/dev/null"}).arguments == ()


def test_named_indexes_come_first() -> None:
    configured = {"pypi": "https://one.example", "pytorch-cpu": "https://two.example"}
    found = find_indexes(configured, {"UV_INDEX": "x", "PIP_INDEX_URL": "y"})
    assert found.arguments == ("--default-index", "https://one.example", "--index", "https://two.example")


def test_uvs_variables_are_left_to_uv() -> None:
    assert find_indexes({}, {"UV_DEFAULT_INDEX": "x", "PIP_INDEX_URL": "y"}).arguments == ()


def test_pips_variables() -> None:
    environ = {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": "https://one.example",
        "PIP_EXTRA_INDEX_URL": "https://two.example https://three.example",
    }
    assert find_indexes({}, environ).arguments == (
        *("--default-index", "https://one.example"),
        *("--index", "https://two.example"),
        *("--index", "https://three.example"),
    )


def test_pips_file_and_its_variables_over_it(tmp_path: Path) -> None:
    environ = config(tmp_path, "[global]\nindex-url = https://file.example\ncert = /some/bundle.pem\n")
    found = find_indexes({}, environ)
    assert "https://file.example" in found.arguments
    assert found.certificates == "/some/bundle.pem"
    over = find_indexes({}, environ | {"PIP_INDEX_URL": "https://variable.example", "SSL_CERT_FILE": "/other.pem"})
    assert "https://file.example" not in over.arguments
    assert over.certificates == "/other.pem"


def test_a_broken_file_is_no_reason_to_fail(tmp_path: Path) -> None:
    assert isinstance(find_indexes({}, config(tmp_path, "no section\n")).arguments, tuple)
