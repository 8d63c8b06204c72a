"""`python -m tests.fuzzing GROUP`: gives a group of bad inputs to the package, without the type
checks that only the tests have, and writes a line of JSON for each."""

import faulthandler
import importlib
import json
import resource
import sys
import tempfile
from pathlib import Path

LARGEST = 24 * 2**30
"""Bytes of addresses: whoever wants more has believed a bad number."""


def main() -> None:
    """Judge every bad input of a group."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST, LARGEST))
    group = importlib.import_module(f"tests.fuzzing.{sys.argv[1]}")
    out = sys.stdout
    for bad in group.bad_inputs():
        with tempfile.TemporaryDirectory() as folder:
            told = {"name": bad.name, "accepted": bad.accepted, "fault": bad.fault(Path(folder))}
        print(json.dumps(told), file=out, flush=True)


if __name__ == "__main__":
    main()
