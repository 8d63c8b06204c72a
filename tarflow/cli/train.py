"""`tarflow train`: fits a flow."""

import logging
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tarflow.cli.command import instantiate
from tarflow.data import ImageData
from tarflow.tar_flow import TarFlow


def train(config: DictConfig) -> None:
    """Fit a flow and leave a run folder."""
    import lightning

    from tarflow.training import Run

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # lightning 2.6 on torch 2.15
    for harmless in (".*does not have many workers", ".*smaller than the logging interval"):
        warnings.filterwarnings("ignore", harmless)
    run = Run(Path(config.run_dir))
    plain: Any = OmegaConf.to_container(config, resolve=True)
    checkpoint = run.start(plain, config.resume)
    if run.step() >= config.trainer.max_steps:
        print(
            f"{run.directory} is trained already: {run.step()} steps. Its model: {run.pretrained}"
        )
        return
    lightning.seed_everything(config.seed, verbose=False)
    datamodule = instantiate(config.data)
    flow = _make_flow(config, datamodule.data)
    module = instantiate(config.module, flow=flow)
    trainer = instantiate(
        config.trainer,
        logger=[instantiate(logger) for logger in (config.logger or {}).values()],
        callbacks=[instantiate(callback) for callback in config.callbacks.values()],
    )
    num_parameters = sum(parameter.numel() for parameter in flow.parameters())
    num_images = len(datamodule.data.train)
    print(f"{config.name}: {num_parameters:,} parameters, {num_images:,} training images")
    if checkpoint:
        print(f"going on from {checkpoint} at step {run.step()}")
    trainer.fit(module, datamodule, ckpt_path=checkpoint)
    print(f"the trained model is in {run.pretrained}")


def _make_flow(config: DictConfig, data: ImageData) -> TarFlow:
    """Make the flow; what the data determines need not be configured."""
    channels, height, width = data.image_shape
    determined = {
        "image_size": (height, width),
        "num_channels": channels,
        "num_classes": data.num_classes,
    }
    missing = {key: value for key, value in determined.items() if key not in config.model}
    noise = instantiate(config.noise, levels=data.levels)
    # Hydra would turn a dataclass that is passed to it into a dictionary.
    return instantiate(config.model, _partial_=True)(noise=noise, **missing)
