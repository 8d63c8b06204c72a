"""What tells two data sets apart, whatever they are called and wherever they lie."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from tarflow.data.divided_data import DividedData
from tarflow.errors import DataError

LOOKED_AT = 256
"""Examples of each part that are read, evenly spread over it."""


def fingerprint(data: DividedData) -> dict[str, dict[str, Any]]:
    """What the parts hold that a training run reads, as plain values.

    Of each part: the number of examples, a digest of all labels, where the data set has them at
    hand, and one of each of `LOOKED_AT` examples, by index. torch's random state stays as it is.
    """
    parts = {name: part for name, part in data.parts.items() if name != "test"}
    return {name: _of_part(part) for name, part in parts.items()}


def differences(
    before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """In what two fingerprints differ, in words."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            found.append(f"the part {name} is {'new' if old is None else 'gone'}")
        elif old["count"] != new["count"]:
            found.append(f"{name} has {new['count']} examples, and had {old['count']}")
        elif old != new:
            found.append(f"{name} {_difference(old, new)}")
    return found


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In what two parts of as many examples differ."""
    others = [index for index, held in old["examples"].items() if new["examples"][index] != held]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        return f"has other examples, of those looked at {', '.join(others[:5])}{more}"
    return "has other labels"


def _of_part(part: Any) -> dict[str, Any]:
    """The fingerprint of a part."""
    count = len(part)
    chosen = np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int).tolist()
    examples = {}
    with torch.random.fork_rng([]):
        for index in chosen:
            torch.default_generator.manual_seed(index)  # for what is drawn as one is read
            try:
                examples[str(index)] = _digest(*_plain(part[index]))
            except (DataError, OSError):  # told of where it is needed
                examples[str(index)] = "unreadable"
    labels = _labels(part)
    held = None if labels is None else _digest(labels.astype(np.int64).tobytes())
    return {"count": count, "labels": held, "examples": examples}


def _plain(example: Any) -> list[bytes]:
    """What an example holds, as bytes."""
    stored, context = example
    parts = [("", stored), *sorted(context.items())]
    content = []
    for name, value in parts:
        tensor = torch.as_tensor(value)
        held = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        content += [f"{name} {tuple(tensor.shape)}".encode(), held]
    return content


def _labels(part: Any) -> np.ndarray | None:
    """All labels, where they need not be read with the examples."""
    if isinstance(part, Subset):
        labels = _labels(part.dataset)
        return None if labels is None else labels[np.asarray(part.indices)]
    labels = getattr(part, "labels", None)
    return None if labels is None else np.asarray(labels)


def _digest(*content: bytes) -> str:
    """A short name for some bytes."""
    found = hashlib.sha256()
    for each in content:
        found.update(each)
    return found.hexdigest()[:16]
