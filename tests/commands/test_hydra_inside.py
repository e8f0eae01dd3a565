"""What we take from inside Hydra does as Hydra itself, in the one file that may."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose
from omegaconf import OmegaConf

from mtdiff.commands import hydra_inside
from mtdiff.commands.compose import Call, compose_run, composer, list_groups

ROOT = Path(__file__).parents[2]
APP = """
import hydra
from omegaconf import OmegaConf

@hydra.main(version_base=None, config_path={folder!r}, config_name="config")
def main(config):
    print(OmegaConf.to_yaml(config))

main()
"""
DOCUMENTED = {"hydra", "hydra.errors", "hydra.core.hydra_config"}


def hydra_modules(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name for name in found if name.split(".")[0] == "hydra"}


def test_only_one_file_looks_inside() -> None:
    folders = ("mtdiff", "baselines", "experiments", "analysis")
    used = {path: hydra_modules(path) for name in folders for path in (ROOT / name).rglob("*.py")}
    assert [path for path, names in used.items() if names - DOCUMENTED] == [Path(str(hydra_inside.__file__))]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of configurations, and a further one with another option of its group and one of the same name."""
    files = {
        "configs/config.yaml": "defaults: [_self_, method: plain]\nseed: 0\n",
        "configs/method/plain.yaml": "rank: 1\n",
        "mine/method/wide.yaml": "rank: 8\n",
        "mine/method/plain.yaml": "rank: 3\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "configs", tmp_path / "mine"


@pytest.mark.parametrize(
    "arguments", [["seed=1"], ["method=wide", "+a.b=[1,2]"], ["~seed"], ["method=plain", "seed=-3"], ["seed=null"]]
)
def test_a_call_composes_as_in_hydras_own_program(folders: tuple[Path, Path], arguments: list[str]) -> None:
    configs, mine = folders
    flags = ["--config-dir", str(mine)]
    app = [sys.executable, "-c", APP.format(folder=str(configs)), *flags, "hydra.run.dir=.", "hydra.output_subdir=null"]
    theirs = subprocess.run([*app, *arguments], capture_output=True, text=True, cwd=configs, check=True).stdout
    call = Call.parse([f"--config-path={configs}", *flags, *arguments])
    with composer(call):
        ours = compose(call.name, call.overrides)
        assert list_groups()["method"] == ["plain", "wide"]
    assert call.overrides == arguments
    assert OmegaConf.to_yaml(ours).strip() == theirs.strip()


def test_flags_are_read_as_hydras_documentation_has_them() -> None:
    with pytest.raises(SystemExit):
        hydra_inside.parse_flags(["--no-such-flag"])
    flags = hydra_inside.parse_flags(["-m", "-cn", "other", "-cp", "folder", "-cd", "further", "a=1", "b=2"])
    assert flags.multirun
    assert (flags.config_name, flags.config_path, flags.config_dir) == ("other", "folder", "further")
    assert flags.overrides == ["a=1", "b=2"]
    for flag, name in (("--help", "help"), ("--hydra-help", "hydra_help"), ("--shell-completion", "shell_completion")):
        assert getattr(hydra_inside.parse_flags([flag]), name)
    assert hydra_inside.parse_flags(["--info", "plugins"]).info == "plugins"


@pytest.mark.parametrize(
    ("text", "key", "value", "sweep"),
    [
        ("seed=1", "seed", 1, False),
        ("method=mtu", "method", "mtu", False),
        ("tasks=[edit,inpaint]", "tasks", ["edit", "inpaint"], False),
        ("+data.a={b: null}", "data.a", {"b": None}, False),
        ("seed=0,1", "seed", None, True),
        ("method=glob(*)", "method", None, True),
    ],
)
def test_an_override_is_read(text: str, key: str, value: object, sweep: bool) -> None:
    with composer():
        override = hydra_inside.parse_override(text)
        assert (override.key_or_group, override.is_sweep_override()) == (key, sweep)
        if sweep:
            assert len(list(override.sweep_string_iterator())) >= 2
        else:
            assert override.value() == value


def test_choices_are_those_of_the_composition() -> None:
    with composer():
        config, chosen = compose_run(["method=ia3"])
    assert chosen["method"] == "ia3"
    assert "hydra" not in config
