"""Damaged, foreign and mixed-up pretrained folders."""

import json
import pickle
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tarflow import GaussianNoise, Pixels, TarFlow
from tests.fuzzing.judging import BadInput
from tests.models import tiny_flow

FLOW = tiny_flow(num_classes=3, num_layers=1, codec=Pixels(17), noise=GaussianNoise(0.1))
KEY = "transform.transforms.1.network.proj_in.weight"
HUGE = (10**6, 10**9, 10**30, -(10**30))
WRONG = (None, "x", -1, 0, 1.5, True, [], [1], {}, {"type": "x"}, float("nan"), *HUGE)
OPTIONAL = (
    *("scale", "ordering", "layer", "expansion"),
    *("positions", "output_norm", "conditioned", "networks", "first"),
    *("num_heads", "hidden_dims"),
)
"""Fields that older descriptions lack, or whose defaults those of the flow are."""

FIT = {
    "dropout": (0,),
    "codec": (None,),
    "noise": (None,),
    "conditioners": ([],),
    "class_names": ([],),
}
"""Values that a key may have after all."""


def bad_inputs() -> Iterator[BadInput]:
    """All of them."""
    yield from configurations()
    yield from weights()


def load(folder: Path, change: Callable[[Path], Any]) -> TarFlow:
    """Write a pretrained folder, damage it and read it."""
    FLOW.save_pretrained(folder / "pretrained")
    change(folder / "pretrained")
    return TarFlow.from_pretrained(folder / "pretrained")


def loads(name: str, causes: tuple[str, ...], change: Any, accepted: Any = False) -> BadInput:
    """The reading of a folder that was damaged in some way."""
    return BadInput(name, lambda folder: load(folder, change), causes, accepted)


def edit_config(folder: Path, **values: Any) -> None:
    """Change arguments of the model."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["flow"] |= values
    path.write_text(json.dumps(content))


def drop_key(folder: Path, key: str) -> None:
    """Leave an argument of the model out."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["flow"].pop(key, None)
    path.write_text(json.dumps(content))


def write(name: str, content: bytes) -> Callable[[Path], Any]:
    """Put something else in a file's place."""
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, share: float) -> Callable[[Path], Any]:
    """Leave the beginning of a file alone."""

    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return change


def flip(name: str, seed: int, first: int = 2**20) -> Callable[[Path], Any]:
    """Change a bit somewhere in the first bytes of a file."""

    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        chance = random.Random(seed)
        content[chance.randrange(min(first, len(content)))] ^= 1 << chance.randrange(8)
        (folder / name).write_bytes(content)

    return change


def replace_by_folder(name: str) -> Callable[[Path], Any]:
    """Put a folder in a file's place."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def replace_by_link(name: str) -> Callable[[Path], Any]:
    """Put a link to nothing in a file's place."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(folder / "nowhere")

    return change


def configurations() -> Iterator[BadInput]:
    """config.json."""
    where = ("pretrained",)
    for key, own in vars(FLOW.description).items():
        for value in WRONG:
            fit = value in FIT.get(key, ()) or (value == own and type(value) is type(own))
            change = partial(edit_config, **{key: value})
            yield loads(f"config.json, {key}: {value!r}", where, change, fit)
        fit = key in (*OPTIONAL, *FIT)
        yield loads(f"config.json without {key}", where, partial(drop_key, key=key), fit)
    for kind in ("GaussianNoise", "SoftClipScale"):
        key = "noise" if kind == "GaussianNoise" else "scale"
        for value in (None, "x", [], {}, float("nan"), {"type": kind}):
            described = {"type": kind, "std" if key == "noise" else "bound": value}
            change = partial(edit_config, **{key: described})
            yield loads(f"config.json, {described}", where, change)
    contents = {
        "nothing": b"",
        "a list": b"[]",
        "a number": b"3",
        "text": b'"text"',
        "no JSON": b"format: 1",
        "null": b"null",
        "bytes": bytes(range(256)),
        "another encoding": '{"format": 1}'.encode("utf-16"),
        "deep lists": b"[" * 100_000,
        "deep objects": b'{"a":' * 100_000,
        "a long number": b'{"format": 1' + b"0" * 10_000 + b', "model": {}}',
        "no model": b'{"format": 1}',
        "no arguments": b'{"format": 1, "model": {}}',
        "a list of arguments": b'{"format": 1, "model": [1, 2]}',
        "a newer format": b'{"format": 3, "flow": {}}',
        "format by name": b'{"format": "one", "model": {}}',
        "unknown argument": b'{"format": 1, "model": {"colour": 1}}',
        "deep argument": b'{"format": 1, "model": {"noise": ' + b"[" * 900 + b"]" * 900 + b"}}",
    }
    for name, content in contents.items():
        yield loads(f"config.json, {name}", where, write("config.json", content))
    for seed in range(20):
        yield loads(f"config.json, bit {seed}", where, flip("config.json", seed), None)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        yield loads(f"config.json, {share} of it", where, cut("config.json", share))


