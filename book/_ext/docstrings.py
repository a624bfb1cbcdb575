"""Our docstrings as reStructuredText: plain text with `code`, then sections such as `Args:`.

Sphinx's own converter takes a docstring's text for reStructuredText, where `|h|`, `x_t` or `2 * D`
mean something else; here only code, bullets, indented blocks and examples mean anything.
"""

from __future__ import annotations

import re
import textwrap

SECTIONS = (
    "Args", "Attributes", "Returns", "Yields", "Raises", "Deviates", "Cost", "Source", "Example",
    "Examples", "Note",
)  # fmt: skip
HEADER = re.compile(rf"({'|'.join(SECTIONS)}):(?: +(\S.*))?$")
_NAME = r"\*{0,2}[\w.]+(?: \([^()]*\))?"
ITEM = re.compile(
    rf"(?P<names>{_NAME}(?:(?:, | and |, and ){_NAME})*): +(?P<text>\S.*)$", re.DOTALL
)


def escape(text: str) -> str:
    """`code` becomes literal; every character that has a meaning elsewhere loses it."""

    def safe(match: re.Match) -> str:
        if match["code"] is None:
            return "\\" + match[0]
        glued = re.match(r"\w", text[match.end() :])  # needs a separator that does not show
        return f"``{match['code'].strip('`')}``" + ("\\ " if glued else "")

    return re.sub(r"(?P<code>`+[^`]+`+)|[*|\\`]|_(?!\w)", safe, text)


def paragraph(lines: list[str]) -> list[str]:
    """One paragraph: an example, a block of its own indentation, bullets, or running text."""
    if any(line.lstrip().startswith(">>> ") for line in lines):
        return [*textwrap.dedent("\n".join(lines)).split("\n"), ""]
    if all(line.startswith("  ") for line in lines):
        block = textwrap.dedent("\n".join(lines)).split("\n")
        return ["::", "", *("    " + line for line in block), ""]
    out, in_bullet = [], False
    for line in lines:
        text = line.strip()
        if bullet := re.match(r"[*-] +(.*)", text):
            out += ["", "* " + escape(bullet[1])]
            in_bullet = True
        else:
            out.append(("  " if in_bullet else "") + escape(text))
    return [*out, ""]


def paragraphs(lines: list[str]) -> list[str]:
    """Lines split at the empty ones, each part as a paragraph."""
    parts = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    return [line for part in parts if part.strip() for line in paragraph(part.split("\n"))]


def items(lines: list[str]) -> list[str]:
    """`name: text` entries as a list; a line that begins no entry goes on with the one before."""
    entries: list[str] = []
    lines = textwrap.dedent("\n".join(lines)).split("\n")
    for index, line in enumerate(lines):
        following = " ".join([line, *(x.strip() for x in lines[index + 1 :])])
        starts = line and not line.startswith(" ") and ITEM.match(following)
        if starts or not entries:
            entries.append(line.strip())
        else:
            entries[-1] += " " + line.strip()
    out = []
    for entry in entries:
        found = ITEM.match(entry)
        text = f"``{found['names']}``: {escape(found['text'])}" if found else escape(entry)
        out += [f"* {text}", ""]
    return out


def to_rst(docstring: str) -> str:
    """Convert one docstring, already dedented."""
    lines, out, at = docstring.split("\n"), [], 0
    while at < len(lines):
        header = HEADER.match(lines[at])
        end = at + 1
        if header is None:
            while end < len(lines) and not HEADER.match(lines[end]):
                end += 1
            out += paragraphs(lines[at:end])
        else:
            inline = header[2] is not None
            while end < len(lines) and not HEADER.match(lines[end]):
                if inline and not lines[end].strip():
                    break  # "Cost: ..." ends with its paragraph
                if not inline and lines[end] and not lines[end].startswith(" "):
                    break  # a section ends where the text is no longer indented
                end += 1
            if inline:
                text = " ".join([header[2], *(line.strip() for line in lines[at + 1 : end])])
                out += [f"**{header[1]}:** {escape(text)}", ""]
            else:
                body = [line for line in lines[at + 1 : end]]
                listed = header[1] in ("Args", "Attributes", "Raises")
                dedented = textwrap.dedent("\n".join(body)).split("\n")
                out += [f"**{header[1]}:**", ""]
                out += items([x for x in body if x.strip()]) if listed else paragraphs(dedented)
        at = end
    return "\n".join(out).strip("\n") + "\n"
