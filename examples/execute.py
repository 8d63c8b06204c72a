"""Runs notebooks with this interpreter and keeps their outputs.

`python examples/execute.py NOTEBOOK`. No installed kernel is needed. What names a machine, a time
or a version is left out, so that a file changes where its outputs do.
"""

import sys
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from traitlets import default

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class ThisInterpreter(AsyncKernelManager):
    """Starts this interpreter as a kernel, whatever kernels are installed."""

    @default("kernel_spec_manager")
    def _without_installed_kernels(self) -> KernelSpecManager:
        """Where no folder may hold kernels, python3 is that of this process."""
        return KernelSpecManager(kernel_dirs=[])


def execute(notebook: nbformat.NotebookNode, directory: Path) -> None:
    """Run all cells in a folder; their outputs replace those that were there.

    Args:
        notebook: Changed in place.
        directory: Where the cells' relative paths begin.

    Raises:
        CellExecutionError: A cell failed.
    """
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        kernel_manager_class=ThisInterpreter,
        record_timing=False,
        resources={"metadata": {"path": str(directory)}},
    )
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/jpeg", None)  # a picture is there as PNG too
    notebook.metadata = nbformat.from_dict(METADATA)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        content = nbformat.read(path, as_version=4)
        execute(content, path.parent)
        nbformat.write(content, path)
