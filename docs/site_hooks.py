"""Hooks of the documentation site: pages made from files outside docs/, titles of code blocks, examples in docstrings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

GENERATED = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages; their links lose the prefix docs/."""
    root = Path(config.config_file_path).parent
    for page, source in GENERATED.items():
        text = (root / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show ``file=NAME`` of a code block, which tests/test_docs.py reads, as its title."""
    return re.sub(r"^```(\w+) file=(\S+)$", r'```\1 title="\2"', markdown, flags=re.MULTILINE)


def on_page_content(html: str, **_: Any) -> str:
    """Show ``Example::`` of a docstring like the headings of its other sections."""
    return html.replace("<p>Example::</p>", "<p><strong>Example:</strong></p>")
