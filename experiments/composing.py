"""The configuration of a run: overrides composed by Hydra, each mistake told in one line, before torch is imported."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtdiff.config.schema import PACKAGES, SECTIONS, check, check_arguments, construct, nearest, refuse, signature
from mtdiff.errors import ConfigError, Interrupted, InUse, RunError
from mtdiff.files import shown
from mtdiff.runs.adapter import started
from mtdiff.runs.checks import check_constructors, check_run, check_shape
from mtdiff.runs.suite import IN_USE

CONFIGS = Path(__file__).parent / "configs"


def guarded(action: Callable[[], None]) -> None:
    """A user's mistake ends in one line and exit code 2."""
    try:
        action()
    except InUse as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(IN_USE)
    except ValueError as error:
        print(f"error: {shown(error, 1000)}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"error: {shown(error, 1000)}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as error:
        print(shown(error, 1000), file=sys.stderr)
        sys.exit(error.code)


def groups() -> dict[str, list[str]]:
    folders = (d for d in CONFIGS.iterdir() if d.is_dir() and d.name != "suite")
    return {d.name: sorted(p.stem for p in d.glob("*.yaml")) for d in folders}


def composed(overrides: list[str], with_hydra: bool = False) -> DictConfig:
    """The configuration of one run, or a ConfigError that names the mistaken override."""
    try:
        config = compose("config", overrides, return_hydra_config=with_hydra)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explained(overrides, error) from None
    check_rate(overrides)
    return config


def check_rate(overrides: list[str]) -> None:
    """ConfigError for a learning rate of no such name: the group is optional, so Hydra would go on without."""
    known = GlobalHydra.instance().config_loader().get_group_options("rate")
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.key_or_group == "rate" and not override.is_delete() and override.value() not in known:
            raise refuse("rate", override.value(), known)


def explained(overrides: list[str], error: Exception) -> ConfigError:
    """Find the override that does not fit and say what would."""
    options, chosen = groups(), []
    parser = OverridesParser.create()
    for text in overrides:
        override = parser.parse_override(text)
        group, value = override.key_or_group, override.value()
        if group in options and override.is_delete():
            return ConfigError(f"{group}: has to be given, one of {', '.join(options[group])}")
        if group in options and value not in options[group]:
            return refuse(group, value, options[group])
        if group in options:
            chosen.append(text)
    known = OmegaConf.to_container(compose("config", chosen))
    for text in overrides:
        override = parser.parse_override(text)
        if override.key_or_group in options or override.is_add():
            continue
        for leaf in leaves(override.key_or_group, override.value()):
            missing = unknown_key(leaf, known)
            if missing is not None:
                there = ", ".join(missing)
                return ConfigError(f"{leaf}: no such option{nearest(leaf, missing)}; there are {there}")
    return ConfigError(str(error).splitlines()[0])


def leaves(key: str, value: Any) -> list[str]:
    """Dotted keys that an override sets: one, or those of the mapping that it gives."""
    if not isinstance(value, Mapping):
        return [key]
    return [leaf for name, child in value.items() for leaf in leaves(f"{key}.{name}", child)]


def unknown_key(key: str, known: Any) -> list[str] | None:
    """What the configuration has where a part of a dotted key is missing; None where the key is known."""
    prefix = ""
    for name in key.split("."):
        if not isinstance(known, Mapping) or name not in known:
            return [f"{prefix}{a}" for a in sorted(map(str, known or [])) if a not in ("hydra", "packages")]
        prefix, known = f"{prefix}{name}.", known[name]
    return None


def checked(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration after every check that needs no torch."""
    try:
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    own: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(CONFIGS / "config.yaml"))  # type: ignore[assignment]
    check_shape(plain, {*own, *groups(), *SECTIONS} - {"defaults", "hydra"})
    for section, dotted in SECTIONS.items():
        check_arguments(section, list(signature(dotted)), plain[section])
    check(plain, packages=(*PACKAGES, *plain["packages"]))
    check_run(plain, own["logger"])
    started(plain)
    return plain


def sections(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The light settings objects, whose constructors check values."""
    from mtdiff.config import settings

    classes = {name: getattr(settings, dotted.rpartition(".")[2]) for name, dotted in SECTIONS.items()}
    made: dict[str, Any] = {name: cls(**plain[name]) for name, cls in classes.items()}
    return {**made, "metrics": construct(plain["metrics"])}


def single_runs(overrides: list[str]) -> list[list[str]]:
    """Every run of a sweep, for checking before the first one starts."""
    runs: list[list[str]] = [[]]
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            raise ConfigError(f"{text}: not an override; expected key=value") from None
        if not override.key_or_group:
            raise ConfigError(f"{text}: not an override; expected key=value")
        if override.is_sweep_override():
            values = [f"{override.key_or_group}={v}" for v in override.sweep_string_iterator()]
        else:
            values = [override.input_line]
        runs = [[*run, str(value)] for run in runs for value in values]
    return runs


def precheck(overrides: list[str]) -> None:
    """Check every run of a sweep before the first one starts."""
    with initialize_config_dir(str(CONFIGS.resolve()), version_base=None):
        given = single_runs(overrides)
        runs = [checked(composed(run)) for run in given]
    for run, plain in zip(given, runs, strict=True):
        sections(plain)
        refuse_idle_weights(run, plain)
    if len(runs) > 1:
        for plain in runs:
            check_constructors(plain)


def refuse_idle_weights(overrides: list[str], plain: Mapping[str, Any]) -> None:
    """A share given for a task that the run leaves out would have no effect."""
    for override in OverridesParser.create().parse_overrides(overrides):
        section, _, task = override.key_or_group.partition(".")
        if section == "weights" and task and task not in plain["tasks"]:
            raise refuse(override.key_or_group, override.value(), [f"{section}.{name}" for name in plain["tasks"]])
