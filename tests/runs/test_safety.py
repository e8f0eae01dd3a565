"""Files of others: nothing in a run folder, adapter or result runs code, leads out of its folder, or fills the memory.

Each attempt is refused in one line. Where an attempt would leave a trace if it ran, the test looks for that trace.
"""

import contextlib
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz import batch
from PIL import Image
from run_folders import ABOUT, about_changed, copied, make_run
from tiny import tiny_unet

from baselines.trivial import trivial
from mtdiff import load_run
from mtdiff.backbones.stable_diffusion import load
from mtdiff.commands.command import guard
from mtdiff.commands.compose import compose_run, composer
from mtdiff.commands.run import refuse_another, run_once
from mtdiff.config.schema import check, construct
from mtdiff.errors import ConfigError, RunError
from mtdiff.files.pictures import load_picture
from mtdiff.files.reading import read_json, read_yaml, resolve_within
from mtdiff.files.writing import hold_folder, write_atomically
from mtdiff.results.record import Result
from mtdiff.runs.adapter import read_about
from mtdiff.runs.lock import hold_alone
from mtdiff.runs.model import Model
from mtdiff.training.callbacks import save_grid
from mtdiff.training.checkpoint_files import WholeFiles
from mtdiff.training.faults import keep
from mtdiff.training.loggers import Rows

ROOT = Path(__file__).parents[2]

ONE_LINE = r"\A[^\n]+\Z"


