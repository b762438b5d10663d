"""HTML that is safe by construction: text becomes markup only through `escape`, elements only through `tag`."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class Html(str):
    """Markup made by this module; any other string is text and is escaped when it enters an element."""

    __slots__ = ()


def escape(value: Any) -> Html:
    """Return text as markup; markup passes, None is a dash."""
    if isinstance(value, Html):
        return value
    return Html("–" if value is None else html.escape(str(value), quote=True))


def join(*parts: Any) -> Html:
    """Return parts one after the other."""
    return Html("".join(escape(part) for part in parts))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """Return an element; a trailing underscore of an attribute is dropped (``class_``), None leaves it out."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("img", "meta"):
        return Html(f"<{name}{words}>")
    return Html(f"<{name}{words}>{join(*children)}</{name}>")


def table(
    head: Sequence[Any], rows: Iterable[Sequence[Any]], *, text: bool = False, note: Any = None
) -> Html:
    """Return a table whose first column names the rows.

    Parameters
    ----------
    head
        Titles of the columns.
    rows
        Cells; a row that is an `Html` element stands for itself.
    text
        Whether cells are words (left-aligned) and not numbers.
    note
        Caption.
    """
    made = [
        tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest)) for first, *rest in rows
    ]
    caption = () if note is None else (tag("caption", note),)
    header = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in head)))
    whole = tag("table", *caption, header, tag("tbody", *made), class_="words" if text else "numbers")
    return tag("div", whole, class_="scroll")


def badge(good: bool, yes: str = "valid", no: str = "NOT VALID") -> Html:
    """Return a coloured mark whose words carry the meaning too."""
    return tag("span", f"✓ {yes}" if good else f"✗ {no}", class_="good" if good else "bad")


def bullets(items: Iterable[Any]) -> Html:
    """Return a list; nothing when it is empty."""
    made = [tag("li", item) for item in items]
    return tag("ul", *made) if made else Html("")


def details(summary: Any, *children: Any) -> Html:
    """Return a part that opens on demand."""
    return tag("details", tag("summary", summary), *children)


def picture(image: Path, caption: Any, *, width: int, link: str) -> Html:
    """Embed a PNG with its caption and a link to the PDF beside the page."""
    data = base64.b64encode(image.read_bytes()).decode("ascii")
    words = join(caption, " ", tag("a", "PDF", href=link))
    shown = tag("img", src=f"data:image/png;base64,{data}", alt=image.stem.replace("_", " "), width=width)
    return tag("figure", shown, tag("figcaption", words))


def page(title: str, sections: Sequence[tuple[str, str, Html]]) -> str:
    """Return a whole page: sections are (identifier, title, content), the first one is the head of the page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(Path(__file__).with_name("report.css").read_text(encoding="utf-8"))),
    )
    (_, _, first), *rest = sections
    links = tag("nav", *(tag("a", name, href=f"#{identifier}") for identifier, name, _ in rest))
    body = [tag("section", tag("h2", name), content, id=identifier) for identifier, name, content in rest]
    whole = tag("html", head, tag("body", tag("main", first, links, *body)), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"
