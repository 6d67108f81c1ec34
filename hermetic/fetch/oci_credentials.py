"""Who we are to a registry: what ``docker login`` and ``podman login`` left behind.

In this order, the first that knows the host wins: ``REGISTRY_AUTH_FILE``, docker's ``config.json`` (in
``DOCKER_CONFIG``, else ``~/.docker``), podman's ``auth.json``. In each, a helper for the host comes before the helper
for all, and both before what is written out. Nothing of it is logged, kept, or part of an error.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hermetic.errors import Domain, HermeticError

__all__ = ["Credentials", "find_credentials", "known_hosts"]

_HELPER_S: Final = 60
_TOKEN_USER: Final = "<token>"  # noqa: S105  # what a helper calls the user of an identity token


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user with a password, or an identity token, which is exchanged for access tokens. Neither is ever shown."""

    user: str = field(repr=False)
    secret: str = field(repr=False)
    is_token: bool = False

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def find_credentials(host: str, environ: Mapping[str, str]) -> Credentials | None:
    """What is known for the registry `host`; None: nobody logged in there.

    Raises `HermeticError` (environment/credential-helper) if a helper that is named fails.
    """
    for path in _files(environ):
        document = _read(path)
        for name in _names(host):
            found = _helped(document, name, environ) or _written(document, name)
            if found is not None:
                return found
    return None


def known_hosts(environ: Mapping[str, str]) -> list[str]:
    """The registries that somebody logged in to, by host; "*" where a helper answers for all. No helper is asked."""
    found = set()
    for path in _files(environ):
        document = _read(path)
        for name in (*document.get("auths", {}), *document.get("credHelpers", {})):
            found.add(name.partition("://")[2].partition("/")[0] if "://" in name else name)
        found |= {"*"} if document.get("credsStore") else set()
    return sorted(found)


def _files(environ: Mapping[str, str]) -> Iterator[str]:
    home = environ.get("HOME", "")
    if named := environ.get("REGISTRY_AUTH_FILE"):
        yield named
    if folder := environ.get("DOCKER_CONFIG") or (home and f"{home}/.docker"):
        yield f"{folder}/config.json"
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        yield f"{runtime}/containers/auth.json"
    if home:
        yield f"{environ.get('XDG_CONFIG_HOME') or f'{home}/.config'}/containers/auth.json"


def _names(host: str) -> tuple[str, ...]:
    """As docker writes hosts: bare, or as the address of an old API; its own registry under a name of its own."""
    own = ("https://index.docker.io/v1/", "index.docker.io") if host == "docker.io" else ()
    return (host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/", *own)


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            document = json.load(stream)
    except (OSError, ValueError):
        return {}  # docker's own complaint when it is used; no reason to fail a pull that may need no login
    return document if isinstance(document, dict) else {}


def _helped(document: Mapping[str, Any], name: str, environ: Mapping[str, str]) -> Credentials | None:
    own = document.get("credHelpers", {}).get(name)
    helper = own or document.get("credsStore")
    return _ask(str(helper), name, environ, needed=bool(own)) if helper else None


def _ask(helper: str, name: str, environ: Mapping[str, str], *, needed: bool) -> Credentials | None:
    command = f"docker-credential-{os.path.basename(helper)}"
    tool = shutil.which(command, path=environ.get("PATH"))
    if tool is None:
        if not needed:
            return None
        raise _helper_failed(command, name, "is not on PATH")
    try:
        result = subprocess.run(
            [tool, "get"], input=name, capture_output=True, text=True, check=False, timeout=_HELPER_S, env=dict(environ)
        )
        answer = json.loads(result.stdout) if result.returncode == 0 else {}
    except subprocess.TimeoutExpired as error:
        raise _helper_failed(command, name, f"did not answer within {_HELPER_S} s") from error
    except ValueError:
        answer = {}
    if isinstance(answer, dict) and answer.get("Secret"):
        user = str(answer.get("Username", ""))
        return Credentials(user, str(answer["Secret"]), is_token=user == _TOKEN_USER)
    if "not found" in result.stdout or not needed:
        return None
    raise _helper_failed(command, name, f"exited with status {result.returncode} and gave no credentials")


def _helper_failed(command: str, name: str, what: str) -> HermeticError:
    hint = f"echo {name} | {command} get  # tells more; docker's config.json names the helper"
    return HermeticError(Domain.ENVIRONMENT, "credential-helper", f"{command}, asked about {name}, {what}", hint=hint)


def _written(document: Mapping[str, Any], name: str) -> Credentials | None:
    entry = document.get("auths", {}).get(name)
    if not isinstance(entry, dict):
        return None
    if token := entry.get("identitytoken"):
        return Credentials(_TOKEN_USER, str(token), is_token=True)
    try:
        user, mark, secret = base64.b64decode(entry.get("auth", ""), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    if mark:
        return Credentials(user, secret.rstrip("\0"))
    return Credentials(entry["username"], entry["password"]) if {"username", "password"} <= entry.keys() else None
