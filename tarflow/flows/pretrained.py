"""Models that are saved and loaded."""

from functools import reduce
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from tarflow.errors import CheckpointError
from tarflow.flows import checkpoint
from tarflow.registry import KNOWN, Part

Kind = TypeVar("Kind", bound="Pretrained")


class Pretrained(nn.Module, Part):
    """A model that its description and its weights make again.

    Attributes:
        description: A dataclass with the arguments of the model's class; None where it cannot be
            saved.
        kind: The model's class.
    """

    description: Part | None
    kind: type[nn.Module]

    def save_pretrained(self, directory: Path | str, words: str = "") -> None:
        """Write `config.json` and `model.safetensors`, from which `tarflow.load` reads.

        The folder is made if need be; a failure leaves what was there before. Words tell which
        weights they are.

        Raises:
            CheckpointError: The model has no description.
        """
        checkpoint.save(directory, self.described, self.state_dict(), words)

    @property
    def described(self) -> tuple[str, Part]:
        """The name of the model's class and its description, from which others of it are made.

        Raises:
            CheckpointError: The description is missing, not what the class is made with, or holds
                what a file cannot keep.
        """
        name, taken = self.kind.__name__, signature(self.kind).parameters
        any_other = any(each.kind is each.VAR_KEYWORD for each in taken.values())
        known = self.description is not None and (
            any_other or vars(self.description).keys() <= taken.keys()
        )
        if self.description is None or not known:
            raise CheckpointError(
                f"a {name} cannot be saved: let it have a description, a dataclass with the"
                f" arguments of {name}, which its constructor passes on or sets"
            )
        checkpoint.encode(self.description)
        return name, self.description

    def remade(self: Kind, **changes: Any) -> Kind:
        """Another model of the same description but for changes, with weights of its own."""
        _, description = self.described
        parts = (vars(description) | changes).items()
        arguments = {k: v.remade() if isinstance(v, Pretrained) else v for k, v in parts}
        return self.kind(**arguments)  # pyright: ignore[reportReturnType]

    @classmethod
    def from_pretrained(cls: type[Kind], directory: Path | str) -> Kind:
        """Read a folder written by `save_pretrained`: on the CPU, in the dtype of the weights.

        The registry finds the class by its name. Nothing is downloaded or imported, and no code
        that came with the folder is run.

        Raises:
            CheckpointError: The folder is missing, damaged, does not fit together, or holds a
                model of another class.
        """
        name, arguments = checkpoint.read_config(directory)
        weights = checkpoint.read_weights(directory)
        kind = KNOWN.get(name)
        if not (isinstance(kind, type) and issubclass(kind, cls)):
            if isinstance(kind, type) and issubclass(kind, Pretrained):
                raise CheckpointError(
                    f"{directory} holds a {name}, which is not a {cls.__name__}: give the folder"
                    f" of a {cls.__name__}"
                )
            raise CheckpointError(
                f"{directory} holds a {name!r}, which is not a known {cls.__name__}: import the"
                " package that defines it first, or give the commands its name in TARFLOW_TARGETS"
            )
        checkpoint.check_extent(arguments, len(weights), directory)
        try:
            with torch.device("meta"):  # what does not fit might not fit the memory either
                outline = kind(**arguments)
        except (TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            raise CheckpointError(f"{directory}: cannot make the model: {error}") from error
        checkpoint.check_weights(outline.state_dict(), weights, directory)
        model = kind(**arguments)
        dtypes = {value.dtype for value in weights.values() if value.is_floating_point()}
        if dtypes:
            model.to(reduce(torch.promote_types, dtypes))
        checkpoint.load_weights(model, weights, directory)
        return model.eval()


def load(directory: Path | str) -> Any:
    """Read any flow or student from a pretrained folder; see `Pretrained.from_pretrained`."""
    return Pretrained.from_pretrained(directory)
