"""The one parser of `key=value` arguments, for all scripts. No torch here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mtdiff.config.schema import check_arguments, refuse
from mtdiff.config.signatures import PACKAGES, signature
from mtdiff.errors import ConfigError, shown
from mtdiff.files.writing import check_folder


def split_options(arguments: Sequence[str], names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """A script's own options by name, as texts, and all other arguments, which are overrides of a configuration."""
    own, rest, known = {}, [], set(names)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in known:
            own[key] = value
        else:
            rest.append(argument)
    return own, rest


def parse_options(arguments: Sequence[str], allowed: Sequence[str], required: Sequence[str]) -> dict[str, str]:
    """`key=value` arguments alone, each known and given once, as texts. ValueError for anything else."""
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"{shown(argument)}: expected key=value with one of {', '.join(allowed)}")
        if key not in allowed:
            raise refuse("option", key, allowed)
        if key in given:
            raise ValueError(f"{key}={shown(value)}: is given twice, first as {shown(given[key])}")
        given[key] = value
    for key in required:
        if not given.get(key):
            raise ValueError(f"{key}: has to be given, as {key}=...")
    return given


def override_defaults(arguments: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """`key=value` arguments over the defaults of a script, all texts."""
    given, rest = split_options(arguments, defaults)
    for argument in [*rest, *(f"{key}=" for key, value in given.items() if not value)]:
        raise ConfigError(f"argument {argument!r}: expected {' '.join(f'{key}=...' for key in defaults)}")
    return {**defaults, **given}


def split_settings(
    arguments: Sequence[str], *, settings: str, further: Sequence[str] = (), script: str
) -> tuple[dict[str, Any], list[str]]:
    """A script's own options as YAML values, and the rest. settings: the class whose arguments they are, checked."""
    known = list(signature(settings))
    texts, rest = split_options(arguments, {*further, *(a.name for a in known)})
    own = {}
    for key, text in texts.items():
        try:
            own[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{key}={text}: expected a plain value") from None
    check_arguments(script, known, {k: v for k, v in own.items() if k not in further})
    return own, rest


def read_number(given: Mapping[str, str], key: str, kind: type, default: Any = None, low: float = -math.inf) -> Any:
    """An option as a finite number of at least `low`, or the default where it is not given."""
    if key not in given:
        return default
    least = "" if low == -math.inf else f" of at least {low}"
    try:
        value = kind(given[key])
    except ValueError:
        value = math.nan
    if not low <= value < math.inf or value == -math.inf:
        raise ValueError(f"{key}={shown(given[key])}: expected a {'whole' if kind is int else 'finite'} number{least}")
    return value


def read_switch(given: Mapping[str, Any], key: str, default: bool) -> bool:
    """An option that is true or false, as a text or as YAML read it."""
    value = given.get(key, default)
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise ConfigError(f"{key}={shown(value)}: expected true or false")
    return bool(value == "true")


def read_mapping(given: Mapping[str, str], key: str) -> dict[str, Any] | None:
    """An option that is null or a mapping in Hydra's own form, such as `{level: block, every: 3}`."""
    from hydra.errors import HydraException

    from mtdiff.commands.hydra_inside import parse_mapping

    try:
        value = parse_mapping(f"{key}={given[key]}").value()
    except HydraException:
        value = given[key]
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{key}={shown(given[key])}: expected null, or a mapping such as {{name: value}}")
    return value


def list_folders(given: Mapping[str, str], key: str) -> list[str]:
    """Folders of `key=[a,b]` or `key=a,b`."""
    text = given[key]
    found = parse_list(text)
    if not found or not all(isinstance(f, str) and f for f in found):
        raise ConfigError(f"{key}={shown(text)}: expected folders of runs, such as [runs/a,runs/b]")
    return found


def list_numbers(given: Mapping[str, str], key: str) -> list[float] | None:
    """Numbers of `key=[1,0.5]`, or None where it is not given."""
    if key not in given:
        return None
    found = parse_list(given[key])
    if not found or not all(isinstance(f, int | float) and not isinstance(f, bool) and math.isfinite(f) for f in found):
        raise ConfigError(f"{key}={shown(given[key])}: expected finite numbers, such as [1,0.5]")
    return [float(f) for f in found]


def parse_list(text: str) -> list[Any] | None:
    """The entries of `[a,b]` or `a,b`; None where it is no list."""
    try:
        found = yaml.safe_load(text if text.startswith("[") else f"[{text}]")
    except yaml.YAMLError:
        return None
    return found if isinstance(found, list) else None


def read_packages(given: Mapping[str, str]) -> tuple[str, ...]:
    """Packages whose classes a run may name: ours, and those of `packages=`, with commas between."""
    return (*PACKAGES, *(package for package in given.get("packages", "").split(",") if package))


def check_output(out: object) -> Path | None:
    """The path of `out=`, or None, once its folder is known to be one that can be made."""
    if out is None:
        return None
    check_folder("out", Path(str(out)).parent)
    return Path(str(out))
