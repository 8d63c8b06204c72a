"""Takes a page that lies beside what it describes, outside docs/, into the site."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]

NEIGHBOURS = {"slurm.md": "scripts/slurm/README.md"}
"""The name of each such page on the site, and where it lies in a checkout."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, with links as the site has them."""
    for name, place in NEIGHBOURS.items():
        text = (ROOT / place).read_text().replace("../../docs/", "")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Point links from docs/ out of it at the pages that the site has for them."""
    for name, place in NEIGHBOURS.items():
        markdown = markdown.replace(f"](../{place})", f"]({name})")
    return markdown
