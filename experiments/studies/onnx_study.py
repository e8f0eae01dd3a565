"""MTU on a small device: folded denoisers for several numbers of experts, as ONNX, timed beside the base.

    python experiments/studies/onnx_study.py backbone=nano out=onnx.json
    python experiments/studies/onnx_study.py task=super_resolution experts=[1,4] threads=[1] repeats=50

Every export is checked against torch; times are medians with their 5th and 95th percentile, ratios are to the base in
the same rounds. Options of its own:

    out=FILE                    a JSON file; else the terminal alone
    task=edit                   folded for this task; form=routed keeps the experts, which then read the task id
    experts=[1,2,4,8,16]  threads=[1,2]  repeats=20  warmup=3  quantise=linear|all  seed=0

All others are those of experiments/run.py. Needs `pip install 'mtdiff[onnx]'`; measure on a machine that rests.
"""

import importlib.util
import json
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mtdiff.commands.arguments import check_output, split_settings
from mtdiff.commands.command import run_command
from mtdiff.commands.compose import read_configuration
from mtdiff.config.schema import construct, refuse
from mtdiff.errors import ConfigError
from mtdiff.files.writing import write_atomically
from mtdiff.provenance import device_name, versions

STUDY = "mtdiff.runs.onnx.Study"
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


def checked_study(options: Mapping[str, Any], plain: Mapping[str, Any]) -> Any:
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: not installed; pip install 'mtdiff[onnx]'")
    study = construct({"_target_": STUDY, **options})
    if study.task not in plain["tasks"]:
        raise refuse("task", study.task, plain["tasks"])
    if "experts" not in plain["method"]:
        raise ConfigError(f"method={plain['method']['_target_']}: has no experts; expected mtu")
    return study


def list_answers(plain: Mapping[str, Any], study: Any) -> list[dict[str, Any]]:
    from mtdiff.costs.flops import has_source
    from mtdiff.methods.untouched import Untouched
    from mtdiff.model.denoiser import Denoiser
    from mtdiff.runs.onnx import BASE, measure_networks

    def make(experts: int) -> Denoiser:
        backbone = construct(plain["backbone"])
        method = Untouched() if experts == BASE else construct({**plain["method"], "experts": experts})
        return Denoiser(backbone, method, plain["tasks"])

    task = plain["tasks"].index(study.task)
    source = has_source(construct(plain["task"][study.task]))
    with tempfile.TemporaryDirectory() as folder:
        return measure_networks(make, study, task, source, Path(folder))


def lines(rows: list[dict[str, Any]]) -> list[str]:
    said = ["experts  variant    threads  ms median [p5, p95]        ratio to the base     error      MB"]
    for row in rows:
        ms, ratio = row["latency_ms"], row["ratio"]
        said.append(
            f"{row['experts'] or 'base':>7}  {row['variant']:<9}  {row['threads']:>7}  "
            f"{ms['median']:8.2f} [{ms['low']:.2f}, {ms['high']:.2f}]  "
            f"{ratio['median']:6.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]  "
            f"{row['error']:.1e}  {row['file_mb']:6.1f}"
        )
    return said


def main(arguments: list[str]) -> None:
    own, overrides = split_settings(arguments, settings=STUDY, further=("out",), script="onnx_study")
    out = check_output(own.get("out"))
    plain, chosen = read_configuration(overrides)
    study = checked_study({k: v for k, v in own.items() if k != "out"}, plain)
    rows = list_answers(plain, study)
    print("\n".join(lines(rows)))
    if out is not None:
        about = {"schema": 1, "backbone": chosen["backbone"], "method": plain["method"], "tasks": plain["tasks"]}
        about |= {"study": vars(study), "device": device_name("cpu"), "rows": rows}
        about["versions"] = versions() | {name: version(name) for name in LIBRARIES}
        write_atomically(out, json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main, __doc__)
