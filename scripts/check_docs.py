"""Check the built documentation: it shows without a network, and it describes everything public.

    mkdocs build --strict && python scripts/check_docs.py site

Links that a reader may follow can lead anywhere. What a browser loads by itself (scripts, styles,
fonts, images, frames) must be in the site.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

_OUTSIDE = re.compile(r"^\s*(?:https?:)?//", re.IGNORECASE)
_STYLE_LOAD = re.compile(
    r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""", re.IGNORECASE
)
#: Public namespaces, each with a page of the reference of the same name.
_NAMESPACES = ("c2s.pp", "c2s.tl", "c2s.pl", "c2s.metrics", "c2s.datasets")
_LOADED_LINKS = {"stylesheet", "preload", "modulepreload", "icon", "preconnect", "dns-prefetch"}


class _Loads(HTMLParser):
    """Collects what a browser would load from elsewhere while it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "link":
            addresses = (
                [values.get("href", "")]
                if _LOADED_LINKS & set(values.get("rel", "").split())
                else []
            )
        else:
            addresses = [values.get("src", ""), values.get("srcset", ""), values.get("data", "")]
        self.found += [address for address in addresses if _OUTSIDE.match(address)]
        self.found += _STYLE_LOAD.findall(values.get("style", ""))


def loads_from_elsewhere(site: Path) -> Iterator[tuple[Path, str]]:
    """Yield each page or style sheet with an address that it loads from outside the site."""
    for path in sorted(site.rglob("*")):
        if path.suffix == ".html":
            parser = _Loads()
            parser.feed(path.read_text("utf-8"))
            yield from ((path, address) for address in parser.found)
        elif path.suffix == ".css":
            yield from ((path, address) for address in _STYLE_LOAD.findall(path.read_text("utf-8")))


def missing_names(site: Path) -> Iterator[str]:
    """Yield each public name that its reference page does not describe."""
    for namespace in _NAMESPACES:
        page = site / "reference" / f"{namespace.removeprefix('c2s.')}.html"
        described = set(re.findall(r'id="c2s\.[\w.]*?(\w+)"', page.read_text("utf-8")))
        public = importlib.import_module(namespace).__all__
        yield from (f"{namespace}.{name}" for name in public if name not in described)


def main(site: Path) -> int:
    """Print what is wrong; return the exit code."""
    pages = len(list(site.rglob("*.html")))
    if not pages:
        print(f"{site}: no pages there; run mkdocs build first", file=sys.stderr)
        return 1
    wrong = [f"{path}: loads {address}" for path, address in loads_from_elsewhere(site)]
    wrong += [f"{name} is not described in the reference" for name in missing_names(site)]
    print(
        "\n".join(wrong)
        or f"{pages} pages: all show without a network, all public names are described"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
