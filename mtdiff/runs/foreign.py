"""What an `adapter.json` that may be someone else's is allowed to hold, checked before anything of it is built.

Nothing in it chooses a file of this machine, an unpinned download, a class that is not ours, or a model of any size.
No torch here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from mtdiff.config.schema import check, check_arguments
from mtdiff.config.signatures import PACKAGES, signature
from mtdiff.errors import shown
from mtdiff.runs.checks import BUILT_IN, check_sizes, check_tasks

IDENTITY = ("method", "backbone", "task", "tasks")
HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
LARGEST = {"layers": 256, "": 1_000_000}
"""Greatest numbers in an architecture or in a method, by a part of their names."""
LONGEST = 64  # list in an architecture


def name_encoder(method: Mapping[str, Any], encoder: str | None) -> Mapping[str, Any]:
    if encoder is None:
        return method
    if "encoder" not in method:
        raise ValueError(f"encoder={shown(encoder)}: expected none, the run's method reads no pictures")
    return {**method, "encoder": encoder, "revision": None}


def check_content(
    content: Mapping[str, Any], packages: Sequence[str], base: str | None, encoder: str | None = None
) -> None:
    for key in ("method", "backbone"):
        if "_target_" not in content[key]:
            raise ValueError(f"{key}._target_: has to be given")
    check_tasks(content["tasks"], content["task"])
    check({k: content[k] for k in ("method", "backbone", "task")}, packages=packages)
    for key in ("method", "backbone"):
        check_flat(key, content[key])
    for name, node in content["task"].items():
        if not isinstance(node, Mapping):
            raise ValueError(f"task.{shown(name)}={shown(node)}: expected a mapping")
        check_flat(f"task.{name}", node)
    check_arguments("sampling", list(signature("mtdiff.config.settings.Sampling")), content["sampling"])
    check_sizes({"backbone": content["backbone"], "data": {}})
    for key in IDENTITY:
        for name, value in texts(key, content[key]):
            if (base is None or name != "backbone.weights") and (encoder is None or name != "method.encoder"):
                check_path(name, value)
    if base is None:
        check_weights(content["backbone"])
    if encoder is None:
        check_pinned("method", "encoder", content["method"], "revision", "encoder")
    name_encoder(content["method"], encoder)
    check_architecture("backbone.architecture", content["backbone"].get("architecture"))
    check_architecture("method", content["method"])


def check_flat(key: str, node: Mapping[str, Any]) -> None:
    """Refuse our classes as options of others: no method, backbone or task takes one, but `Any` would let it pass."""
    for name, text in texts(key, {k: v for k, v in node.items() if k != "_target_"}):
        if name.endswith("._target_") and text.split(".")[0] in PACKAGES:
            raise ValueError(f"{name}={shown(text)}: expected plain values in {key}")


def texts(key: str, node: Any) -> Iterator[tuple[str, str]]:
    """Dotted keys and texts below a node."""
    if isinstance(node, Mapping):
        for name, child in node.items():
            yield from texts(f"{key}.{name}", child)
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from texts(f"{key}[{i}]", child)
    elif isinstance(node, str):
        yield key, node


def check_path(key: str, text: str) -> None:
    """Refuse what would be read as a path to elsewhere."""
    outside = text.startswith(("/", "~", "\\")) or PureWindowsPath(text).drive or "://" in text
    if outside or ".." in (*PurePosixPath(text).parts, *PureWindowsPath(text).parts):
        own = {
            "backbone.weights": "; name a base of yours with base=...",
            "method.encoder": "; name an encoder of yours with encoder=...",
        }.get(key, "")
        raise ValueError(f"{key}={shown(text)}: a run may not lead to other files{own}")


def check_weights(backbone: Mapping[str, Any]) -> None:
    """Weights are built in, or come from the hub at a commit."""
    for key, revision in (("weights", "revision"), ("parts", "parts_revision")):
        check_pinned("backbone", key, backbone, revision, "base")


def check_pinned(section: str, key: str, node: Mapping[str, Any], revision: str, option: str) -> None:
    """Refuse weights that are neither built in nor of the hub at a commit. option: by which the caller names others."""
    weights, commit = node.get(key), node.get(revision)
    if weights is None or weights in BUILT_IN:
        return
    if not isinstance(weights, str) or not HUB.fullmatch(weights):
        expected = f"expected {', '.join(BUILT_IN)} or a hub repository; name a {option} of yours with {option}=..."
        raise ValueError(f"{section}.{key}={shown(weights)}: {expected}")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        expected = f"expected the commit of {weights}, 40 digits; name the {option} yourself with {option}=..."
        raise ValueError(f"{section}.{revision}={shown(commit)}: {expected}")


def check_architecture(key: str, node: Any) -> None:
    """Refuse numbers and lists by which a model would take forever to be planned."""
    if isinstance(node, Mapping):
        for name, child in node.items():
            check_architecture(f"{key}.{name}", child)
    elif isinstance(node, list):
        if len(node) > LONGEST:
            raise ValueError(f"{key}: {len(node)} entries, expected at most {LONGEST}")
        for i, child in enumerate(node):
            check_architecture(f"{key}[{i}]", child)
    elif isinstance(node, int | float):
        most = next(number for part, number in LARGEST.items() if part in key.rpartition(".")[2])
        if abs(node) > most:
            raise ValueError(f"{key}={node}: expected at most {most}")
