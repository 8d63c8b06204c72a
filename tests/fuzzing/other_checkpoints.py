"""Plans, states of training and published checkpoints: damaged, foreign or of another model."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tarflow.flows.published import read_published
from tarflow.sampling.plan import read_plans
from tarflow.training.run import NEEDED, Run
from tests.fuzzing.checkpoints import FLOW, cut, flip, replace_by_folder, write
from tests.fuzzing.judging import BadInput


def bad_inputs() -> Iterator[BadInput]:
    """All of them."""
    yield from plans()
    yield from training_states()
    yield from published()


def plans() -> Iterator[BadInput]:
    """plans.json."""
    fit = {"format": 1, "plans": []}
    contents = [[], 3, None, "x", {}, {"format": 2}, {**fit, "plans": 3}, {**fit, "plans": [3]}]
    contents += [{**fit, "plans": [{}]}, {**fit, "plans": {"a": 1}}, {**fit, "plans": None}]
    decoders = [{"type": "system"}, {"type": "Jacobi", "window": 0}, {"type": []}, {}, 3, None]
    plan = {"conditions": {}, "seconds": 1, "sequential_seconds": 1, "measurements": []}
    contents += [{**fit, "plans": [{**plan, "decoders": [each]}]} for each in decoders]
    texts = [json.dumps(content).encode() for content in contents]
    for content in [*texts, b"", b"{", bytes(range(200)), b"[" * 100_000]:

        def attempt(folder: Path, content=content) -> None:
            (folder / "plans.json").write_bytes(content)
            read_plans(folder)

        yield BadInput(f"plans.json, {content[-90:]!r}", attempt, ("plans.json",))


def training_states() -> Iterator[BadInput]:
    """last.ckpt."""
    whole = {key: {} for key in NEEDED} | {"global_step": 3}
    contents: dict[str, Any] = {f"without {key}": {**whole} for key in NEEDED}
    for key in NEEDED:
        del contents[f"without {key}"][key]
    contents |= {f"{v!r} steps": {**whole, "global_step": v} for v in ("x", None, -1, 1.5, [])}
    contents |= {f"state {v!r}": {**whole, "state_dict": v} for v in (3, [], None, {"flow.a": 3})}
    contents |= {"a tensor": torch.ones(3), "a list": [1], "nothing": None, "a number": 3}

    def attempt(folder: Path, content: Any, change: Any = None) -> None:
        run = Run(folder)
        run.checkpoint.parent.mkdir()
        torch.save(content, run.checkpoint)
        if change:
            change(run.checkpoint.parent)
        run.step()
        run.check(torch.nn.ModuleDict({"flow": FLOW}))

    name = "last.ckpt"
    for what, content in contents.items():
        yield BadInput(f"{name}, {what}", partial(attempt, content=content), (name,))
    state = {f"flow.{key}": value for key, value in FLOW.state_dict().items()}
    whole["state_dict"] = state
    damage = {f"{share} of it": cut(name, share) for share in (0, 0.01, 0.1, 0.5, 0.9, 0.99)}
    damage |= {"text": write(name, b"x" * 99), "a folder": replace_by_folder(name)}
    for what, change in damage.items():
        yield BadInput(f"{name}, {what}", partial(attempt, content=whole, change=change), (name,))
    for seed in range(20):
        change = partial(attempt, content=whole, change=flip(name, seed))
        yield BadInput(f"{name}, bit {seed}", change, (name,), None)


def published() -> Iterator[BadInput]:
    """weights.pth, for `tarflow convert`."""
    root = Path(__file__).parents[1] / "data" / "unconditional.safetensors"
    tensors = load_file(root)
    state = {k.removeprefix("weights."): v for k, v in tensors.items() if k[:7] == "weights"}
    wrong = (torch.zeros(3), torch.zeros(0, 0), torch.zeros(()), torch.zeros(2, 2).long(), None, 3)

    def attempt(folder: Path, content: Any, change: Any = None, **options: Any) -> None:
        torch.save(content, folder / "weights.pth")
        if change:
            change(folder)
        read_published(folder / "weights.pth", **{"image_size": 8, **options})

    for index, key in enumerate(state):
        if index % 7 == 0:
            short = {k: v for k, v in state.items() if k != key}
            yield BadInput(f"without {key}", partial(attempt, content=short), ("weights.pth",))
    for key in ("blocks.0.pos_embed", "blocks.0.proj_in.weight", "blocks.0.proj_out.weight"):
        for index, value in enumerate(wrong):
            content = {**state, key: value}
            yield BadInput(f"{key}, {index}", partial(attempt, content=content), ("weights.pth",))
    nan = {**state, "blocks.0.pos_embed": torch.full_like(state["blocks.0.pos_embed"], torch.nan)}
    for what, content in {
        "list": [1],
        "none": None,
        "nothing": {},
        "numbers": {1: 2},
        "NaN": nan,
    }.items():
        yield BadInput(f"weights.pth, {what}", partial(attempt, content=content), ("weights.pth",))
    for value in (0, -1, 3, 7, 1.5, "8", (8,), (8, 8, 8), (0, 8), 10**12):
        change = partial(attempt, content=state, image_size=value)
        yield BadInput(f"image_size {value!r}", change, ("image_size",))
    for value in (-1.0, float("nan"), float("inf"), "0.1"):
        change = partial(attempt, content=state, noise_std=value)
        yield BadInput(f"noise_std {value!r}", change, ("noise std", "noise_std"))
    for share in (0, 0.01, 0.1, 0.5, 0.9, 0.99):
        change = partial(attempt, content=state, change=cut("weights.pth", share))
        yield BadInput(f"weights.pth, {share} of it", change, ("weights.pth",))
    for seed in range(20):
        change = partial(attempt, content=state, change=flip("weights.pth", seed))
        yield BadInput(f"weights.pth, bit {seed}", change, ("weights.pth",), None)
