"""Pages: one HTML file that needs nothing else. Text is escaped unless it is :class:`Html`."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image

# Px. Larger pictures are reduced to it, as JPEG; smaller ones are exact, as PNG.
PICTURE_MAX = 1280

# Nothing is fetched and nothing runs, whatever is in a run's files.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --panel: #f6f7f9; --ink: #1c2127; --soft: #5f6b7a;
  --rule: #dfe3e8; --warn: #b45309; --warn-paper: #fff7ea; --accent: #2563eb;
  --c0: #2563eb; --c1: #d9480f; --c2: #15803d; --c3: #9333ea; --c4: #b8860b; --c5: #0e7490;
  --c6: #be185d; --c7: #57606a; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --panel: #1d2126; --ink: #e6e9ed;
  --soft: #9aa5b1; --rule: #333a43; --warn: #f5b455; --warn-paper: #2b2316; --accent: #6ea8fe;
  --c0: #6ea8fe; --c1: #ff9259; --c2: #5fd38a; --c3: #c79bff; --c4: #e8c25a; --c5: #57cbe0;
  --c6: #ff86b6; --c7: #aab4bf; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.2rem 1.5rem 4rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -.01em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .9rem; padding-bottom: .35rem;
  border-bottom: 1px solid var(--rule); }
h3 { font-size: .95rem; margin: 0 0 .4rem; }
p { margin: .35rem 0; } .soft { color: var(--soft); }
code { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.facts, .plots, .groups, .sheets { display: grid; gap: 1rem; }
.facts { grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); margin-top: 1.4rem; }
.fact, .group { background: var(--panel); border: 1px solid var(--rule); border-radius: 8px;
  padding: .7rem .9rem; }
.fact b { display: block; font-size: 1.35rem; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.fact span { color: var(--soft); font-size: .85rem; }
.bar { height: 6px; border-radius: 3px; background: var(--rule); margin-top: 1.2rem;
  overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); }
.plots { grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr));
  gap: 1.4rem 1.2rem; }
.groups { grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr));
  align-items: start; }
.sheets { grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
figure { margin: 0; min-width: 0; } figcaption { font-size: .9rem; margin-bottom: .3rem; }
.key { display: inline-block; margin-right: .9rem; color: var(--soft); white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: .75em; height: .75em; border-radius: 3px;
  background: var(--c); margin-right: .4em; vertical-align: -.04em; }
.key b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
svg text { fill: var(--soft); font-size: 11px; font-variant-numeric: tabular-nums; }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
svg .grid { stroke: var(--rule); stroke-width: 1; } svg .axis { stroke: var(--soft);
  stroke-width: 1; }
svg polyline { fill: none; } svg .line { stroke-width: 1.9; }
svg .faint { stroke-width: .8; opacity: .32; } svg .ring { fill: none; stroke-width: 2; }
svg .best { font-weight: 600; }
.table { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; } tr:last-child td, tr:last-child th { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--rule) !important; }
tbody th { color: var(--soft); font-weight: 400; } td { font-variant-numeric: tabular-nums; }
td.right, th.right { text-align: right; } tr.head th { color: var(--ink); font-weight: 600;
  padding-top: 1.1rem; } td.won { font-weight: 700; color: var(--accent); }
.group table { font-size: .88rem; } .group td { text-align: right; padding-right: 0;
  overflow-wrap: anywhere; }
.alarm { border: 1px solid var(--warn); border-left-width: 5px; border-radius: 6px;
  padding: .6rem .9rem;
  background: var(--warn-paper); margin: .6rem 0; }
.alarm b { color: var(--warn); }
.sheet img { display: block; width: 100%; max-width: 46rem; border-radius: 6px; }
.strip { display: flex; gap: 2px; overflow-x: auto; padding-bottom: .3rem; }
.strip figure { flex: 1 0 3.2rem; max-width: 6rem; } .strip img { display: block; width: 100%; }
.strip figcaption { text-align: center; color: var(--soft); font-size: .8rem;
  font-variant-numeric: tabular-nums; }
.exact { image-rendering: pixelated; }
details summary { cursor: pointer; color: var(--soft); margin: .4rem 0; }
@media print { body { max-width: none; } }
"""


class Html(str):
    """Markup, which is not escaped again."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: object) -> Html:
    """An element. ``class_`` is the attribute ``class``, and ``http_equiv`` ``http-equiv``."""
    inside = "".join(
        child if isinstance(child, Html) else html.escape(child, quote=False) for child in children
    )
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{words}>" + (f"{inside}</{name}>" if name not in VOID else ""))


VOID = frozenset({"img", "meta"})


def joined(parts: Iterable[str]) -> Html:
    """Parts one after the other; text among them is escaped."""
    return Html("".join(p if isinstance(p, Html) else html.escape(p, quote=False) for p in parts))


def document(title: str, *body: Html) -> bytes:
    """A whole page, UTF-8."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    page = tag("html", head, tag("body", *body), lang="en")
    # Names of files may hold what UTF-8 cannot.
    return f"<!doctype html>\n{page}\n".encode("utf-8", "replace")


def section(title: str, *body: Html) -> Html:
    """A part of a page; nothing where its body is empty."""
    content = joined(body)
    return tag("section", tag("h2", title), content) if content else Html()


def table(head: Sequence[str], rows: Iterable[Html]) -> Html:
    """A table of ``rows``, each a ``tr``."""
    top = [tag("thead", tag("tr", *(tag("th", cell) for cell in head)))] if head else []
    return tag("div", tag("table", *top, tag("tbody", *rows)), class_="table")


def row(*cells: str) -> Html:
    """A table's row; the first cell is its head."""
    return tag("tr", tag("th", cells[0]), *(tag("td", cell) for cell in cells[1:]))


def key(name: str, colour: int, value: str = "") -> Html:
    """A legend's entry."""
    shown = [" ", tag("b", value)] if value else []
    return tag("span", name, *shown, class_="key", style=f"--c:var(--c{colour % 8})")


def image(picture: Image.Image, alt: str) -> Html:
    """A picture within the page."""
    if max(picture.size) <= PICTURE_MAX:
        kind, options = "png", {}
    else:
        picture = picture.copy()
        picture.thumbnail((PICTURE_MAX, PICTURE_MAX), Image.Resampling.LANCZOS, reducing_gap=2.0)
        kind, options = "jpeg", {"quality": 90}
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    code = base64.b64encode(buffer.getvalue()).decode()
    exact = {"class_": "exact"} if kind == "png" else {}
    return tag("img", src=f"data:image/{kind};base64,{code}", alt=alt, **exact)
