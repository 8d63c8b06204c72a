"""The documentation: the site builds without a warning, and every block of code on it runs."""

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from hydra.errors import HydraException
from PIL import Image
from sklearn.datasets import load_wine

from tarflow import (
    Categories,
    GaussianNoise,
    Integers,
    InverseStudent,
    NoNoise,
    Pixels,
    Real,
    TarFlow,
    UniformDequantization,
    UniformLevels,
    VectorFlow,
    VelocityStudent,
)
from tarflow.data.sources.photographs import PHOTOGRAPHS
from tarflow.flows.published import _published_name
from tarflow.tokenizers import Autoencoder, FixedVariance
from tarflow.training.tokenization.decoder_objective import to_tune
from tests import doc_commands
from tests.composing import composed
from tests.doc_blocks import Block, blocks
from tests.doc_commands import Wrong
from tests.models import randomized

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), ROOT / "scripts/slurm/README.md"]
WITH_BLOCKS = [page for page in PAGES if blocks(page)]
PACKAGES = (
    "tarflow",
    *(
        f"tarflow.{name}"
        for name in ("data", "training", "evaluation", "estimation", "tokenizers", "doctor")
    ),
)
TINY = {"num_transforms": 2, "num_layers": 1, "model_dim": 64}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


LOADED = re.compile(
    r"<(?:link|script|img|iframe|source|video|object)\b[^>]*?\b(?:src|srcset|href|data)=[\"']?"
    r"(?:https?:)?//[^>]*>",
)
IMPORTED = re.compile(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^\"')]*")


def test_pages_load_nothing_from_a_network(site):
    assert not LOADED.search('<a href="https://arxiv.org">')
    assert LOADED.search('<script async src="https://cdn.example/a.js">')
    assert IMPORTED.search("@import 'https://fonts.example/a.css'")
    assert len(list(site.rglob("*.html"))) > 20
    for page in site.rglob("*.html"):
        assert not LOADED.findall(page.read_text()), page
    for sheet in [*site.rglob("*.css"), *site.rglob("*.html")]:
        assert not IMPORTED.findall(sheet.read_text()), sheet


def test_equations_are_in_the_pages_themselves(site):
    for name in ("method.html", "training.html", "reference/flows.html"):
        text = (site / name).read_text()
        assert "<math xmlns" in text
        assert "arithmatex" not in text
        plain = re.sub(r"<(pre|code)\b.*?</\1>", "", text, flags=re.DOTALL)
        assert not re.search(r"\$[^$<>\n]+\$|\\\(|\\\[", plain), name


def test_every_public_name_is_in_the_reference(site):
    text = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    anchors = set(re.findall(r'<h[2-4] id="(tarflow[\w.]*)"', text))
    for package in PACKAGES:
        for name in import_module(package).__all__:
            known = {f"{package}.{name}", f"tarflow.{name}"}
            assert known & anchors, f"{package}.{name}"


def test_every_page_is_in_the_navigation_and_pictures_are_small():
    text = (ROOT / "mkdocs.yml").read_text()
    for page in DOCS.rglob("*.md"):
        assert str(page.relative_to(DOCS)) in text
    for picture in (DOCS / "images").iterdir():
        assert picture.stat().st_size < 300_000, picture


def save_published(flow: TarFlow, path: Path) -> None:
    """Write a flow as the published code writes its models."""
    places = [i for i, transform in enumerate(flow.transform) if transform.num_decoded]
    state = {}
    for key, value in flow.state_dict().items():
        name, block = _published_name(key, places)
        state[name] = value.flip(0) if name.endswith("pos_embed") and block % 2 else value
    torch.save({key: value for key, value in state.items() if key.startswith("blocks")}, path)


def flow_of(folder: Path) -> TarFlow:
    """The flow of digits that pages draw from."""
    return TarFlow.from_pretrained(folder / "outputs/digits_samples/seed_0/pretrained")


def save_wine(folder: Path) -> None:
    """Write a flow of the rows of a table that a page writes."""
    wine, whole = load_wine(), ("magnesium", "proline")
    supports = [Integers() if name in whole else Real() for name in wine.feature_names]
    supports.append(Categories([*map(str, wine.target_names)]))
    names = [*wine.feature_names, "cultivar"]
    flow = VectorFlow(len(names), supports, names=names, noise=NoNoise(), **TINY)
    flow.save_pretrained(folder / "outputs" / "wine" / "seed_0" / "pretrained")


