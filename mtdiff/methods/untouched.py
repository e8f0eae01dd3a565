"""The base model as it came: what every method has to beat."""

from collections.abc import Sequence

from torch import Tensor

from mtdiff.backbones.base import Backbone
from mtdiff.methods.base import Method
from mtdiff.methods.layout import Layout, Predict
from mtdiff.methods.routing import Routing
from mtdiff.types import Condition


class TargetAlone(Layout):
    """The noisy latent as it is; the source is not looked at."""

    def extra_channels(self, latent_channels: int) -> int:
        return 0

    def __call__(self, predict: Predict, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return predict(noisy, t, condition)


class Untouched(Method):
    """Changes nothing and trains nothing."""

    @property
    def layout(self) -> Layout:
        return TargetAlone()

    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        pass

    def fold(self, backbone: Backbone, task: int) -> None:
        pass
