"""The notebook that a newcomer opens first runs, and shows what it says."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
FACTS = """
import json, sys
print(json.dumps({
    "python": sys.executable,
    "steps": len(curve),
    "loss": [curve[0], curve[-1]],
    "round_trip": round_trip,
    "certified": report.certified.tolist(),
    "residual": report.residual.max().item(),
    "tolerance": tolerance,
    "difference": difference.item(),
    "likelihoods": {name: values.mean().item() for name, values in found.items()},
    "odd": (found["held-out digits"] < threshold).float().mean().item(),
    "pictures": list(pictures),
}))
"""
NAMES_A_MACHINE = re.compile(r"/(home|root|work|tmp|Users|opt|usr)/|[A-Z]:\\\\|site-packages")


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    """The notebook as it lies there."""
    return nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)


def run(notebook: nbformat.NotebookNode, directory: Path) -> None:
    """Run a notebook as examples/execute.py does."""
    spec = importlib.util.spec_from_file_location("execute", EXAMPLES / "execute.py")
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    execute.execute(notebook, directory)


def code_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells with code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell: nbformat.NotebookNode) -> str:
    """What a cell printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_the_notebook_runs_and_what_it_shows_is_so(committed, tmp_path, monkeypatch):
    monkeypatch.setenv("STEPS", "10")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.from_dict(committed | {"cells": committed.cells.copy()})
    notebook.cells.append(nbformat.v4.new_code_cell(FACTS, id="facts"))
    run(notebook, tmp_path)
    *cells, last = code_of(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {
        "stream",
        "display_data",
        "execute_result",
    }
    assert not [output for output in outputs if output.get("name") == "stderr"]
    facts = json.loads(text_of(last))
    assert facts["python"] == sys.executable
    assert facts["steps"] == 10
    assert facts["loss"][1] < facts["loss"][0]
    assert 0 < facts["round_trip"] < 1e-4
    assert all(facts["certified"])
    assert facts["residual"] <= facts["tolerance"]
    assert 0 < facts["difference"] < 0.1
    assert facts["odd"] == pytest.approx(0.05, abs=0.005)
    digits = facts["likelihoods"].pop("held-out digits")
    assert len(facts["likelihoods"]) == 4
    assert all(other < digits for other in facts["likelihoods"].values())
    assert len(facts["pictures"]) == 4
    assert (tmp_path / "outputs" / "quickstart" / "model.safetensors").exists()


def test_the_committed_outputs_are_those_of_a_whole_run_and_name_no_machine(committed):
    cells = code_of(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    printed = "".join(map(text_of, cells))
    assert "all samples certified: True" in printed
    [accuracy] = re.findall(r"accuracy on 360 held-out digits: ([\d.]+)%", printed)
    assert float(accuracy) > 97
    shown = [output.get("data", {}) for cell in cells for output in cell.outputs]
    pictures = [data["image/png"] for data in shown if "image/png" in data]
    assert len(pictures) == 7
    assert sum(map(len, pictures)) < 300_000
    assert committed.metadata.keys() == {"kernelspec", "language_info"}
    assert committed.metadata.language_info == {"name": "python"}
    assert all(cell.metadata == {} for cell in committed.cells)
    words = printed + "".join(data.get("text/plain", "") for data in shown)
    assert not NAMES_A_MACHINE.search(words)


def test_the_cells_are_formatted():
    ruff = Path(sys.executable).with_name("ruff")
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *check, EXAMPLES], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        assert "No Python files" not in done.stderr


def test_the_links_of_the_notebook_lead_to_pages(committed):
    text = "".join(cell.source for cell in committed.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]*)\)", text)
    files = [link for link in links if not link.startswith("https://")]
    assert len(files) >= 3
    assert all((EXAMPLES / link).is_file() for link in files)
