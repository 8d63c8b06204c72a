"""All checks of a machine, and the table of what they found."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tarflow.doctor import hardware
from tarflow.doctor.collectives import find_collectives
from tarflow.doctor.findings import Finding, State
from tarflow.doctor.software import find_compilation, find_compiler, find_versions
from tarflow.doctor.storage import find_folders

STYLES = {State.GOOD: "green", State.NOTE: "", State.WARNING: "yellow", State.BROKEN: "bold red"}


@dataclass(frozen=True)
class Examination:
    """What all checks found, in their order."""

    findings: tuple[Finding, ...]

    @property
    def broken(self) -> list[Finding]:
        """What keeps training from working."""
        return [finding for finding in self.findings if finding.state is State.BROKEN]

    @property
    def warnings(self) -> list[Finding]:
        """What may matter."""
        return [finding for finding in self.findings if finding.state is State.WARNING]

    def print(self, console: Console) -> None:
        """Print a table, and the verdict."""
        table = Table(show_header=False)
        for _ in range(4):
            table.add_column(overflow="fold")
        topic = ""
        for finding in self.findings:
            is_new, topic = finding.topic != topic, finding.topic
            if is_new:
                table.add_section()
            cells = (topic if is_new else "", finding.name, finding.state.value, finding.text)
            table.add_row(*cells, style=STYLES[finding.state])
        console.print(table)
        console.print(self.verdict)

    @property
    def verdict(self) -> str:
        """The last word."""
        if self.broken:
            names = ", ".join(f"{finding.topic}: {finding.name}" for finding in self.broken)
            return f"training cannot work here: {names}"
        count = len(self.warnings)
        return "training can work here" + (f"; warnings: {count}" if count else "")


def examine(
    directory: Path, quick: bool = False, tell: Callable[[str], None] = lambda text: None
) -> Examination:
    """Examine this machine.

    Args:
        directory: The folder that runs are to be written to.
        quick: Leave out what takes long or much of a device: kernels one by one, NCCL, compiling,
            measurements. What remains is what a health check beside a training run wants.
        tell: Is told what is checked next.
    """
    devices = hardware.find_devices()
    checks: dict[str, Callable[[], list[Finding]]] = {
        "versions": find_versions,
        "devices": lambda: [*map(hardware.check_device, devices), *hardware.find_unusable()],
        "attention": lambda: hardware.find_attention(devices[0], quick),
        "processes": lambda: find_collectives(devices, quick),
        "folders": lambda: find_folders(directory),
        "compiler": lambda: [find_compiler()],
    }
    if not quick:
        checks["torch.compile"] = lambda: [find_compilation(devices[0])]
        checks["rates"] = lambda: [f for device in devices for f in hardware.measure(device)]
    findings: list[Finding] = []
    for name, check in checks.items():
        tell(name)
        findings += check()
    return Examination(tuple(findings))
