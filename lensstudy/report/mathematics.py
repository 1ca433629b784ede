"""Mathematics on a page: LaTeX as MathML, which browsers draw without a script."""

from __future__ import annotations

import html as html_text
import re

import latex2mathml.converter

__all__ = ["mathml", "text_with_math"]

FORMULA = re.compile(r"(?<!\\)\$(.+?)(?<!\\)\$")


def mathml(tex: str, display: str = "inline") -> str:
    """A formula of LaTeX as MathML, with itself as the alternative text; what cannot be converted stays as code.

    Args:
        tex: the formula, without dollar signs.
        display: `inline`, or `block` for a line of its own.

    Example:
        >>> mathml("x")
        '<math alttext="x" xmlns="http://www.w3.org/1998/Math/MathML" display="inline"><mrow><mi>x</mi></mrow></math>'
    """
    try:
        converted = latex2mathml.converter.convert(tex.strip(), display=display)
    except Exception:  # the converter knows most of LaTeX, and raises errors of many kinds on the rest
        return f"<code>{html_text.escape(tex)}</code>"
    converted = converted.replace("<math ", f'<math alttext="{html_text.escape(" ".join(tex.split()))}" ', 1)
    return f'<span class="equation" tabindex="0">{converted}</span>' if display == "block" else converted


def text_with_math(text: str) -> str:
    """HTML of plain text in which `$...$` is mathematics, as in captions."""
    pieces = FORMULA.split(text)
    return "".join(mathml(one) if i % 2 else html_text.escape(one) for i, one in enumerate(pieces))
