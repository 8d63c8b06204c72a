"""Stands in for what only a cluster has."""

from pathlib import Path


def fake_scontrol(folder: Path, job_state: str) -> Path:
    """Write a `scontrol` that notes what it is asked in `asked`, and return its folder."""
    program = folder / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\necho JobState={job_state}\n')
    program.chmod(0o755)
    return program.parent
