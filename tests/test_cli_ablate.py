"""`tarflow ablate`: runs, a page and pictures from one command."""

import pytest

from tarflow.cli import run_command


def test_ablate_leaves_runs_a_page_and_pictures(tmp_path, capsys):
    sizes = ["variants=[gaussian]", "datasets=[digits]", "seeds=[0]", "num_samples=8"]
    run_command("ablate", [f"output={tmp_path}", "workers=1", *sizes])
    assert (tmp_path / "runs" / "digits-gaussian-0.json").is_file()
    told = capsys.readouterr().out
    for name in ("ablations.md", "images/ablations.png", "images/ablations_guidance.png"):
        assert (tmp_path / name).is_file()
        assert str(tmp_path / name) in told
    assert "| Gaussian | 2.9" in told
    assert "| Gaussian | 2.9" in (tmp_path / "ablations.md").read_text()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("variants=[colour]", "choose among default, volume_preserving"),
        ("datasets=[faces]", "choose among digits, photographs"),
        ("seconds=-1", "must be positive"),
        ("workers=0", "workers 0 must be at least 1"),
    ],
)
def test_errors_say_what_to_do(tmp_path, option, message):
    with pytest.raises(SystemExit, match=message):
        run_command("ablate", [f"output={tmp_path}", option])
    assert not list(tmp_path.iterdir())
