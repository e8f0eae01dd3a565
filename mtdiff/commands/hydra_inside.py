"""What of Hydra is not public, in this one file; `tests/commands/test_hydra_inside.py` fails when Hydra changes it.

Every run of a call is checked before the first one starts, and a mistake is answered by naming the override and what
would fit. `hydra.main` offers no moment for that: it composes a run when its turn comes. So before it starts
- its parser splits the command line into flags and overrides (`hydra._internal.utils.get_args_parser`);
- its search path takes the folder of --config-dir (`hydra._internal.hydra`). The public `hydra.searchpath` counts for
  one composition only, and the groups that messages list and globs match would lack that folder;
- its loader says which groups there are, and its grammar what an override means (`hydra.core`, not documented).
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override


def parse_flags(arguments: Sequence[str]) -> Namespace:
    """A command line as Hydra reads it; a flag that it does not know ends the program with its usage."""
    return get_args_parser().parse_args(arguments)


def extend_search(folder: Path, further: Path) -> None:
    """Set Hydra up anew, with a further folder that is searched after `folder`, as --config-dir does."""
    search = create_config_search_path(str(folder))
    search.prepend("command-line", f"file://{further}", anchor="schema")
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2("run", search)


def config_loader() -> ConfigLoader:
    """Where Hydra, once set up, finds groups and their options."""
    return GlobalHydra.instance().config_loader()


def parse_override(text: str) -> Override:
    """One override as Hydra reads it. HydraException where it reads none."""
    parser = OverridesParser.create(config_loader=config_loader())
    (override,) = parser.parse_overrides([text])  # not parse_override: globs need the loader
    return override


def parse_mapping(text: str) -> Override:
    """One override that is a mapping, before Hydra is set up. HydraException where it is none that Hydra reads."""
    return OverridesParser.create().parse_override(text)
