"""Folded denoisers as ONNX files, checked against torch and timed with onnxruntime beside the plain base.

For each number of experts N the adapted denoiser is folded for one task (it then has the base's own shape), exported,
and dynamically quantised (8-bit weights of matrix products; activations are quantised as they come). Times of all
networks are taken in turn, round by round, so that a busy machine slows them alike; ratios are within a round.

Letters: B batch, C packed channels, h w latent size.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtdiff.backbones.base import Backbone
from mtdiff.costs.flops import encode_prompt, make_condition, make_inputs
from mtdiff.model.denoiser import Denoiser
from mtdiff.types import Condition

TOLERANCE = 1e-3  # of an export's largest error, relative to the largest prediction
LARGE = 1500  # MB from which on weights lie beside the file, as its format demands
BASE = 0  # the number of experts of the untouched base


@dataclass(frozen=True)
class Study:
    """task: folded for it (`form=routed` exports the multi-task network instead, which still reads the task id).

    experts: values of N. threads: of onnxruntime, one session each. repeats: rounds that count, after `warmup`.
    quantise: `linear` layers alone, or `all` that onnxruntime can, convolutions included.
    """

    task: str = "edit"
    form: Literal["folded", "routed"] = "folded"
    experts: Sequence[int] = (1, 2, 4, 8, 16)
    threads: Sequence[int] = (1, 2)
    repeats: int = 20
    warmup: int = 3
    quantise: Literal["linear", "all"] = "linear"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values, least in (
            ("experts", self.experts, 1),
            ("threads", self.threads, 1),
            ("repeats", [self.repeats], 1),
            ("warmup", [self.warmup], 0),
        ):
            if not values or any(not isinstance(v, int) or v < least for v in values):
                raise ValueError(f"{name}={values}: expected whole numbers of at least {least}")


class Tensors(nn.Module):
    """The denoising network as a function of tensors alone. writes: also read the task id, as a routed network does."""

    def __init__(self, denoiser: Denoiser, row: Condition, writes: bool) -> None:
        super().__init__()
        self.network, self.writes = denoiser.backbone.denoiser, writes
        self._predict, self._routing = denoiser.backbone.predict, denoiser.routing
        self._row, self._names = row, tuple(row.extra)

    def forward(self, packed: Tensor, t: Tensor, text: Tensor, *others: Tensor) -> Tensor:
        """others: what else the backbone reads of the text, and last the task id where the network is routed."""
        if self.writes:
            self._routing.write(others[-1], t)
        extra = dict(zip(self._names, others, strict=False))
        return self._predict(packed, t, replace(self._row, text=text, extra=extra))


@dataclass(frozen=True)
class Exported:
    """An ONNX file, its inputs by name, and what torch predicts for them."""

    path: Path
    feed: Mapping[str, NDArray[Any]]
    expected: NDArray[np.float32]

    @property
    def size_mb(self) -> float:
        """Size in 10^6 bytes, with the weights that lie beside it."""
        return sum(p.stat().st_size for p in self.path.parent.glob(f"{self.path.name}*")) / 1e6


# Exporting


def export_onnx(
    denoiser: Denoiser, path: Path, *, source: bool, task: int = 0, routed: bool = False, seed: int = 0
) -> Exported:
    """Export a network for one sample in float32. source: whether the task has a source image, which may change its
    number of tokens."""
    backbone = denoiser.backbone
    row = make_condition(backbone, encode_prompt(backbone), source, task)
    packed = torch.randn(
        1, input_width(backbone), *backbone.latent_shape[1:], generator=torch.Generator().manual_seed(seed)
    )
    _, t = make_inputs(backbone, row)
    asked = {"task": row.task} if routed else {}
    feed = {"packed": packed, "t": t, "text": row.text, **row.extra, **asked}
    network = Tensors(denoiser, row, routed).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about what it has not met yet
        expected = network(*feed.values()).numpy()
        options: Any = {"input_names": list(feed), "output_names": ["prediction"], "verbose": False}
        torch.onnx.export(network, tuple(feed.values()), path, dynamo=True, **options)
    repair_graph(path)
    return Exported(path, {name: value.numpy() for name, value in feed.items()}, expected)


def input_width(backbone: Backbone) -> int:
    """Return the number of channels that the input convolution reads."""
    (site,) = backbone.sites("input")
    return site.width


def repair_graph(path: Path) -> None:
    """Repair, in place, what onnxruntime stumbles over in files of torch's exporter.

    Recorded shapes that its own optimisation has made wrong are dropped; they are inferred again. A Squeeze of an axis
    that is not 1 long does nothing in torch, and is an error in ONNX: it is taken out.
    """
    import onnx
    from onnx.numpy_helper import to_array

    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    sides = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.input)}
    axes = {v.name: to_array(v).ravel() for v in graph.initializer if v.data_location != onnx.TensorProto.EXTERNAL}
    for node in [n for n in graph.node if n.op_type == "Squeeze" and len(n.input) == 2]:
        given, axis = node.input
        if given in sides and axis in axes and any(sides[given][i] != 1 for i in axes[axis]):
            node.op_type = "Identity"
            del node.input[1]
    del graph.value_info[:]
    onnx.save(model, path)


def quantise(exported: Exported, path: Path, which: Literal["linear", "all"]) -> Exported:
    """Write the same network with 8-bit weights. Convolutions need unsigned ones."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kinds = ["MatMul", "Gemm", "Conv"] if which == "all" else ["MatMul", "Gemm"]
    weight = QuantType.QUInt8 if which == "all" else QuantType.QInt8
    large = exported.size_mb > LARGE
    quantize_dynamic(
        exported.path, path, op_types_to_quantize=kinds, weight_type=weight, use_external_data_format=large
    )
    return replace(exported, path=path)


