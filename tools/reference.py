#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the reference of the C interface (Markdown) from the kernel-doc comments of its headers.

    tools/reference.py engine/include/skep/skep.h > docs/reference/libskep.md
"""
import re
import sys

COMMENT = re.compile(r"/\*\*\n(.*?)\*/\n(.*?)(?=\n\n|\n/\*|\Z)", re.S)
ITEM = re.compile(r"^@(\w+): ?(.*)$")


def body_lines(comment):
    """The comment without its leading stars; tabs that fold an item's text stay as spaces."""
    return [re.sub(r"^ \* ?", "", line).rstrip() for line in comment.splitlines()]


def code(text):
    """Names in running text as code: calls, constants, members."""
    names = r"skep_\w+\(\)|struct skep_\w+|enum skep_\w+|SKEP_\w+|-E[A-Z0-9]+"
    text = re.sub(rf"(?<![\w`])({names})", r"`\1`", text)
    return re.sub(r"@(\w+)", r"`\1`", text)


def items_and_text(lines):
    """Splits a comment's lines in items [(name, text)] and paragraphs."""
    items, paragraphs, open_item = [], [[]], None
    for line in lines:
        match = ITEM.match(line)
        if match:
            items.append([match.group(1), match.group(2)])
            open_item = items[-1]
        elif open_item and line.startswith("\t"):
            open_item[1] += " " + line.strip()
        elif not line.strip():
            paragraphs.append([])
            open_item = None
        else:
            open_item = None
            paragraphs[-1].append(line.strip())
    return items, [" ".join(part) for part in paragraphs if part]


def entry(comment, declaration):
    """One declaration as Markdown."""
    lines = body_lines(comment)
    head = lines[0]
    if head.startswith("DOC:"):
        _, paragraphs = items_and_text(lines[1:])
        return "# " + head[4:].strip() + "\n\n" + "\n\n".join(code(p) for p in paragraphs) + "\n"
    name, _, purpose = head.partition(" - ")
    items, paragraphs = items_and_text(lines[1:])
    sentence = purpose[:1].upper() + purpose[1:].rstrip(".") + "."
    out = [f"## {name.strip()}", "", code(sentence), ""]
    if declaration.strip():
        out += ["```c", declaration.replace("SKEP_API ", "").rstrip(), "```", ""]
    out += [f"* `{item}`: {code(text)}" for item, text in items]
    if items:
        out.append("")
    for paragraph in paragraphs:
        out += [code(paragraph), ""]
    return "\n".join(out)


def reference(text):
    return "\n".join(entry(c, d) for c, d in COMMENT.findall(text)).rstrip() + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as header:
        sys.stdout.write(reference(header.read()))
