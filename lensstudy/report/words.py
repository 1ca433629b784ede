"""Words of the field on a page: the first place of each leads to its meaning at the foot of the page.

The meanings are those of `docs/glossary-*.md`, which the package brings along, so that a page explains itself wherever
it lies.
"""

from __future__ import annotations

import html as html_text
import re
from functools import cache

from bs4 import BeautifulSoup, NavigableString

from lensstudy.report.mathematics import FORMULA, mathml
from lensstudy.study import BUNDLE

__all__ = ["glossary", "link_words"]

ENTRY = re.compile(r"^\*\*(.+?)\.?\*\*(.*?)(?=\n\n|\Z)", re.M | re.S)
NOT_IN = ("a", "code", "pre", "math", "table", "figure", "h1", "h2", "h3", "h4", "summary", "dl")


@cache
def glossary() -> dict[str, str]:
    """The meaning of each word of the glossaries, as HTML, by the word, in small letters where it is no name."""
    found: dict[str, str] = {}
    for file in sorted((BUNDLE / "docs").glob("glossary-*.md")):
        for heading, meaning in ENTRY.findall(file.read_text(encoding="utf-8")):
            for word in re.split(r", | and ", heading):
                if re.fullmatch(r"[A-Za-z][A-Za-z -]{2,}", word):  # no symbols, which no sentence uses as a word
                    name = word.lower() if word[1:].islower() else word  # AUC and DeepLense keep their capitals
                    found[name] = _as_html(meaning.strip())
    return found


def link_words(soup: BeautifulSoup) -> list[dict[str, str]]:
    """Let the first place of every word of the glossaries lead to `#word-<word>`; returns the words that were found,
    in alphabetical order, each with `id`, `term` and `meaning`."""
    known = glossary()
    waiting = sorted(known, key=len, reverse=True)  # "group convolution" before "group"
    found = []
    for text in list(soup.find_all(string=True)):
        if type(text) is not NavigableString or text.find_parent(NOT_IN) or not text.find_parent(["p", "li"]):
            continue
        if text.find_parent(class_="answer"):  # which reads like a headline
            continue
        place: NavigableString | None = text
        while place is not None and (hit := _first(str(place), waiting)):
            word, start, end = hit
            waiting.remove(word)
            found.append(word)
            link = soup.new_tag("a", attrs={"class": "word", "href": f"#{_name(word)}"})
            link.string = str(place)[start:end]
            rest = NavigableString(str(place)[end:])
            before = NavigableString(str(place)[:start])
            place.replace_with(before)
            before.insert_after(link)
            link.insert_after(rest)
            place = rest
    return [{"id": _name(word), "term": _titled(word), "meaning": known[word]} for word in sorted(found, key=str.lower)]


def _first(text: str, words: list[str]) -> tuple[str, int, int] | None:
    """The word that stands first in a text, and where."""
    hits = []
    for word in words:
        flags = 0 if word.isupper() else re.IGNORECASE
        if hit := re.search(rf"(?<![\w-]){re.escape(word)}(?:s|es)?(?![\w-]| of view)", text, flags):
            hits.append((hit.start(), -len(word), word, hit.end()))
    if not hits:
        return None
    start, _, word, end = min(hits)
    return word, start, end


def _name(word: str) -> str:
    return "word-" + re.sub(r"\W+", "-", word.lower())


def _titled(word: str) -> str:
    return word[0].upper() + word[1:]


def _as_html(text: str) -> str:
    """Paragraph of a glossary as HTML: mathematics, emphasis and code; a link to a paper stays one."""
    pieces = FORMULA.split(" ".join(text.split()))
    return "".join(mathml(one) if i % 2 else _words_as_html(one) for i, one in enumerate(pieces))


def _words_as_html(text: str) -> str:
    text = html_text.escape(text, quote=False)
    text = re.sub(r"\[(.+?)\]\((https://[^)\s]+)\)", r'<a href="\2">\1</a>', text)
    text = re.sub(r"`(.+?)`", r"<code>\1</code>", text)
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", text)