# Running


def make_session(path: Path, threads: int) -> Any:
    """Open a session whose threads rest between runs: those of sessions that take turns would wait actively else."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def relative_error(exported: Exported) -> float:
    """Return the largest difference from torch's prediction, relative to the largest prediction."""
    (found,) = make_session(exported.path, 1).run(None, dict(exported.feed))
    return float(np.abs(found - exported.expected).max() / np.abs(exported.expected).max())


def time_in_turn(calls: Sequence[Callable[[], object]], repeats: int, warmup: int) -> NDArray[np.float64]:
    """Time calls in turn, in milliseconds (calls, repeats): each once a round, a round starting with another one."""
    taken = np.zeros((len(calls), warmup + repeats))
    for r in range(warmup + repeats):
        for k in range(len(calls)):
            i = (k + r) % len(calls)
            began = time.perf_counter()
            calls[i]()
            taken[i, r] = 1e3 * (time.perf_counter() - began)
    return taken[:, warmup:]


def percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    """Return the median, and the 5th and 95th percentile."""
    low, median, high = np.percentile(values, [5, 50, 95])
    return {"median": float(median), "low": float(low), "high": float(high)}


def time_networks(
    networks: Mapping[int, Exported], threads: int, repeats: int, warmup: int
) -> dict[int, dict[str, Any]]:
    """Return `latency_ms`, and `ratio` to the base within the same rounds, by number of experts."""
    sessions = {n: make_session(exported.path, threads) for n, exported in networks.items()}

    def call(n: int) -> Callable[[], object]:
        return lambda: sessions[n].run(None, dict(networks[n].feed))

    taken = dict(zip(networks, time_in_turn([call(n) for n in networks], repeats, warmup), strict=True))
    return {n: {"latency_ms": percentiles(ms), "ratio": percentiles(ms / taken[BASE])} for n, ms in taken.items()}


# The study


def export_networks(
    make: Callable[[int], Denoiser], study: Study, task: int, source: bool, folder: Path
) -> Iterator[tuple[int, Exported, Exported]]:
    """Yield (N, plain, quantised) for the base and every N. make: N -> adapted denoiser, BASE -> the base."""
    for n in (BASE, *study.experts):
        denoiser, routed = make(n), study.form == "routed" and n != BASE
        if n != BASE:
            add_noise(denoiser, study.seed)
        if n != BASE and not routed:
            denoiser.method.fold(denoiser.backbone, task)
        place = folder / str(n)
        place.mkdir()
        plain = export_onnx(denoiser, place / "plain.onnx", source=source, task=task, routed=routed, seed=study.seed)
        yield n, plain, quantise(plain, place / "quantised.onnx", study.quantise)


@torch.no_grad()
def add_noise(denoiser: Denoiser, seed: int) -> None:
    """Add small noise to what is trained, so that no part of the network is trivial: zeros, or slices of the base."""
    rng = torch.Generator().manual_seed(seed)
    for p in denoiser.trained_parameters().values():
        p.add_(0.02 * torch.randn(p.shape, generator=rng))


def measure_networks(
    make: Callable[[int], Denoiser], study: Study, task: int, source: bool, folder: Path
) -> list[dict[str, Any]]:
    """Make a row per N, variant and thread count; ArithmeticError where a plain export differs from torch."""
    made = list(export_networks(make, study, task, source, folder))
    rows = []
    for k, variant in enumerate(("plain", "quantised")):
        exported = {n: pair[k] for n, *pair in made}
        errors = {n: relative_error(one) for n, one in exported.items()}
        worst = max(errors.values())
        if variant == "plain" and not worst <= TOLERANCE:
            raise ArithmeticError(f"an export differs from torch by {worst:.2g} of the largest value: {errors}")
        for threads in study.threads:
            for n, times in time_networks(exported, threads, study.repeats, study.warmup).items():
                about = {"experts": n or None, "variant": variant, "threads": threads}
                rows.append({**about, **times, "error": errors[n], "file_mb": exported[n].size_mb})
    return rows
