"""The notebooks as pages, with the outputs that are kept in them."""

import base64
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]


def pages() -> dict[str, str | bytes]:
    """Address -> Markdown of every notebook, and the figures of its outputs."""
    files: dict[str, str | bytes] = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files |= _page(path)
    return files


def _page(path: Path) -> dict[str, str | bytes]:
    blocks, figures = [], {}
    for cell in nbformat.read(path, as_version=4).cells:
        blocks.append(cell.source if cell.cell_type == "markdown" else _fenced("python", cell.source))
        for output in cell.get("outputs", ()):
            if "text" in output:
                blocks.append(_fenced("text", output.text))
            elif "image/png" in output.get("data", {}):
                name = f"{path.stem}-{len(figures) + 1}.png"
                figures[f"notebooks/{name}"] = base64.b64decode(output.data["image/png"])
                blocks.append(f"![figure {len(figures)}, drawn by the code above]({name})")
    return {f"notebooks/{path.stem}.md": "\n\n".join(blocks) + "\n"} | figures


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"
