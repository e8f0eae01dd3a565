"""`adapter.json` of a run folder, which may be someone else's: what a model is built from, checked before that.

What it may hold is in `mtdiff.runs.foreign`. No torch here.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtdiff.config.defaults import fill_defaults
from mtdiff.config.schema import check_arguments
from mtdiff.config.settings import Sampling
from mtdiff.config.signatures import PACKAGES, signature
from mtdiff.errors import shown
from mtdiff.files.reading import check_header, read_json, resolve_within
from mtdiff.runs.checks import BUILT_IN
from mtdiff.runs.foreign import IDENTITY, check_content, name_encoder

KEYS = {"method": dict, "backbone": dict, "task": dict, "tasks": list, "sampling": dict}
HASH = re.compile(r"[0-9a-f]{64}")
log = logging.getLogger(__name__)
ADAPTERS = Path(__file__).parents[1] / "assets" / "adapters"


@dataclass(frozen=True)
class About:
    """path: of the file. content: as read; backbone and method: as they are to be constructed.

    digest: what `identity` gives.
    """

    path: Path
    content: Mapping[str, Any]
    backbone: Mapping[str, Any]
    sampling: Sampling
    encoder: str | None = None

    @property
    def method(self) -> Mapping[str, Any]:
        """With the caller's picture encoder in place of the one that is named."""
        return name_encoder(self.content["method"], self.encoder)

    @property
    def weights(self) -> Path:
        """The file of the adapter's tensors, beside `path`."""
        return self.path.with_suffix(".safetensors")

    @property
    def tasks(self) -> list[str]:
        return self.content["tasks"]

    @property
    def digest(self) -> str:
        return identity(self.content)


def identity(about: Mapping[str, Any]) -> str:
    """SHA-256 of what an adapter's numbers mean anything for: method, base and tasks in their order."""
    return hashlib.sha256(json.dumps({k: about[k] for k in IDENTITY}, sort_keys=True).encode()).hexdigest()


def read_about(
    folder: Path,
    packages: Sequence[str] = PACKAGES,
    base: str | None = None,
    option: str = "run",
    encoder: str | None = None,
) -> About:
    """folder: of a run, or the name of a shipped one. base: a base model of the caller's, in place of the one named.
    option: what a refusal calls the folder. encoder: a picture encoder of the caller's, in place of the one named."""
    if not folder.is_dir():
        own = list_shipped()
        if str(folder) not in own:
            raise ValueError(f"{option}={shown(folder)}: no such folder, nor a shipped adapter ({', '.join(own)})")
        folder = own[str(folder)]
    path = resolve_within(folder, "adapter.json")
    if not path.exists():
        raise ValueError(f"{path}: no such file, so this is not a finished run")
    return about_of(path, read_json(path), packages, base, encoder)


