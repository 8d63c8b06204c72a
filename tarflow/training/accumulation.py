"""Progress of a run that goes on with gradients accumulated over another number of steps."""

from typing import Any


def rescale(checkpoint: dict[str, Any], parts: int) -> None:
    """Let a checkpoint's counters of batches count parts of batches of another size, in place.

    Args:
        checkpoint: What a run left after a step; its data module told how many parts a batch had.
        parts: Number of parts that a process takes a batch in from now on.
    """
    states = [each for each in checkpoint.values() if isinstance(each, dict)]
    before = next((state["parts"] for state in states if "parts" in state), parts)
    if before == parts:
        return
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        behind = counts["ready"] - counts["completed"]  # 1 where the last one is being ended
        for name in ("ready", "started", "processed"):
            counts[name] = counts[name] // before * parts
        counts["completed"] = counts["ready"] - behind
