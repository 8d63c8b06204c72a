"""Which processes a launcher started for a run."""

import os
from collections.abc import Mapping


def launched(environment: Mapping[str, str] = os.environ) -> dict[str, int]:
    """Numbers of devices of each node and of nodes, as torchrun or srun tell; else nothing."""
    if "TORCHELASTIC_RUN_ID" in environment:
        devices, world_size = (int(environment[f"{name}WORLD_SIZE"]) for name in ("LOCAL_", ""))
        return {"devices": devices, "num_nodes": world_size // devices}
    # Without srun, a batch script runs a command once, whatever the job asked for.
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        tasks, nodes = (int(environment[f"SLURM_STEP_NUM_{name}"]) for name in ("TASKS", "NODES"))
        return {"devices": tasks // nodes, "num_nodes": nodes}
    return {}
