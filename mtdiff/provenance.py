"""Where a result comes from: commit, versions, device. No torch here, unless a GPU was used."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

VERSIONED = ("mtdiff", "torch", "lightning", "diffusers", "transformers", "peft", "numpy", "scikit-image", "lpips")
SAMPLED = 2**16  # values of a tensor, at least, where it has more


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Where a result comes from: `git`, `versions` and `device`, ready for `Result(**provenance(...), ...)`."""
    return {"git": git_state(Path(__file__).parent), "versions": versions(), "device": device_name(device)}


def git_state(folder: Path) -> dict[str, Any]:
    """{commit, dirty} of the repository that tracks `folder`; nulls where none does, or where nothing is committed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tracked, commit = git("ls-files", "."), git("rev-parse", "--verify", "--quiet", "HEAD")
    if not tracked or not commit:
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": git("status", "--porcelain", "--untracked-files=no") != ""}


def versions() -> dict[str, str]:
    """Installed versions of what decides the numbers, and of Python."""
    found = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def hash_sources() -> str:
    """SHA-256 of this project's own Python sources, of the library and of the baselines beside it."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for package in ("mtdiff", "baselines") for path in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def device_name(device: str) -> str:
    """The processor's or the GPU's own name, as `cpu: AMD EPYC ...` or `cuda: NVIDIA H100 ...`."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        import torch  # only where a GPU was used, so it is loaded already

        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{kind}: {_processor()}"


def hash_weights(weights: "Iterable[Tensor]") -> str:
    """SHA-256 of a base's weights, whatever their names and order; of a large tensor, evenly spaced values.

    Two bases that were trained differently differ in it; it is no protection against someone who forges one.
    """
    digests = []
    for weight in weights:
        values = weight.detach().reshape(-1)
        some = values[:: max(1, len(values) // SAMPLED)].float().cpu().numpy()
        digests.append(hashlib.sha256(f"{tuple(weight.shape)}".encode() + some.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, '') or platform.machine()}, {os.cpu_count()} cores"
