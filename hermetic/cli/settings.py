"""Settings from the command line, ``HERMETIC_*``, ``./hermetic.toml`` and the user's file, in that order.

Kept free of pydantic and click: the command that finds everything in place reads its settings here too.
"""

from __future__ import annotations

import os

__all__ = ["KNOWN", "Setting", "SettingError", "cache_folder", "find", "state_folder", "store_root"]

#: Name, type of each setting and what it is for.
KNOWN = {
    "store": (str, "where store paths lie"),
    "jobs": (int, "how many cores stages may use together"),
    "images": (str, "the file of images that stages may run in; without one, any"),
    "policies": (dict, "policy files of deployments by name"),
    "index": (dict, "package indexes by name; pypi is the default one"),
}


class SettingError(ValueError):
    """A setting that cannot be read or has the wrong type; reported as usage/bad-setting."""


class Setting:
    """A value and where it came from."""

    __slots__ = ("source", "value")

    def __init__(self, value: object, source: str) -> None:
        self.value = value
        self.source = source


def find(name: str, given: object = None, *, environ: dict[str, str] | None = None) -> Setting | None:
    """The setting `name`, or None if nobody set it. Raises `SettingError`."""
    if given is not None:
        return Setting(given, "command line")
    variables = os.environ if environ is None else environ
    variable = f"HERMETIC_{name.upper()}"
    kind = KNOWN[name][0]
    if variables.get(variable):
        return Setting(_convert(kind, variables[variable], variable), variable)
    for file in (os.path.abspath("hermetic.toml"), _user_file()):
        table = _read(file)
        if name in table:
            return Setting(_check(kind, table[name], f"{name} in {file}"), file)
    return None


def store_root(given: str | None = None) -> str:
    """The store's folder: ``--store``, ``HERMETIC_STORE``, a configuration file, else the user's data folder."""
    setting = find("store", given)
    if setting is not None:
        return os.path.abspath(os.path.expanduser(str(setting.value)))
    return os.path.join(_base("XDG_DATA_HOME", ".local/share"), "hermetic")


def cache_folder() -> str:
    """Where things lie that may be deleted at any time."""
    return os.path.join(_base("XDG_CACHE_HOME", ".cache"), "hermetic")


def state_folder() -> str:
    """Where logs of servers lie."""
    return os.path.join(_base("XDG_STATE_HOME", os.path.join(".local", "state")), "hermetic")


def _user_file() -> str:
    return os.path.join(_base("XDG_CONFIG_HOME", ".config"), "hermetic", "config.toml")


def _base(variable: str, fallback: str) -> str:
    return os.environ.get(variable) or os.path.join(os.path.expanduser("~"), fallback)


def _read(file: str) -> dict[str, object]:
    if not os.path.isfile(file):
        return {}
    import tomllib

    try:
        with open(file, "rb") as stream:
            return tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"{file}: {error}") from error


def _convert(kind: type, text: str, where: str) -> object:
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise SettingError(f"{where}={text}: expected a whole number") from None
    if kind is dict:
        pairs = (item.partition("=") for item in text.split())
        return {name: address for name, _, address in pairs}
    return text


def _check(kind: type, value: object, where: str) -> object:
    if isinstance(value, kind):
        return value
    raise SettingError(f"{where}: expected {kind.__name__}, found {value!r}")
