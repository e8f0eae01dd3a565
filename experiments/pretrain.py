"""Build the shipped base models from the shipped data, stage by stage (configs/pretrain.yaml).

    python experiments/pretrain.py [autoencoder.budget.steps=8000] [device=cuda]
    python experiments/pretrain.py 'stages=[denoiser,judge]' work=trials/wide denoiser.budget.seconds=3600

Stopped and started again it continues. Every stage leaves `<work>/<stage>/{log.csv, state.pt, model/, samples/}`, and
what was measured in `<work>/facts.json`. A state that another configuration or other data made is refused.
"""

import logging

from mtdiff.commands.command import run_command


def main(arguments: list[str]) -> None:
    from omegaconf import OmegaConf

    from mtdiff.commands.compose import compose_run, composer
    from mtdiff.config.schema import refuse

    with composer():
        config = OmegaConf.to_container(compose_run(arguments, "pretrain")[0], resolve=True)
    assert isinstance(config, dict)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    import torch
    from base_model.build import STAGES
    from base_model.work import Work
    from transformers.utils.logging import disable_progress_bar

    for name in config["stages"]:
        if name not in STAGES:
            raise refuse("stages", name, list(STAGES))
    if config["threads"] is not None:
        torch.set_num_threads(config["threads"])
    disable_progress_bar()
    work = Work(config)  # type: ignore[arg-type]
    for name in config["stages"]:
        logging.info("stage %s", name)
        STAGES[name](work)


if __name__ == "__main__":
    run_command(main, __doc__)
