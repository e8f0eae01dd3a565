"""When Weights & Biases is online: WANDB_MODE decides, else a key for its host."""

from pathlib import Path

import pytest
from whole_runs import composed

from mtdiff.commands.build import find_wandb_mode, read_wandb_options
from mtdiff.errors import ConfigError

KEY = "a" * 40


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": KEY}, "online"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "", "WANDB_API_KEY": ""}, "offline"),
    ],
)
def test_the_mode_of_an_environment(environment: dict[str, str], mode: str, tmp_path: Path) -> None:
    assert find_wandb_mode({"NETRC": str(tmp_path / "none"), **environment}) == mode


@pytest.mark.parametrize(
    ("content", "environment", "mode"),
    [
        (f"machine api.wandb.ai login user password {KEY}", {}, "online"),
        ("machine github.com login me password secret", {}, "offline"),
        (f"machine api.wandb.ai login user password {KEY}", {"WANDB_BASE_URL": "https://wandb.mine.org"}, "offline"),
        (f"machine wandb.mine.org login user password {KEY}", {"WANDB_BASE_URL": "https://wandb.mine.org"}, "online"),
        ("machine", {}, "offline"),
        ("\xff\x00", {}, "offline"),
    ],
)
def test_a_netrc_counts_for_its_own_host(content: str, environment: dict[str, str], mode: str, tmp_path: Path) -> None:
    path = tmp_path / "netrc"
    path.write_bytes(content.encode("latin-1"))
    path.chmod(0o600)
    assert find_wandb_mode({"NETRC": str(path), **environment}) == mode


def test_no_home_is_no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert find_wandb_mode({}) == "offline"


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^WANDB_MODE=onlin: expected one of online, offline.*'online'"):
        find_wandb_mode({"WANDB_MODE": "onlin"})


def test_a_disabled_logger_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain, _ = composed(["logger.wandb=true", "logger.project=mine"])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert read_wandb_options(plain, tmp_path) is None
    monkeypatch.setenv("WANDB_MODE", "offline")
    found = read_wandb_options(plain, tmp_path / "run")
    assert found is not None
    assert (found["offline"], found["project"], found["name"]) == (True, "mine", "run")
