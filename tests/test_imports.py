"""The library is light to import."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
import tarflow

heavy = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "torchvision", "sklearn"}
print(*sorted(heavy & sys.modules.keys()))
"""


def test_the_core_loads_no_training_library():
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
