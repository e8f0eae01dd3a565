"""The configuration of a run: overrides composed by Hydra, each mistake told in one line, before torch is imported."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtdiff.commands import hydra_inside
from mtdiff.commands.hydra_inside import Override
from mtdiff.config.schema import SECTIONS, check, check_arguments, construct, nearest, refuse
from mtdiff.config.settings import Settings
from mtdiff.config.signatures import PACKAGES, signature
from mtdiff.errors import ConfigError, shown
from mtdiff.runs.adapter import check_init, check_start, read_light, read_teacher
from mtdiff.runs.checks import check_constructors, check_run, check_shape

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"
NO_GROUPS = ("hydra", "suite")  # folders of CONFIGS and Hydra's own, of which a configuration chooses nothing
KEY = re.compile(r"[\w.@/+~-]+")


@dataclass(frozen=True)
class Call:
    """A command line as Hydra reads it: overrides, and the flags that say what they are composed with.

    folder, name: of the primary configuration. further: --config-dir, searched after it. shows: Hydra prints something
    of its own (--help, --info, --cfg), and nothing runs.
    """

    overrides: list[str] = field(default_factory=list)
    multirun: bool = False
    shows: bool = False
    folder: Path = CONFIGS
    name: str = "config"
    further: str | None = None

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Self:
        given = hydra_inside.parse_flags(arguments)
        shows = given.help or given.hydra_help or given.info or given.shell_completion
        return cls(
            given.overrides,
            multirun=given.multirun,
            shows=bool(shows),
            folder=CONFIGS if given.config_path is None else Path(given.config_path),
            name=(given.config_name or "config").removesuffix(".yaml"),
            further=given.config_dir,
        )


def order_arguments(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Flags first, then overrides: Hydra's parser takes overrides in one piece only."""
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return [*flags, *overrides]


@contextmanager
def composer(call: Call = Call()) -> Iterator[None]:
    """Hydra, set up for `compose_run` while the context lasts."""
    for flag, folder in (("config-path", call.folder), ("config-dir", call.further)):
        if folder is not None and not Path(folder).is_dir():
            raise ConfigError(f"--{flag}={shown(folder)}: no such folder")
    with initialize_config_dir(str(call.folder.resolve()), version_base=None):
        if call.further is not None:
            hydra_inside.extend_search(call.folder.resolve(), Path(call.further).resolve())
        yield


@contextmanager
def sweep_folder(call: Call) -> Iterator[list[str]]:
    """Where Hydra keeps notes on a sweep, as overrides: a folder that goes with the sweep, unless one is asked for.

    A launcher that queues jobs writes their logs there, so it gets none that goes.
    """
    asked = any(o.lstrip("+").startswith(("hydra.sweep", "hydra/launcher")) for o in call.overrides)
    if not call.multirun or asked:
        yield []
        return
    with TemporaryDirectory(prefix="sweep-") as folder:
        yield [f"hydra.sweep.dir={folder}"]


def list_groups() -> dict[str, list[str]]:
    """The options of each group of the configuration, wherever Hydra finds them."""
    loader = hydra_inside.config_loader()
    names = [name for name in loader.list_groups("") if name not in NO_GROUPS]
    return {name: sorted(loader.get_group_options(name)) for name in names}


