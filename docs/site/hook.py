"""What MkDocs calls while it builds: pages that are generated, and links from pages to files of the repository.

Pages of docs/ are plain Markdown and read the same on a code host; only here links to code become addresses.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # configs and experiments run from the clone

from mkdocs.structure.files import File  # noqa: E402

from docs.site import links, pages  # noqa: E402


def on_files(files, config):
    """Adds the generated pages."""
    for uri, content in pages.generated().items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns relative links to what is no page of the site into addresses in the repository."""
    return links.to_repository(markdown, page.file.src_uri, config.extra["repository"])
