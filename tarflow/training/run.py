"""The folder of one training run: its configuration, its checkpoint, its pretrained model."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tarflow.arguments import flattened
from tarflow.data.divided_data import DividedData
from tarflow.data.fingerprint import differences, fingerprint
from tarflow.errors import CheckpointError
from tarflow.flows.checkpoint import CONFIG, check_weights
from tarflow.machine.files import json_text, write_atomically

MUST_MATCH = (
    *(
        "seed",
        "model",
        "codec",
        "noise",
        "noise_std",
        "objective",
        "optimizer",
        "schedule",
        "module",
    ),
    "origin",
    *("data._target_", "data.batch_size", "data.drop_last", "data.data.horizontal_flip"),
)
"""What changes the mathematics, so that a run that is resumed must have it as it was."""

MAY_CHANGE = (
    *("module.attention", "module.compile"),
    *("module.checkpointed_layers", "module.max_skipped_steps"),
)
"""What changes how a module computes, and not what."""

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

    @property
    def data(self) -> Path:
        """The fingerprint of the data it was started with."""
        return self.directory / "data.json"

    @property
    def loss(self) -> Path:
        """The loss that the run ended with."""
        return self.directory / "loss.json"

    def start(
        self,
        config: Mapping[str, Any],
        resume: str,
        leads: bool = True,
        completed: Callable[[Any], Any] = dict,
    ) -> Path | None:
        """Make the folder ready; returns the checkpoint to go on from, or None for a fresh start.

        Args:
            config: The resolved configuration.
            resume: `auto` goes on from the folder's checkpoint if there is one; `never` refuses a
                folder that has one.
            leads: Whether this is the process, of several of a run, that writes to the folder.
            completed: Adds what a configuration leaves to defaults, as one does that was written
                before a setting was there.

        Raises:
            CheckpointError: The folder's run has other settings, or must not be resumed.
        """
        if resume not in ("auto", "never"):
            raise CheckpointError(f"resume={resume} is unknown: allowed are auto and never")
        if self.checkpoint.exists():
            self._check_same(config, resume, completed)
            return self.checkpoint
        if leads:
            self._write(self.config, config)
        return None

    def check_data(self, data: DividedData, leads: bool = True) -> None:
        """Refuse to go on with other data than those the run began with, and note which these are.

        Raises:
            CheckpointError: They differ; says in what. Or the note cannot be read or written.
        """
        found = fingerprint(data)
        if self.checkpoint.exists() and self.data.exists():
            try:
                changed = differences(json.loads(self.data.read_text())["parts"], found)
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                changed = [f"{self.data.name} cannot be read: {error!r}"]
            if changed:
                raise CheckpointError(
                    f"the data of {self.directory} are not those it was trained on"
                    f" ({'; '.join(changed)}): bring these back, or choose another run_dir; to go"
                    f" on with {data.name} as it is now, remove {self.data}"
                )
        elif leads:
            self._write(self.data, {"name": data.name, "parts": found})

    def step(self) -> int:
        """Number of optimizer steps that the checkpoint has behind it; 0 without one.

        Raises:
            CheckpointError: The checkpoint cannot be read.
        """
        return self._read()["global_step"] if self.checkpoint.exists() else 0

    def note_loss(self, step: int, loss: float) -> None:
        """Keep the loss after a step, which a sweeper asks for again where it goes on."""
        self._write(self.loss, {"step": step, "loss": loss})

    def noted_loss(self, step: int) -> float | None:
        """The loss after a step, if it is kept.

        Raises:
            CheckpointError: The file cannot be read.
        """
        if not self.loss.is_file():
            return None
        try:
            found = json.loads(self.loss.read_text())
            return float(found["loss"]) if found["step"] == step else None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(
                f"{self.loss} cannot be read ({error!r}), which tells the loss of a run that is"
                " finished: remove it to do without"
            ) from error

    def check(self, module: nn.Module) -> None:
        """Refuse a checkpoint of another model, or of another objective that learns.

        Args:
            module: What was trained, whose state the checkpoint holds.

        Raises:
            CheckpointError: A weight is missing, unknown or of the wrong shape; names it.
        """
        if self.checkpoint.exists():
            check_weights(module.state_dict(), self._read()["state_dict"], self.checkpoint)

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

    def _check_same(
        self, config: Mapping[str, Any], resume: str, completed: Callable[[Any], Any]
    ) -> None:
        """Refuse to go on where that is not wanted, and to mix two configurations in one run."""
        if resume == "never":
            raise CheckpointError(
                f"{self.checkpoint} exists: go on from it with resume=auto, or choose another"
                " run_dir"
            )
        try:
            before = up_to_date(json.loads(self.config.read_text()))
            old = flattened(completed(before))
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{self.config} cannot be read ({error}), which tells what {self.checkpoint}"
                " is of: bring it back, or choose another run_dir"
            ) from error
        new = flattened(completed(json.loads(json_text(config))))
        changed = {
            key: f"{old.get(key)} -> {new.get(key)}"
            for key in sorted(old.keys() | new.keys())
            if _must_match(key) and old.get(key, False) != new.get(key, False)
        }
        # A module refers to what other sections say too.
        told = [
            f"{key}: {words}"
            for key, words in changed.items()
            if changed.get(key.removeprefix("module.")) != words or not key.startswith("module.")
        ]
        if told:
            raise CheckpointError(
                f"{self.directory} holds a run with other settings, on which its result depends"
                f" ({'; '.join(told)}): go back to their former values to resume it, or choose"
                " another run_dir for a new run"
            )

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a file of the folder."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json_text(content))
        except OSError as error:
            raise CheckpointError(
                f"the run folder {self.directory} cannot be written to ({error}): make room,"
                " or choose another run_dir"
            ) from error


def _must_match(key: str) -> bool:
    """Whether a key is as it was in every run that goes on."""
    must, may = (
        any(f"{key}.".startswith(f"{each}.") for each in keys) for keys in (MUST_MATCH, MAY_CHANGE)
    )
    return must and not may


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
