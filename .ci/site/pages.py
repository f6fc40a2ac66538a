"""Which files the site shows. They keep their places, so that a link that works in the repository works there too."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "containers/README.md", "examples/**/*.md")
BESIDE = (
    "containers/*.Containerfile",
    "examples/*.py",
    "examples/**/*.png",
    "examples/**/*.svg",
    "examples/**/*.csv",
    "examples/*.ipynb",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's own files, and ours."""
    own = [file for file in files if file.generated_by is not None or file.src_dir != config.docs_dir]
    found = sorted({path for pattern in (*PAGES, *BESIDE) for path in ROOT.glob(pattern)})
    return Files(
        [
            *own,
            *(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)) for path in found),
        ]
    )