def save_latents(folder: Path) -> None:
    """Write tokenizers of photographs, flows of their latents, and an autoencoder of diffusers."""
    torch.manual_seed(0)
    tokenizers = {
        "photographs_kl": Autoencoder(32, width=8).eval(),
        "photographs_fixed_variance": Autoencoder(32, bottleneck=FixedVariance(4), width=8).eval(),
    }
    tokenizers["decoder"] = to_tune(tokenizers["photographs_kl"], 0.3)
    for run, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(folder / "outputs" / run / "seed_0" / "pretrained")
    told = {"num_classes": len(PHOTOGRAPHS), "codec": tokenizers["photographs_kl"], **TINY}
    noises = {"latents": GaussianNoise(0.3), "latents_levels": UniformLevels(0.02, 0.3)}
    for run, noise in noises.items():
        flow = TarFlow(8, 2, 4, class_names=PHOTOGRAPHS, noise=noise, **told)
        flow.save_pretrained(folder / "outputs" / run / "seed_0" / "pretrained")
    sides = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    blocks_of = {name: 4 * kinds for name, kinds in sides.items()}
    given = AutoencoderKL(block_out_channels=(4, 4, 4, 4), norm_num_groups=2, **blocks_of)
    given.save_pretrained(folder / "vae")


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Path:
    """What pages speak of, at the paths that they use: small flows, and pictures."""
    folder = tmp_path_factory.mktemp("things")
    runs = {
        "digits_samples/seed_0": (8, 2, 1, Pixels(17), GaussianNoise(0.1), 10),
        "digits_levels/seed_0": (8, 2, 1, Pixels(17), UniformLevels(0.02, 0.3), 10),
        "digits_likelihood/seed_0": (8, 2, 1, UniformDequantization(17), NoNoise(), 10),
        "digits_likelihood/seed_1": (8, 2, 1, UniformDequantization(17), NoNoise(), 10),
        "compressed/seed_0": (8, 2, 1, UniformDequantization(17), NoNoise(), 10),
        "photos/seed_0": (64, 16, 3, Pixels(256), GaussianNoise(0.05), 2),
    }
    for index, (run, (*sizes, codec, noise, classes)) in enumerate(runs.items()):
        names = ("cats", "dogs") if classes == 2 else ()
        described = {"num_classes": classes, "class_names": names}
        flow = TarFlow(*sizes, **described, codec=codec, noise=noise, **TINY)
        # so near to the identity that guidance does not lead the larger one to infinity
        flow = randomized(flow, 0.05 / flow.base.shape[1] ** 0.5, index)
        flow.save_pretrained(folder / "outputs" / run / "pretrained")
    for name, kind in (("inverse", InverseStudent), ("flow_matching", VelocityStudent)):
        student = kind.of(flow_of(folder), num_layers=1, model_dim=64)
        student.save_pretrained(folder / "outputs" / name / "seed_0" / "pretrained")
    save_published(flow, folder / "weights.pth")
    save_latents(folder)
    save_wine(folder)
    source = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(20):
            pixels = source.integers(0, 256, (70, 66, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{index}.png")
    shutil.copytree(folder / "photos", folder / "SOURCE")
    return folder


@pytest.fixture
def here(things, tmp_path, monkeypatch) -> Path:
    """A folder with these things of its own, to work in."""
    folder = tmp_path / "here"
    shutil.copytree(things, folder)
    monkeypatch.chdir(folder)
    return folder


def run_python(block: Block, scope: dict) -> None:
    """Run a block, with the names of those before it; errors tell the line of the page."""
    code = "\n" * (block.line - 1) + block.text
    exec(compile(code, str(block.page), "exec"), scope)


def run_yaml(block: Block) -> None:
    """Read a block; compose it where it is an experiment."""
    content = yaml.safe_load(block.text)
    assert content
    if not block.text.startswith("# @package _global_"):
        return
    folder = Path("more/experiment")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{content['name']}.yaml").write_text(block.text)
    where = f"hydra.searchpath=[file://{folder.parent.absolute()}]"
    config = composed("train", where, f"experiment={content['name']}")
    assert config.name == content["name"]


def run_block(block: Block, scope: dict, done: set[str]) -> None:
    """Run a block; the same command is not run twice."""
    if block.language == "python":
        run_python(block, scope)
    elif block.language == "yaml":
        run_yaml(block)
    elif block.language == "bash":
        for words in block.commands:
            if str(words) not in done:
                doc_commands.run(words)
            done.add(str(words))
    else:
        raise Wrong(f"nobody runs blocks of {block.language!r}")


EVERYWHERE: set[str] = set()
"""Commands that were run and mean the same on every page: those of `make` and the doctor."""


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name_of)
def test_every_block_of_a_page_runs(page, here):
    scope: dict = {"__name__": "page"}
    done = set(EVERYWHERE)
    for block in blocks(page):
        run_block(block, scope, done)
    EVERYWHERE.update(words for words in done if re.match(r"\['(make|tarflow', 'doctor)'", words))


def test_all_pages_with_code_are_run():
    names = {name_of(page) for page in WITH_BLOCKS}
    assert {"README.md", "docs/index.md", "docs/how-to/own-images.md", "docs/data.md"} <= names
    assert {"docs/latents.md", "docs/how-to/latents.md"} <= names
    fences = sum(len(re.findall("^ *```\\w", page.read_text(), re.MULTILINE)) for page in PAGES)
    shown = sum(page.read_text().count("```text") for page in PAGES)
    assert fences - shown == sum(len(blocks(page)) for page in PAGES)


WRONG = {
    "tarflow train experiment=digits_samples trainer.max_step=10": "override 'trainer.max_step'",
    "tarflow train data=folder data.data.root=nowhere": "there is no folder nowhere",
    "tarflow sample checkpoint=outputs/digits_samples/seed_0 decoder=magic": "'decoder/magic'",
    "tarflow evaluate checkpoint=outputs/nothing data=digits": "neither a pretrained folder",
    "tarflow prepare data=imagenet32 output=data/x": "'data/imagenet32'",
    "tarflow convert weights.pth new image_size=63": "does not fit the weights",
    "tarflow paint": "no command tarflow paint",
    "torchrun --nproc-per-node 2 -m tarflow train trainer=dpp": "'trainer/dpp'",
    "sbatch scripts/slurm/nothing.sbatch seed=1": "no file scripts/slurm/nothing.sbatch",
    "docker build --build-arg TORCH=2 .": "no argument TORCH",
    "docker run tarflow train experiment=digit": "'experiment/digit'",
    "pip install 'tarflow[tensorbored]'": "no extra tensorbored",
    "python benchmarks/sampling.py --quickly": "2",
    "python docs/pictures/nothing.py": "no file docs/pictures/nothing.py",
    "make dinner": "No rule to make target",
    "frobnicate \\\n    --now": "nothing is known of the command 'frobnicate'",
}
"""Commands that pages must not show, and what is said of them."""


@pytest.mark.parametrize("text", WRONG)
def test_a_command_that_is_wrong_is_found(text, here):
    with pytest.raises((HydraException, Wrong, SystemExit)) as caught:
        run_block(Block(Path("page.md"), 1, "bash", text), {}, set())
    assert WRONG[text] in str(caught.value)


def test_other_blocks_that_are_wrong_are_found(here):
    page = Path("page.md")
    with pytest.raises(AttributeError, match="no_such_name") as caught:
        run_block(Block(page, 7, "python", "import tarflow\ntarflow.no_such_name"), {}, set())
    assert caught.traceback[-1].lineno + 1 == 8  # the line of the page
    lost = "# @package _global_\nname: x\ndefaults: [{override /noise: gausian}]"
    with pytest.raises(HydraException, match="noise/gausian"):
        run_block(Block(page, 1, "yaml", lost), {}, set())
    with pytest.raises(Wrong, match="ruby"):
        run_block(Block(page, 1, "ruby", "puts 1"), {}, set())


def test_commands_are_read_as_a_shell_reads_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "a\n\n* b\n\n  ```bash\n  one 'x y' \\\n      z  # not\n  two && three\n  ```\n"
    )
    [block] = blocks(page)
    assert block.line == 6
    assert block.commands == [["one", "x y", "z"], ["two"], ["three"]]


def test_what_is_run_is_small():
    arguments = ["experiment=imagenet128", "data.batch_size=768", "optimizer.lr=3e-4"]
    config = doc_commands.composed("train", arguments)
    small = doc_commands.shrink("train", arguments, config)
    assert "trainer=smoke" in small
    assert "optimizer.lr=3e-4" in small
    assert not any(word.startswith("data.batch_size") for word in small)