def about_of(
    path: Path, content: Any, packages: Sequence[str] = PACKAGES, base: str | None = None, encoder: str | None = None
) -> About:
    """The same from what a file holds: `adapter.json`, or the `config.yaml` of a run that has not come so far."""
    for key, kind in KEYS.items():
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{path}: key `{key}` is missing")
        if not isinstance(content[key], kind):
            expected = "a list" if kind is list else "a mapping"
            raise ValueError(f"{path}: {key}={shown(content[key])}: expected {expected}")
    weights = content.get("base")
    if weights is not None and (not isinstance(weights, str) or not HASH.fullmatch(weights)):
        raise ValueError(f"{path}: base={shown(weights)}: expected the hash of its weights, 64 digits")
    beside = content.get("beside", {})
    if not isinstance(beside, dict) or not all(isinstance(v, str) and HASH.fullmatch(v) for v in beside.values()):
        raise ValueError(f"{path}: beside={shown(beside)}: expected hashes of weights by name, 64 digits each")
    try:
        backbone = named_base(content["backbone"], base)
        check_content({**content, "backbone": backbone}, packages, base, encoder)
        sampling = Sampling(**content["sampling"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return About(path, content, backbone, sampling, encoder)


def check_start(plain: Mapping[str, Any]) -> About | None:
    """The run that `training.start` of a configuration names. ValueError where its adapter does not belong there."""
    return read_earlier(plain, "training.start", plain["training"].get("start"), ("method", "backbone", "tasks"))


def check_init(plain: Mapping[str, Any]) -> About | None:
    """The run that `init_from` of a configuration names. ValueError where its method or base is another."""
    start = plain.get("init_from")
    if start is not None and plain["training"].get("start") is not None:
        raise ValueError(f"init_from={shown(start)}: expected null with training.start, which names a run too")
    return read_earlier(plain, "init_from", start, ("method", "backbone"))


def read_earlier(plain: Mapping[str, Any], option: str, start: Any, keys: Sequence[str]) -> About | None:
    """A run whose adapter is to be trained further, as an option names it; None for null. keys: what must be equal."""
    if start is None:
        return None
    if not isinstance(start, str) or not start:
        raise ValueError(f"{option}={shown(start)}: expected the folder of a run, or null")
    packages = (*PACKAGES, *plain["packages"])
    about = read_about(Path(start), packages, plain["backbone"].get("weights"), option)
    for key in keys:  # what a task is in detail may change on the way
        there, own = (fill_defaults({**x, "method": drop_teacher(x["method"])})[key] for x in (about.content, plain))
        if there != own:
            expected = f"expected its own, {shown(about.content[key])}"
            raise ValueError(f"{key}={shown(plain[key])}: not what {about.path} was trained with; {expected}")
    check_header(about.weights)
    return about


def choose_sampling(about: About, given: Mapping[str, Any]) -> Sampling:
    """The sampling of a run, with what the caller gives over it. ValueError where that is no sampling."""
    check_arguments("sampling", list(signature("mtdiff.config.settings.Sampling")), given)
    chosen = Sampling(**{**about.content["sampling"], **given})
    if chosen.switch is not None and "switch" not in given and chosen.switch["light"] not in list_shipped():
        raise ValueError(
            f"{about.path}: sampling.switch.light={shown(chosen.switch['light'])}: a run may not lead to other files; "
            "name that run yourself with switch=..., or draw without it by switch=null"
        )
    return chosen


def read_light(
    switch: Mapping[str, Any] | None, full: About | Mapping[str, Any], packages: Sequence[str], base: str | None = None
) -> About | None:
    """The other run of a drawing, or None. ValueError where it can be seen already that it is of another base.

    full: the run that is drawn with, or the configuration of one.
    """
    if switch is None:
        return None
    own: Any = full.content if isinstance(full, About) else full
    return read_companion("sampling.switch.light", switch["light"], own, packages, base)


def read_teacher(plain: Mapping[str, Any]) -> About | None:
    """The run that `method.teacher` of a configuration names, or None. ValueError as for `read_companion`."""
    teacher = plain["method"].get("teacher")
    if teacher is None:
        return None
    if not isinstance(teacher, str) or not teacher:
        raise ValueError(f"method.teacher={shown(teacher)}: expected the folder of a run, or null")
    packages = (*PACKAGES, *plain["packages"])
    return read_companion("method.teacher", teacher, plain, packages, plain["backbone"].get("weights"))


def drop_teacher(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method's options without the run that taught it, which is of no use to whoever loads what it learnt."""
    return {k: v for k, v in method.items() if k != "teacher"}


def read_companion(
    option: str, folder: str, own: Mapping[str, Any], packages: Sequence[str], base: str | None = None
) -> About:
    """Another run beside one's own. ValueError where it can be seen already that it is of another base or other tasks.

    option: what names it. own: configuration or `adapter.json` of the run that it stands beside.
    """
    other = read_about(Path(folder), packages, base, option)
    names, hashes = ([f(node) for node in (other.content, own)] for f in (name_base, lambda node: node.get("base")))
    if any(all(pair) and pair[0] != pair[1] for pair in (names, hashes)):
        expected = f"expected a run on the same base, {shown(own['backbone'])}"
        raise ValueError(f"{option}={shown(folder)}: is on another base; {expected}")
    missing = [task for task in own["tasks"] if task not in other.tasks]
    if missing:
        expected = f"expected one for {', '.join(own['tasks'])}"
        raise ValueError(f"{option}={shown(folder)}: was not trained for {missing[0]}, {expected}")
    return other


def name_base(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """What tells that a base is another one without reading it; None for a folder, or what the hub has newest."""
    node = fill_defaults({"backbone": content["backbone"]})["backbone"]
    if node.get("weights") in ("random", "meta"):
        return {k: v for k, v in node.items() if k != "attention"}
    if node.get("weights") in BUILT_IN or node.get("revision") is not None:
        return {k: node.get(k) for k in ("_target_", "weights", "revision")}
    return None


def check_base(about: About, found: str) -> None:
    """Refuse a base whose weights are not those that the adapter was trained on. found: the hash of its weights."""
    recorded = about.content.get("base")
    if recorded is None:  # an adapter from before the hash was kept
        log.warning("%s does not say which weights its base had: nothing tells whether this is the one", about.path)
    elif recorded != found:
        trained, given = (
            fill_defaults({**about.content, "backbone": node})["backbone"].get("weights")
            for node in (about.content["backbone"], about.backbone)
        )
        raise ValueError(
            f"{about.path}: was trained on the base {shown(trained)} with weights {recorded[:12]}, and {shown(given)} "
            f"has weights {found[:12]}; name the base that it was trained on with base=..."
        )


def check_beside(about: About, found: Mapping[str, str]) -> None:
    """Refuse frozen networks beside the base that are not those that the adapter was trained with.

    found: `Method.beside`, of the method as it is now.
    """
    recorded = about.content.get("beside") or {}
    for name, digest in found.items():
        if name in recorded and recorded[name] != digest:
            raise ValueError(
                f"{about.path}: was trained with the {name} of weights {recorded[name][:12]}, and method.{name}="
                f"{shown(about.method.get(name))} has weights {digest[:12]}; name the one that it was trained with "
                f"with {name}=..."
            )


def list_shipped() -> dict[str, Path]:
    """Adapters inside the package, by name."""
    return {path.name: path for path in sorted(ADAPTERS.iterdir())}


def named_base(backbone: Mapping[str, Any], base: str | None) -> Mapping[str, Any]:
    return backbone if base is None else {**backbone, "weights": base, "revision": None}