def weights() -> Iterator[BadInput]:
    """model.safetensors, and both files."""
    name = "model.safetensors"
    for share in (0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999):
        yield loads(f"{name}, {share} of it", (name,), cut(name, share))
    for seed in range(40):
        yield loads(f"{name}, bit {seed}", ("pretrained",), flip(name, seed, 3000), None)
    for size in (2**63 - 1, 2**64 - 1, 10**9, 0, 1):
        content = size.to_bytes(8, "little") + b"{}"
        yield loads(f"{name}, header of {size}", (name,), write(name, content))
    contents = {
        "text": b"weights",
        "a pickle": pickle.dumps({KEY: [1.0]}),
        "zeros": bytes(1000),
        "deep header": (9000).to_bytes(8, "little") + b'{"a":' * 1800,
    }
    for what, content in contents.items():
        yield loads(f"{name}, {what}", (name,), write(name, content))
    changes: dict[str, Callable[[dict], Any]] = {
        "nothing": lambda state: state.clear(),
        "a key too few": lambda state: state.pop(KEY),
        "a key too many": lambda state: state.update({"more": torch.zeros(2)}),
        "shape": lambda state: state.update({KEY: torch.zeros(16, 7)}),
        "turned": lambda state: state.update({KEY: state[KEY].T.contiguous()}),
        "flat": lambda state: state.update({KEY: state[KEY].flatten()}),
        "scalar": lambda state: state.update({KEY: torch.zeros(())}),
        "empty": lambda state: state.update({KEY: torch.zeros(0)}),
        "integers": lambda state: state.update({KEY: state[KEY].long()}),
        "truth values": lambda state: state.update({KEY: state[KEY].bool()}),
        "complex": lambda state: state.update({KEY: state[KEY].to(torch.complex64)}),
        "NaN": lambda state: state[KEY].fill_(torch.nan),
        "one NaN": lambda state: state[KEY].view(-1)[3:4].fill_(torch.nan),
        "infinity": lambda state: state[KEY].fill_(torch.inf),
        "other names": lambda state: state.update({f"flow.{k}": state.pop(k) for k in [*state]}),
    }
    for what, change in changes.items():

        def changed(folder: Path, change=change) -> None:
            state = load_file(folder / name)
            change(state)
            save_file(state, folder / name)

        yield loads(f"weights, {what}", (KEY, "is missing", "'more'", "0 tensors"), changed)
    for file in (name, "config.json"):
        yield loads(f"{file}, missing", ("pretrained",), lambda at, f=file: (at / f).unlink())
        yield loads(f"{file}, a folder", ("pretrained",), replace_by_folder(file))
        yield loads(f"{file}, a broken link", ("pretrained",), replace_by_link(file))
    for what, path in {"nowhere": "nowhere", "a file": __file__, "nothing": ""}.items():
        yield BadInput(f"from {what}", lambda _, p=path: TarFlow.from_pretrained(p), (path,))
