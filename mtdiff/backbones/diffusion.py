"""Forward process and regression target of the backbone's own noise schedule.

Letters: B batch, C latent channels, h w latent size.
"""

from typing import Any

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction", "flow_prediction")


class Diffusion:
    """Noise and target for a diffusers scheduler, which says what the denoiser predicts.

    epsilon (arXiv 2006.11239): the noise. v_prediction (2202.00512): sqrt(a) noise - sqrt(1 - a) latent.
    flow_prediction (2210.02747; schedulers with `sigmas` in place of `alphas_cumprod`): noise - latent on a straight
    line, with t in (0, T] and sigma = t / T.
    """

    def __init__(self, scheduler: Any) -> None:
        config = scheduler.config
        self.steps: int = config["num_train_timesteps"]
        self.prediction: str = config.get("prediction_type", "flow_prediction")
        self.flow = self.prediction == "flow_prediction"
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"scheduler.prediction_type={self.prediction!r}: expected one of {', '.join(PREDICTIONS)}")
        alphas = None if self.flow else scheduler.alphas_cumprod.double()
        self.levels = None if alphas is None else torch.stack([alphas.sqrt(), (1 - alphas).sqrt()]).float()  # (2, T)

    def times(self, number: int, generator: torch.Generator | None = None, shift: float = 1.0) -> Tensor:
        """Training times (B,): whole numbers in [0, T), for flows real ones in (0, T].

        Uniform, or, with a shift s other than 1, t / T = s u / (1 + (s - 1) u) of a uniform u: SD3's shift of a
        flow's times (arXiv 2403.03206, eq. 23), here of any schedule's. Above 1, more of them are noisy ones.
        """
        if not self.flow and shift == 1:
            return torch.randint(self.steps, (number,), generator=generator)
        u = 1 - torch.rand(number, generator=generator)  # (0, 1]
        t = self.steps * (shift * u / (1 + (shift - 1) * u))
        return t if self.flow else t.long().clamp_max(self.steps - 1)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise level at times t, each (B, 1, 1, 1) float32."""
        if self.levels is None:
            sigma = (t.float() / self.steps).view(-1, 1, 1, 1)
            return 1 - sigma, sigma
        signal, level = self.levels.to(t.device)[:, t]
        return signal.view(-1, 1, 1, 1), level.view(-1, 1, 1, 1)

    def noisy(self, latent: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """(B, C, h, w): signal * latent + noise level * noise."""
        signal, level = self.coefficients(t)
        return signal * latent + level * noise

    def aggregate(self, t: Tensor, strength: float) -> Tensor:
        """Weight (B, 1, 1, 1) at t (B,) of a modality E that is aggregated with the picture (MT-Diffusion, 2407.17571).

        z_t = sqrt(abar_t) z_0 + atil_t E + sqrt(1 - abar_t) eps. The paper has atil_t = sqrt(a_t) (w_t + atil_{t-1})
        without w_t. Decided here: atil_t = c sqrt(abar_t) (1 - sqrt(abar_t)), 0 at both ends, with c the strength; so
        w = c sqrt(abar_s) (sqrt(abar_s) - sqrt(abar_t)) for a jump from t to s, finite at zero terminal SNR. Since
        z_t - atil_t E is a plain chain, a sampler may step on that one: the mean is then the plain one minus w E.
        """
        signal, _ = self.coefficients(t)
        return strength * signal * (1 - signal)

    def target(self, latent: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser is regressed on, (B, C, h, w)."""
        if self.prediction == "epsilon":
            return noise
        if self.flow:
            return noise - latent
        signal, level = self.coefficients(t)
        return signal * noise - level * latent

    def clean_error(self, t: Tensor) -> Tensor:
        """Factor (B,) from the squared error of the prediction to that of the clean latent it implies."""
        signal, level = self.coefficients(t)
        ratio = level / signal if self.prediction == "epsilon" else level
        return ratio.pow(2).flatten()

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio (B,)."""
        signal, level = self.coefficients(t)
        return (signal / level).pow(2).flatten()