class Payload:
    """What runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "good")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_run(folder)


@pytest.fixture
def foreign(folder: Path, tmp_path: Path) -> Path:
    """A copy of the run to be spoilt."""
    return copied(folder, tmp_path / "foreign")


def test_the_payload_is_live(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


# Classes

TARGETS = [
    "os.system",
    "builtins.exec",
    "subprocess.Popen",
    "mtdiff",
    "mtdiff.provenance.run",
    "mtdiff.provenance.subprocess.run",
    "mtdiff.provenance.git_state",
    "mtdiff.files.writing.write_atomically",
    "mtdiff.results.record.os.system",
    "mtdiff.results.record.Path.unlink",
    "mtdiff.results.record.Result.load",
    "mtdiff.runs.load.load_run",
    "mtdiff.runs.load.torch.load",
    "mtdiff.runs.export.export_pipeline",
    "mtdiff.config.schema.construct",
    "mtdiff.config.schema.importlib.import_module",
    "mtdiff.tasks.super_resolution.np.load",
    "mtdiff..tasks.Edit",
    "mtdiff.../../tmp/evil.Edit",
    "baselines.trivial.np.os.system",
    "baselines.peft_layers.add_lora",
    "mtdiff.files.reading.read_bytes",
    "",
    ".",
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("place", ["method", "backbone", "task.edit", "data"])
def test_targets_are_classes_of_ours(target: str, place: str) -> None:
    node: dict[str, Any] = {"_target_": target, "command": "true"}
    for name in reversed(place.split(".")):
        node = {name: node}
    with pytest.raises(ConfigError, match=ONE_LINE):
        check(node)


@pytest.mark.parametrize(
    "target", ["os.system", "mtdiff.provenance.subprocess.run", "mtdiff.files.writing.write_atomically"]
)
@pytest.mark.parametrize("place", ["method", "backbone"])
def test_a_run_names_classes_of_ours(target: str, place: str, folder: Path, tmp_path: Path) -> None:
    spoilt = about_changed(folder, tmp_path / "run", lambda about: about.update({place: {"_target_": target}}))
    with pytest.raises(ValueError, match=ONE_LINE):
        load_run(spoilt)


def test_no_class_hides_below_a_free_option(folder: Path, tmp_path: Path) -> None:
    hidden = {"unet": {"sample_size": {"_target_": "mtdiff.metrics.embedding.MeasuringClip", "folder": "x"}}}
    spoilt = about_changed(folder, tmp_path / "run", lambda about: about["backbone"].update(architecture=hidden))
    with pytest.raises(ValueError, match=r"\A[^\n]+sample_size._target_=mtdiff.metrics[^\n]+\Z"):
        load_run(spoilt)


YOURS = "from mtdiff.methods.mtu import MTU\n\n\nclass Mine(MTU):\n    pass\n"


def test_a_package_is_named_by_the_user(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "yours_to_name").mkdir()
    (tmp_path / "yours_to_name" / "__init__.py").write_text(YOURS)
    monkeypatch.syspath_prepend(str(tmp_path))
    method = {**ABOUT["method"], "_target_": "yours_to_name.Mine"}
    theirs = about_changed(folder, tmp_path / "run", lambda about: about.update(method=method))
    with pytest.raises(ValueError, match=r"packages=\[yours_to_name\]"):
        load_run(theirs)
    read_about(theirs, packages=("mtdiff", "baselines", "yours_to_name"))


# Interpolation


@pytest.mark.parametrize(
    "text", ["${oc.env:MTDIFF_SECRET}", "${oc.create:{_target_: pathlib.Path.mkdir, self: trace}}", "${hydra:runtime}"]
)
def test_nothing_is_resolved_in_constructing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTDIFF_SECRET", "hunter2")
    assert construct({"_target_": "mtdiff.tasks.edit.Edit", "name": text}).name == text


def test_nothing_is_resolved_in_a_config_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTDIFF_SECRET", "hunter2")
    (tmp_path / "config.yaml").write_text("seed: ${oc.env:MTDIFF_SECRET}\n")
    assert read_yaml(tmp_path / "config.yaml") == {"seed": "${oc.env:MTDIFF_SECRET}"}
    with pytest.raises(ValueError, match=r"\A(?!.*hunter2)[^\n]*another `seed`[^\n]*\Z"):
        refuse_another(tmp_path, {"seed": "hunter2"})


# YAML

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAMLS = {
    "object": ('seed: !!python/object/apply:os.mkdir ["{trace}"]', "tag"),
    "name": ("seed: !!python/name:os.system", "tag"),
    "own tag": ("seed: !secret x", "tag"),
    "billion laughs": (LAUGHS, "alias"),
    "merge": ("a: &a {x: 1}\nb: {<<: *a}", "alias"),
    "deep": ("a: " + "[" * 200 + "]" * 200, "nested too deeply"),
    "deeper": ("a: " + "[" * 100_000, "nested too deeply"),
    "broken": ("a: [", "not YAML"),
    "no date": ("a: 2001-99-99", "month"),
    "large": ("a: " + "x" * 300_000, "bytes"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_of_others(name: str, tmp_path: Path) -> None:
    content, word = YAMLS[name]
    (tmp_path / "config.yaml").write_text(content.replace("{trace}", str(tmp_path / "trace")))
    with pytest.raises(ValueError, match=rf"\A[^\n]*config.yaml: [^\n]*{word}[^\n]*\Z"):
        refuse_another(tmp_path, {"seed": 0})
    assert not (tmp_path / "trace").exists()


# Pickles


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_named_as_tensors(how: str, foreign: Path, tmp_path: Path) -> None:
    payload = Payload(tmp_path / "trace")
    with (foreign / "adapter.safetensors").open("wb") as file:
        pickle.dump(payload, file) if how == "pickle" else torch.save(payload, file)
    with pytest.raises(ValueError, match=ONE_LINE):
        load_run(foreign)
    assert not (tmp_path / "trace").exists()


def test_a_pickle_in_checkpoints(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "loops": Payload(tmp_path / "trace")}, tmp_path / "step-00000001-x.ckpt")
    with pytest.raises(RunError, match=ONE_LINE):
        WholeFiles().load_checkpoint(tmp_path / "step-00000001-x.ckpt", weights_only=False)
    assert not (tmp_path / "trace").exists()


def test_a_pickle_as_weights_of_a_base(tmp_path: Path) -> None:
    tiny = tiny_unet()
    parts = {"unet": tiny.denoiser, "vae": tiny.vae, "text_encoder": tiny.text_encoder, "tokenizer": tiny.tokenizer}
    for name, part in {**parts, "scheduler": tiny.scheduler}.items():
        part.save_pretrained(tmp_path / "base" / name)
    load(str(tmp_path / "base"), size=16)  # readable as it is
    (weights,) = (tmp_path / "base" / "unet").glob("*.safetensors")
    weights.unlink()
    torch.save(Payload(tmp_path / "trace"), weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=ONE_LINE):
        load(str(tmp_path / "base"), size=16)
    assert not (tmp_path / "trace").exists()


# Paths

PATHS = [
    "/etc/passwd",
    "../secret",
    "models/../../secret",
    "..",
    "~/models",
    "C:\\models",
    "\\\\host\\models",
    "models\\..\\secret",
    "file:///etc/passwd",
    "https://example.org/model",
    "s3://bucket/model",
    "secret",
    "./secret",
    "a/b/c",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_run_names_no_files(path: str, folder: Path, tmp_path: Path) -> None:
    spoilt = about_changed(folder, tmp_path / "run", lambda about: about["backbone"].update(weights=path))
    with pytest.raises(ValueError, match=r"\A[^\n]*backbone.weights=[^\n]+name a base of yours with base=[^\n]*\Z"):
        load_run(spoilt)


@pytest.mark.parametrize("place", [("method", "router_input"), ("task", "edit", "name"), ("backbone", "note")])
def test_nor_in_any_other_option(place: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    def change(about: dict[str, Any]) -> None:
        node = about
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = "../../secret"

    with pytest.raises(ValueError, match=ONE_LINE):
        load_run(about_changed(folder, tmp_path / "run", change))


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "abc123"])
def test_a_download_is_pinned(revision: str | None, folder: Path, tmp_path: Path) -> None:
    hub = {"weights": "someone/something", "revision": revision}
    spoilt = about_changed(folder, tmp_path / "run", lambda about: about["backbone"].update(hub))
    with pytest.raises(ValueError, match=r"\A[^\n]*backbone.revision=[^\n]+40 digits[^\n]*\Z"):
        load_run(spoilt)
    pinned = about_changed(
        folder, tmp_path / "pinned", lambda about: about["backbone"].update({**hub, "revision": "0" * 40})
    )
    assert read_about(pinned).backbone["weights"] == "someone/something"


def test_the_user_may_name_a_base(folder: Path, tmp_path: Path) -> None:
    theirs = about_changed(folder, tmp_path / "run", lambda about: about["backbone"].update(weights="/of/another"))
    assert read_about(theirs, base=str(tmp_path)).backbone["weights"] == str(tmp_path)


# Links and other files that are none


@pytest.mark.parametrize("name", ["adapter.json", "adapter.safetensors"])
def test_links_out_of_a_run(name: str, foreign: Path, tmp_path: Path) -> None:
    (foreign / name).rename(tmp_path / name)  # readable, were it not for the link
    (foreign / name).symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match=rf"\A[^\n]*{name}: leads out of its folder[^\n]*\Z"):
        load_run(foreign)


def test_links_within_and_to_a_run_are_followed(foreign: Path, tmp_path: Path) -> None:
    (foreign / "adapter.json").rename(foreign / "about.json")
    (foreign / "adapter.json").symlink_to("about.json")
    (tmp_path / "latest").symlink_to(foreign)
    assert read_about(tmp_path / "latest").tasks == ABOUT["tasks"]


def test_a_link_in_a_circle(foreign: Path) -> None:
    (foreign / "adapter.json").unlink()
    (foreign / "adapter.json").symlink_to("adapter.json")
    with pytest.raises(ValueError, match=ONE_LINE):
        load_run(foreign)


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "checkpoints", ".lock"])
@pytest.mark.parametrize("there", [True, False])
def test_a_run_does_not_write_through_links(name: str, there: bool, tmp_path: Path) -> None:
    target, mine = tmp_path / "elsewhere", tmp_path / "run"
    mine.mkdir()
    if there:
        target.write_text("precious")
    (mine / name).symlink_to(target)
    with pytest.raises(ValueError, match=rf"\A[^\n]*{name}: leads out of its folder[^\n]*\Z"):
        run_once(*configuration(mine), trivial)
    assert target.exists() == there
    assert not there or target.read_text() == "precious"


DEEP_LINKS = [
    "samples/edit.png",
    "samples/training/edit-000200.png",
    "wandb/x/y/z",
    "checkpoints/.step-00000001.ckpt.tmp",
]


@pytest.mark.parametrize("name", DEEP_LINKS)
def test_nor_through_links_at_any_depth(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"\A[^\n]*{name}: leads out of its folder[^\n]*\Z"):
        run_once(*configuration(tmp_path / "run"), trivial)
    assert not (tmp_path / "elsewhere").exists()


def log_row(run: Path) -> None:
    rows = Rows(run / "metrics.csv")
    for step in range(2):  # the second is appended
        rows.log_metrics({"loss": 1.0}, step)


BLANK = batch()
WRITERS: dict[str, tuple[list[str], Callable[[Path], object]]] = {
    "text": (["result.json"], lambda run: write_atomically(run / "result.json", "{}")),
    "picture": (
        ["samples", "samples/training", "samples/training/edit-000001.png"],
        lambda run: save_grid(run / "samples/training/edit-000001.png", BLANK, BLANK.target, BLANK.task == 0, root=run),
    ),
    "rows": (["metrics.csv"], log_row),
    "checkpoint": (
        ["checkpoints", "checkpoints/.step-00000001.ckpt.tmp"],
        lambda run: WholeFiles().save_checkpoint({"step": 1}, run / "checkpoints" / "step-00000001.ckpt"),
    ),
    "fault": (["faults", "faults/step-1.safetensors"], lambda run: keep(run / "faults" / "step-1.json", {}, BLANK)),
    "lock": ([".lock"], lambda run: hold_alone(run).__enter__()),
    "W&B": (["wandb"], lambda run: hold_folder(run, "wandb").__enter__()),
}


@pytest.mark.parametrize("kind", ["link", "link within", "hard link", "pipe"])
@pytest.mark.parametrize(("writer", "name"), [(w, name) for w, (names, _) in WRITERS.items() for name in names])
def test_no_writer_follows_a_link_set_after_the_check(writer: str, name: str, kind: str, tmp_path: Path) -> None:
    """Each writer on its own. It refuses, or puts a file of its own in the place of the link."""
    run_folder, secret = tmp_path / "run", tmp_path / "secret"
    secret.mkdir()
    (secret / "canary").write_text("precious")
    (run_folder / name).parent.mkdir(parents=True)
    whole = not Path(name).suffix and name != ".lock"
    target = secret if whole else secret / "canary"
    if kind == "hard link" and not whole:
        os.link(target, run_folder / name)
    elif kind == "pipe":
        os.mkfifo(run_folder / name)
    elif kind == "link within":
        (run_folder / "other").mkdir()
        (run_folder / name).symlink_to(run_folder / "other" / ("" if whole else "file"))
    else:
        (run_folder / name).symlink_to(target)
    with contextlib.suppress(OSError, ValueError):
        WRITERS[writer][1](run_folder)
    assert [path.name for path in secret.iterdir()] == ["canary"]
    assert (secret / "canary").read_text() == "precious"
    assert kind != "link within" or not list((run_folder / "other").iterdir())


def test_a_folder_swapped_for_a_link_while_it_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    with hold_folder(tmp_path / "run", "samples/training") as folder:
        (tmp_path / "run" / "samples").rename(tmp_path / "run" / "before")
        (tmp_path / "run" / "samples").symlink_to(tmp_path / "secret")
        (tmp_path / "secret" / "training").mkdir()
        with folder.create("edit.png") as file:
            file.write(b"picture")
    assert not list((tmp_path / "secret" / "training").iterdir())
    assert (tmp_path / "run" / "before" / "training" / "edit.png").read_bytes() == b"picture"


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / "samples" / "training").symlink_to(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        write_atomically(tmp_path / "run" / "samples" / "edit.png", b"x", tmp_path / "run")
        with pytest.raises(OSError, match="is a link or no ordinary file"):
            write_atomically(tmp_path / "run" / "samples" / "training" / "edit.png", b"x", tmp_path / "run")
    assert len(os.listdir("/proc/self/fd")) == before


def configuration(folder: Path) -> Any:
    with composer():
        return compose_run([f"run_dir={folder}"])


def test_a_result_is_not_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "run" / "result.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ValueError, match=r"\A[^\n]*result.json: leads out of its folder[^\n]*\Z"):
        Result.load(tmp_path / "run" / "result.json")


@pytest.mark.parametrize("name", ["../up.json", "/etc/passwd", "down/../../up.json"])
def test_a_file_is_within_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]*leads out of its folder[^\n]*\Z"):
        resolve_within(tmp_path, name)


@pytest.mark.parametrize("name", ["adapter.json", "adapter.safetensors"])
def test_a_pipe_is_not_waited_for(name: str, foreign: Path) -> None:
    (foreign / name).unlink()
    os.mkfifo(foreign / name)
    with pytest.raises(ValueError, match=ONE_LINE):
        load_run(foreign)


# Sizes

DEEP = {
    "deep": "[" * 100_000,
    "deep mapping": '{"a":' * 60 + "1" + "}" * 60,
    "deep and whole": "[" * 900 + "]" * 900,
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_json(name: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(DEEP[name])
    for read in (read_json, Result.load):
        with pytest.raises(ValueError, match=r"\A[^\n]*nested too deeply[^\n]*\Z"):
            read(tmp_path / "result.json")


@pytest.mark.parametrize("name", ["adapter.json", "result.json", "config.yaml"])
def test_files_without_end(name: str, foreign: Path) -> None:
    """Sparse: a terabyte that takes no disk."""
    with (foreign / name).open("wb") as file:
        file.truncate(2**40)
    read: dict[str, Any] = {
        "adapter.json": lambda: load_run(foreign),
        "result.json": lambda: Result.load(foreign / name),
        "config.yaml": lambda: refuse_another(foreign, {"seed": 0}),
    }
    with pytest.raises(ValueError, match=r"\A[^\n]*1099511627776 bytes[^\n]*\Z"):
        read[name]()


@pytest.mark.parametrize(
    ("claimed", "size"), [(2**63, 100), (2**40, 100), (100, 50), (9_000_000, 9_000_100), (2, 2**40)]
)
def test_headers_of_tensors(claimed: int, size: int, foreign: Path) -> None:
    with (foreign / "adapter.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", claimed) + b"{}")
        file.truncate(size)
    with pytest.raises(ValueError, match=r"\A[^\n]*adapter.safetensors: [^\n]*\Z"):
        load_run(foreign)


ARCHITECTURES: list[tuple[str, str, Any]] = [
    ("unet", "layers_per_block", 10_000_000),
    ("text_encoder", "num_hidden_layers", 10_000_000),
    ("unet", "cross_attention_dim", 10**12),
    ("unet", "block_out_channels", [16] * 10_000),
    ("unet", "block_out_channels", [200_000, 200_000]),
]


@pytest.mark.parametrize(("part", "key", "value"), ARCHITECTURES)
def test_models_without_end(part: str, key: str, value: Any, folder: Path, tmp_path: Path) -> None:
    spoilt = about_changed(
        folder, tmp_path / "run", lambda about: about["backbone"]["architecture"][part].update({key: value})
    )
    with pytest.raises(ValueError, match=r"\A[^\n]*backbone.architecture[^\n]*expected at most[^\n]*\Z"):
        load_run(spoilt)


@pytest.mark.parametrize(
    "option", [{"embedding_width": 10_000_000}, {"router_width": 10_000_000}, {"granularity": 2000.0}]
)
def test_methods_without_end(option: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    """Shapes in the tensors' header decide; the method is planned without memory before it is made."""
    spoilt = about_changed(folder, tmp_path / "run", lambda about: about["method"].update(option))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB
    with pytest.raises(ValueError, match=ONE_LINE):
        load_run(spoilt)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_an_adapter_of_another_base(folder: Path, tmp_path: Path) -> None:
    other = about_changed(folder, tmp_path / "run", lambda about: about.update(base="0" * 64))
    with pytest.raises(ValueError, match=r"\A[^\n]*trained on the base random with weights 0{12}, and random[^\n]*\Z"):
        load_run(other)


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG whose header claims a size that its data does not have."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [b"IHDR" + header, *chunks, b"IDAT" + zlib.compress(b"\0" * 100), b"IEND"]
    body = (struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


TEXT_BOMB = b"zTXt" + b"note\0\0" + zlib.compress(b"x" * 200_000_000, 9)


@pytest.mark.parametrize(
    "data",
    [png(9_000, 9_000), png(100_000, 100_000), png(2**31 - 1, 2**31 - 1), png(16, 16, TEXT_BOMB)],
    ids=["81 megapixels", "10 gigapixels", "largest", "200 MB of text"],
)
def test_pictures_that_unpack_to_gigabytes(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"\Aimage=[^\n]+\Z"):
        load_picture("image", tmp_path / "bomb.png")


def test_nor_by_the_library_face(model: Model, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png(9_000, 9_000))
    with pytest.raises(ValueError, match=r"\Aimage: 9000 x 9000 pixels, [^\n]+\Z"):
        model("edit", "x", Image.open(tmp_path / "bomb.png"))


# What is said, and what is kept


def test_a_message_does_not_steer_the_terminal(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clear = "\x1b[2J\x07"
    spoilt = about_changed(folder, tmp_path / "run", lambda about: about["method"].update(router_input=clear))
    with pytest.raises(SystemExit):
        guard(lambda: load_run(spoilt))
    assert "\\x1b[2J\\x07" in capsys.readouterr().err


KEYS = {"WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567", "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwxyz012345"}
SMALL = [
    "method=ia3",
    "tasks=[edit]",
    "training.steps=1",
    "training.batch_size=2",
    "training.workers=0",
    "training.sample_every=null",
    "training.validate_every=1",
    "evaluation.per_task=2",
    "evaluation.validation_per_task=1",
    "evaluation.baselines=false",
    "sampling.steps=1",
    "trainer.accelerator=cpu",
    "progress=false",
    "logger.wandb=true",
]


def test_no_key_is_written_anywhere(tmp_path: Path) -> None:
    environment = {**os.environ, **KEYS, "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        environment[name] = str(tmp_path)
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), f"run_dir={tmp_path}/run", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"result.json", "config.yaml", "adapter.json"} <= {path.name for path in files}
    assert [path for path in files if path.suffix == ".wandb"]
    for key in KEYS.values():
        assert key not in done.stdout + done.stderr
        assert not [path for path in files if key.encode() in path.read_bytes()]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "complete"
