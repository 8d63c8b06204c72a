"""Whether a machine can train: versions, devices, kernels, processes, folders and rates."""

from tarflow.doctor.examination import Examination, examine
from tarflow.doctor.findings import Finding, State

__all__ = ["Examination", "Finding", "State", "examine"]