def compose_run(overrides: Sequence[str], name: str = "config") -> tuple[DictConfig, dict[str, str]]:
    """The configuration of one run, and what is chosen of each group. ConfigError names the mistaken override."""
    try:
        config = compose(name, spread_shares(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explain(overrides, name, error) from None
    check_rate(overrides)
    return strip_hydra(config), read_choices(config.hydra)


def spread_shares(arguments: Sequence[str]) -> list[str]:
    """`tasks={edit: 2, order: 0.5}` as Hydra takes it: the list of tasks, and each one's share in `weights`.

    Other arguments stay as they are. ConfigError for several such mixtures in one sweep.
    """
    found: list[str] = []
    for text in arguments:
        if not text.startswith("tasks={"):
            found.append(text)
            continue
        try:
            override = hydra_inside.parse_mapping(text)
        except HydraException:
            raise ConfigError(f"{text}: expected tasks and their shares, such as tasks={{edit:2,order:0.5}}") from None
        if override.is_sweep_override():
            raise ConfigError(f"{text}: one mixture in a call; a suite lists several")
        shares = override.value()
        assert isinstance(shares, dict)
        found += [f"tasks=[{','.join(map(str, shares))}]", *(f"++weights.{name}={v}" for name, v in shares.items())]
    return found


def strip_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def read_choices(hydra: DictConfig) -> dict[str, str]:
    """What is chosen of each group, by Hydra's own account."""
    return {key: str(value) for key, value in hydra.runtime.choices.items() if not str(key).startswith("hydra/")}


def check_rate(overrides: Sequence[str]) -> None:
    """ConfigError for a learning rate of no such name: the group is optional, so Hydra would go on without."""
    known = list_groups()["rate"]
    for override in map(parse_override, overrides):
        if override.key_or_group == "rate" and not override.is_delete() and override.value() not in known:
            raise refuse("rate", override.value(), known)


def explain(overrides: Sequence[str], name: str, error: Exception) -> ConfigError:
    """Find the override that does not fit and say what would."""
    options, chosen = list_groups(), []
    parsed = [parse_override(text) for text in overrides]
    for text, override in zip(overrides, parsed, strict=True):
        group, value = override.key_or_group, override.value()
        if group not in options:
            continue
        if override.is_delete():
            return ConfigError(f"{group}: has to be given, one of {', '.join(options[group])}")
        if value not in options[group]:
            return refuse(group, value, options[group])
        chosen.append(text)
    try:
        known = OmegaConf.to_container(compose(name, chosen))
    except (HydraException, OmegaConfBaseException):  # nothing composes, so no override is to blame
        return ConfigError(shown(error, 300))
    for override in parsed:
        if override.key_or_group in options or override.is_add():
            continue
        for leaf in list_leaves(override.key_or_group, override.value()):
            missing = find_siblings(leaf, known)
            if missing == []:
                parent, _, name = leaf.rpartition(".")
                return ConfigError(f"{leaf}: {parent} is null; give it whole, as {parent}={{{name}: ...}}")
            if missing is not None:
                there = ", ".join(missing)
                return ConfigError(f"{leaf}: no such option{nearest(leaf, missing)}; there are {there}")
    return ConfigError(str(error).splitlines()[0])


def list_leaves(key: str, value: Any) -> list[str]:
    """Dotted keys that an override sets: one, or those of the mapping that it gives."""
    if not isinstance(value, Mapping):
        return [key]
    return [leaf for name, child in value.items() for leaf in list_leaves(f"{key}.{name}", child)]


def find_siblings(key: str, known: Any) -> list[str] | None:
    """What the configuration has where a part of a dotted key is missing; None where the key is known."""
    prefix = ""
    for name in key.split("."):
        if not isinstance(known, Mapping) or name not in known:
            return [f"{prefix}{a}" for a in sorted(map(str, known or [])) if a not in ("hydra", "packages")]
        prefix, known = f"{prefix}{name}.", known[name]
    return None


def parse_override(text: str) -> Override:
    """One override as Hydra reads it. ConfigError where it reads none, with the quoted form where quotes would help."""
    try:
        override = hydra_inside.parse_override(text)
    except HydraException:
        raise ConfigError(f"{text}: not an override; expected key=value{quote_hint(text)}") from None
    if not override.key_or_group:
        raise ConfigError(f"{text}: not an override; expected key=value")
    return override


def quote_hint(text: str) -> str:
    """How a value that Hydra's grammar does not take as it stands is given, or nothing where quotes would not help."""
    key, equals, value = text.partition("=")
    if not equals or not KEY.fullmatch(key) or not value or value[0] in "[{'\"":
        return ""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    quoted = shlex.quote(key + '="' + escaped + '"')
    return f", here in quotes: {quoted}"


@cache
def read_primary(path: Path) -> dict[str, Any]:
    """The primary configuration as it stands, before anything is composed. A suite checks every run against it."""
    return OmegaConf.to_container(OmegaConf.load(path))  # type: ignore[return-value]


def check_configuration(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration after every check that needs no torch."""
    try:
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    own = read_primary(CONFIGS / "config.yaml")
    groups = [path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name not in NO_GROUPS]
    check_shape(plain, {*own, *groups, *SECTIONS} - {"defaults", "hydra"})
    for section, dotted in SECTIONS.items():
        check_arguments(section, list(signature(dotted)), plain[section])
    check(plain, packages=(*PACKAGES, *plain["packages"]))
    check_run(plain, own["logger"])
    check_start(plain)
    check_init(plain)
    read_teacher(plain)
    switch = Settings.read(plain).sampling.switch
    read_light(switch, plain, (*PACKAGES, *plain["packages"]), plain["backbone"].get("weights"))
    construct(plain["metrics"])
    return plain


def read_configuration(overrides: Sequence[str], *, folder: Path = CONFIGS) -> tuple[dict[str, Any], dict[str, str]]:
    """The checked configuration of exactly one run, and what is chosen of each group."""
    with composer(Call(folder=folder)):
        if len(expand_sweep(overrides)) > 1:
            raise ConfigError("one configuration at a time; expected one value an option")
        config, chosen = compose_run(overrides)
        return check_configuration(config), chosen


def expand_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Every run of a sweep, as Hydra's own sweeper expands it."""
    runs: list[list[str]] = [[]]
    for override in map(parse_override, overrides):
        values = [override.input_line]
        if override.is_sweep_override():
            try:
                values = [f"{override.get_key_element()}={v}" for v in override.sweep_string_iterator()]
            except HydraException as error:
                raise ConfigError(f"{override.input_line}: {shown(error)}") from None
            if not values:
                raise ConfigError(f"{override.input_line}: fits nothing that is there")
        runs = [[*run, str(value)] for run in runs for value in values]
    return runs


def check_call(call: Call) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """Check every run of a call before the first one starts, and return its configuration and what is chosen."""
    with composer(call):
        several = next((o for o in map(parse_override, call.overrides) if o.is_sweep_override()), None)
        if several is not None and not call.multirun:
            key, _, value = str(several.input_line).partition("=")
            raise ConfigError(f"{key}={value}: several values need -m, for a sweep; a list is {key}=[{value}]")
        given = expand_sweep(call.overrides)
        composed = [compose_run(run, call.name) for run in given]
        runs = [(check_configuration(config), chosen) for config, chosen in composed]
        for run, (plain, _) in zip(given, runs, strict=True):
            refuse_idle_weights(run, plain)
    if len(runs) > 1:
        for plain, _ in runs:
            check_constructors(plain)
    return runs


def refuse_idle_weights(overrides: Sequence[str], plain: Mapping[str, Any]) -> None:
    """A share given for a task that the run leaves out would have no effect."""
    for override in map(parse_override, overrides):
        section, _, task = override.key_or_group.partition(".")
        if section == "weights" and task and task not in plain["tasks"]:
            raise refuse(override.key_or_group, override.value(), [f"{section}.{name}" for name in plain["tasks"]])
