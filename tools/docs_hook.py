"""What MkDocs lacks for the documentation; `mkdocs.yml` names this file.

Adds the generated pages of `tools/references`, and turns links to files of the
source, which a site without a network cannot show, into their names. A link to a
file that does not exist is a warning, and so an error in `make docs`.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
sys.path.insert(0, str(ROOT / "src"))

import references  # noqa: E402

LOG = logging.getLogger("mkdocs.lumina")
SHIM = re.compile(r"<script src=[\"']?https://unpkg\.com/[^>]*></script>")
OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)")


def on_config(config):
    """Puts pages that the navigation does not name below "More"."""
    named = set(re.findall(r"'([^']+\.md)'", str(config.nav)))
    pages = sorted(path.name for path in Path(config.docs_dir).glob("*.md"))
    more = [page for page in pages if page not in named]
    if more:
        config.nav.append({"More": more})
    return config


def on_files(files, config):
    """Adds the pages that are made from Lumina's own tables."""
    for name, text in references.pages().items():
        path = f"reference/{name}.md"
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Replaces links that lead out of docs/."""
    here = Path(config.docs_dir) / page.file.src_uri

    def named(match: re.Match) -> str:
        target = (here.parent / match[2]).resolve()
        if not target.is_relative_to(ROOT) or target.is_relative_to(config.docs_dir):
            return match[0]
        if not target.exists():
            LOG.warning("%s: there is no %s", page.file.src_uri, match[2])
        place = target.relative_to(ROOT).as_posix()
        text = match[1].strip("`")
        return f"`{place}`" if text in place else f"{match[1]} (`{place}`)"

    return OUTSIDE.sub(named, markdown)


def on_post_page(output, page, config):
    """Takes away the one script that the theme's offline mode loads from elsewhere.

    It lets pages search that are opened from a disk; without it, searching needs the
    site to be served (`python -m http.server -d build/site`).
    """
    return SHIM.sub("", output)


def on_post_template(output_content, template_name, config):
    """The same for pages that are not made of Markdown."""
    return SHIM.sub("", output_content)
