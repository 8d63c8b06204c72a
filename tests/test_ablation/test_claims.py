"""What runs say of claims, and the page that shows it."""

import json
from pathlib import Path

import pytest

from tarflow import ConfigurationError
from tarflow.ablation.claims import Comparison, Quantity, Section
from tarflow.ablation.page import fill, filled, table
from tarflow.ablation.sections import SECTIONS
from tarflow.ablation.variants import VARIANTS

ROOT = Path(__file__).parents[2]
CLAIM = Comparison("a beats b", Quantity("a", "score"), Quantity("b", "score"))


def runs(a, b, data="digits"):
    """Results of two variants, with a seed for each score."""
    return [
        {"settings": {"data": data, "variant": name, "seed": seed}, "score": score}
        for name, scores in (("a", a), ("b", b))
        for seed, score in enumerate(scores)
    ]


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.2, 2.1], "holds (+1.1 ± 0.058)"),
        ([2.0, 2.2, 2.1], [1.0, 1.1, 0.9], "**contradicted** (-1.1 ± 0.058)"),
        ([1.0, 2.0, 3.0], [2.0, 1.0, 3.5], "undecided (+0.167 ± 0.6)"),
        ([1.0], [2.0], "undecided (+1 ± 0)"),
        ([1.0, 1.0], [None, 2.0], "holds (the other is not finite with 1 of 2 seeds)"),
        ([None, 1.0], [None, 2.0], "undecided (not finite with 1 and 1 of 2 seeds)"),
        ([], [1.0, 2.0], "not measured"),
    ],
)
def test_verdicts_follow_from_paired_differences(a, b, verdict):
    assert CLAIM.verdict(runs(a, b), "digits") == verdict


def test_numbers_are_found_inside_results():
    [result] = runs([{"x, y": {"0.5": 3.0}}], [])
    assert Quantity("a", "score/x, y/0.5").of([result], "digits") == {0: 3.0}
    assert Quantity("a", "score/none/0.5").of([result], "digits") == {0: None}
    assert Quantity("a", "score").of([result], "photographs") == {}


def test_a_table_has_means_deviations_and_verdicts():
    section = Section("s", (("score", "score"),), (("the first", "a"), ("other", "b")), (CLAIM,))
    results = runs([1.0, 3.0], [5.0, 5.0]) + runs([1.0, 3.0], [9.0, 9.0], "photographs")
    lines = table(section, results).splitlines()
    assert lines[0] == "| digits | score |"
    assert lines[2:4] == ["| the first | 2.000 ± 1.414 |", "| other | 5.000 ± 0.000 |"]
    assert lines[-3:] == [
        "| claim | digits | photographs |",
        "| --- | --- | --- |",
        "| a beats b | holds (+3 ± 1) | holds (+7 ± 1) |",
    ]


def test_every_section_asks_for_variants_that_exist():
    names = set()
    for section in SECTIONS:
        names |= {variant for _, variant in section.rows}
        for claim in section.claims:
            names |= {claim.better.variant, claim.worse.variant}
    assert names == set(VARIANTS)
    assert len({section.name for section in SECTIONS}) == len(SECTIONS)


def default_run(distance):
    """A result of the default variant."""
    settings = {"data": "digits", "variant": "default", "seed": 0}
    return {"settings": settings, "samples": {"drawn": {"frechet_distance": distance}}}


def test_a_page_keeps_its_words_and_gets_new_tables(tmp_path):
    page = tmp_path / "page.md"
    words = "# Mine\n\nBefore.\n\n<!-- table: denoising -->\nold\n<!-- end -->\n\nAfter.\n"
    page.write_text(words)
    written = fill(page, [default_run(1.5)])
    text = page.read_text()
    assert text.startswith("# Mine\n\nBefore.\n")
    assert text.endswith("\n\nAfter.\n")
    assert "old" not in text
    assert "1.500 ± 0.000" in text
    assert filled(text, [default_run(1.5)]) == text
    assert "2.500 ± 0.000" in filled(text, [default_run(2.5)])
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        "page.md",
        "images/ablations.png",
        "images/ablations_guidance.png",
        "images/ablations_later.png",
    ]
    assert all(path.stat().st_size for path in written)


def test_a_new_page_has_all_tables(tmp_path):
    fill(tmp_path / "new" / "page.md", [default_run(1.5)])
    text = (tmp_path / "new" / "page.md").read_text()
    assert all(f"<!-- table: {section.name} -->" in text for section in SECTIONS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: colour -->\n<!-- end -->", "'colour': known are real, scale"),
        ("<!-- table: scale -->\n", "1 tables, but 0 times"),
    ],
)
def test_a_page_with_wrong_marks_is_refused(tmp_path, text, message):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        fill(page, [default_run(1.5)])
    assert page.read_text() == text


def test_the_published_page_shows_the_published_results():
    page = (ROOT / "docs" / "ablations.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / "ablations.json").read_text())
    assert {result["settings"]["variant"] for result in results} == set(VARIANTS)
    assert filled(page, results) == page
