"""Where wheels come from: the user's configuration, which never enters a key.

In this order, the first that says anything wins:

1. hermetic's own configuration, a mapping of names to addresses, in which ``pypi`` replaces the default index;
2. uv's variables (``UV_DEFAULT_INDEX``, ``UV_INDEX``, ``UV_FIND_LINKS``, …), which uv reads itself;
3. pip's variables (``PIP_INDEX_URL``, ``PIP_EXTRA_INDEX_URL``, ``PIP_FIND_LINKS``);
4. the ``[global]`` and ``[install]`` sections of pip's configuration files, the user's before the machine's.

A certificate bundle (``SSL_CERT_FILE``, ``PIP_CERT``, pip's ``cert``) is taken on its own in the same order. uv's
configuration files are read by uv.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["Indexes", "find_indexes"]

_UV: Final = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX")
_PIP: Final = {
    "index-url": "PIP_INDEX_URL",
    "extra-index-url": "PIP_EXTRA_INDEX_URL",
    "find-links": "PIP_FIND_LINKS",
    "no-index": "PIP_NO_INDEX",
}
_FLAGS: Final = {"index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links"}


@dataclass(frozen=True, slots=True)
class Indexes:
    """Arguments for ``uv pip install`` and a certificate bundle ("" for uv's own)."""

    arguments: tuple[str, ...]
    certificates: str = ""


def find_indexes(configured: Mapping[str, str], environ: Mapping[str, str]) -> Indexes:
    """Reads pip's configuration files only if nothing before them says where."""
    settings = _pip_files(environ)
    certificates = environ.get("SSL_CERT_FILE") or environ.get("PIP_CERT") or settings.get("cert", "")
    return Indexes(tuple(_arguments(configured, environ, settings)), certificates)


def _arguments(configured: Mapping[str, str], environ: Mapping[str, str], settings: Mapping[str, str]) -> Iterator[str]:
    if configured:
        for name, address in configured.items():
            yield from ("--default-index", address) if name == "pypi" else ("--index", address)
        return
    if any(environ.get(name) for name in _UV):
        return
    spoken = {option: environ[name] for option, name in _PIP.items() if environ.get(name)}
    for option, text in {**settings, **spoken}.items():
        if option in _FLAGS:
            yield from (word for address in text.split() for word in (_FLAGS[option], address))
        elif option == "no-index" and text.lower() in {"1", "true", "yes", "on"}:
            yield "--no-index"


def _pip_files(environ: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in _pip_places(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip's own complaint when it is used; no reason to fail a build
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= {name: value for name, value in parser.items(section) if name in {*_PIP, "cert"}}
    return found


def _pip_places(environ: Mapping[str, str]) -> Iterator[str]:
    """The machine's first: later ones win."""
    if environ.get("PIP_CONFIG_FILE") == os.devnull:
        return
    yield "/etc/pip.conf"
    home = environ.get("HOME", "")
    if home:
        yield f"{home}/.pip/pip.conf"
        yield f"{environ.get('XDG_CONFIG_HOME') or f'{home}/.config'}/pip/pip.conf"
    if named := environ.get("PIP_CONFIG_FILE"):
        yield named
