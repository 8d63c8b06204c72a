"""The folder of one training run: its configuration, its checkpoint, its pretrained model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tarflow.errors import CheckpointError
from tarflow.flows.checkpoint import CONFIG, check_weights
from tarflow.flows.flow import Flow
from tarflow.machine.files import json_text, write_atomically

MAY_CHANGE = ("trainer", "callbacks", "logger", "resume", "run_dir")
"""Sections of a configuration that may differ when a run is resumed."""

NEEDED = ("global_step", "state_dict", "optimizer_states", "loops")
"""What a checkpoint of training holds at least."""


@dataclass(frozen=True)
class Run:
    """Paths of a training run, and how it starts.

    Attributes:
        directory: The run's folder; the same for every start, so that a run finds its checkpoint.
    """

    directory: Path

    @property
    def checkpoint(self) -> Path:
        """The state of training: weights, averages, optimizer, progress."""
        return self.directory / "checkpoints" / "last.ckpt"

    @property
    def pretrained(self) -> Path:
        """The averaged model, for evaluation and sampling."""
        return self.directory / "pretrained"

    @property
    def has_model(self) -> bool:
        """Whether there is a model."""
        return (self.pretrained / CONFIG).is_file()

    @property
    def config(self) -> Path:
        """The configuration the run was started with."""
        return self.directory / "config.json"

    def start(self, config: Mapping[str, Any], resume: str, leads: bool = True) -> Path | None:
        """Make the folder ready; returns the checkpoint to go on from, or None for a fresh start.

        Args:
            config: The resolved configuration.
            resume: `auto` goes on from the folder's checkpoint if there is one; `never` refuses a
                folder that has one.
            leads: Whether this is the process, of several of a run, that writes to the folder.

        Raises:
            CheckpointError: The folder's run has another configuration, or must not be resumed.
        """
        if resume not in ("auto", "never"):
            raise CheckpointError(f"resume={resume} is unknown: allowed are auto and never")
        if self.checkpoint.exists():
            self._check_same(config, resume)
            return self.checkpoint
        if leads:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                write_atomically(self.config, json_text(config))
            except OSError as error:
                raise CheckpointError(
                    f"the run folder {self.directory} cannot be written to ({error}): make room,"
                    " or choose another run_dir"
                ) from error
        return None

    def step(self) -> int:
        """Number of optimizer steps that the checkpoint has behind it; 0 without one.

        Raises:
            CheckpointError: The checkpoint cannot be read.
        """
        return self._read()["global_step"] if self.checkpoint.exists() else 0

    def check(self, flow: Flow) -> None:
        """Refuse a checkpoint of another model.

        Raises:
            CheckpointError: A weight is missing, unknown or of the wrong shape; names it.
        """
        if self.checkpoint.exists():
            state = self._read()["state_dict"]
            weights = {name.removeprefix("flow."): value for name, value in state.items()}
            check_weights(flow.state_dict(), weights, self.checkpoint)

    def _read(self) -> dict[str, Any]:
        """What the checkpoint holds, mapped to memory."""
        kept = "it is kept as it is; move it away or choose another run_dir"
        try:
            content = torch.load(self.checkpoint, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # of pickle, zip and torch, of many kinds
            raise CheckpointError(f"{self.checkpoint} cannot be read ({error}): {kept}") from error
        held = content if isinstance(content, dict) else {}
        missing = [key for key in NEEDED if key not in held]
        if not missing and not isinstance(held["state_dict"], dict):
            missing = ["dictionary state_dict"]
        if missing:
            raise CheckpointError(
                f"{self.checkpoint} holds no {', '.join(missing)}, so it was not written by this"
                f" version of `tarflow train`: {kept}"
            )
        return held

    def _check_same(self, config: Mapping[str, Any], resume: str) -> None:
        """Refuse to go on where that is not wanted, and to mix two configurations in one run."""
        if resume == "never":
            raise CheckpointError(
                f"{self.checkpoint} exists: go on from it with resume=auto, or choose another"
                " run_dir"
            )
        try:
            before = _flatten(up_to_date(json.loads(self.config.read_text())))
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{self.config} cannot be read ({error}), which tells what {self.checkpoint}"
                " is of: bring it back, or choose another run_dir"
            ) from error
        now = _flatten(json.loads(json_text(config)))
        changed = [
            f"{key}: {before.get(key)} -> {now.get(key)}"
            for key in sorted(before.keys() | now.keys())
            if key.split(".")[0] not in MAY_CHANGE and before.get(key) != now.get(key)
        ]
        if changed:
            raise CheckpointError(
                f"{self.directory} holds a run with another configuration ({'; '.join(changed)}):"
                " choose another run_dir, or go back to its values to resume it"
            )


def up_to_date(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Write what a run of an earlier version was started with as it is written now.

    The noise was codec and noise in one, and dropping labels was for the module.
    """
    if "objective" in config or "noise" not in config:
        return config
    noise, module = dict(config["noise"]), dict(config["module"])
    levels = {"levels": noise.pop("levels")} if "levels" in noise else {}
    if noise["_target_"] == "tarflow.UniformDequantization":
        codec, noise = {**noise, **levels}, {"_target_": "tarflow.NoNoise"}
    else:
        codec = {"_target_": "tarflow.Pixels", **levels}
    objective = {"_target_": "tarflow.training.MaximumLikelihood"}
    if "class_dropout" in module:
        objective["class_dropout"] = module.pop("class_dropout")
    module["objective"] = objective
    return {**config, "codec": codec, "noise": noise, "objective": objective, "module": module}


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
