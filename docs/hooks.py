"""
What the pages need from their builder.

Links out of `docs/`, into the code, work on a code host as they stand. The site has no code, so there they lead to the
address that `pyproject.toml` gives as `Repository`, and are plain text as long as it gives none. The reference reads
the sources under the import names that `pyproject.toml` gives their folders.
"""

import posixpath
import re
import shutil
import tempfile
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.pages import Page


LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)\s]+)\)")
SOURCES = tempfile.TemporaryDirectory(prefix="granulon-docs-")


@event_priority(100)  # before the plugins read their configuration
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    root = Path(config.config_file_path).parent
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    config.repo_url = project["project"]["urls"].get("Repository")
    copy_packages(root, project["tool"]["setuptools"]["package-dir"])
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [SOURCES.name]
    return config


def copy_packages(root: Path, folders: dict[str, str]) -> None:
    """The sources as an installation lays them out, since the folders' places do not follow their import names."""
    for name, folder in sorted(folders.items()):
        shutil.copytree(root / folder, Path(SOURCES.name, *name.split(".")), dirs_exist_ok=True)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    def outside(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), link[2]))
        return f"[{link[1]}]({config.repo_url.rstrip('/')}/blob/main/{path})" if config.repo_url else link[1]

    return LINK.sub(outside, markdown)
