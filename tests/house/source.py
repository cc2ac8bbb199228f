# SPDX-License-Identifier: Apache-2.0
"""What the house tests share: which files belong to the tree, and C text without its comments."""
import os
import re
import sys

LEFT_OUT = {".git", "build", ".cache", "__pycache__"}


def files(root, endings):
    """The files of the tree whose names end so, as sorted paths relative to root."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        for name in names:
            if name.endswith(endings):
                found.append(os.path.relpath(os.path.join(folder, name), root))
    return sorted(found)


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read()


TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def _blank(match):
    text = match.group(0)
    if text.startswith("/"):
        return " " + "\n" * text.count("\n")
    return text[0] + text[-1]


def code_only(text):
    """C text with comments gone and literals emptied; every line keeps its number."""
    return TOKEN.sub(_blank, text)


def without_comments(text):
    """As code_only, with the literals left in: #include lines need theirs."""
    return TOKEN.sub(lambda m: _blank(m) if m.group(0).startswith("/") else m.group(0), text)


def write_tree(root, contents):
    """Lays a small tree out for a self-check: {path: text}."""
    for path, text in contents.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(text)


def finish(what, checked, faults):
    """Prints the faults and ends the program: 0 when there is none."""
    for fault in faults:
        print(fault)
    print(f"{what}: {checked} checked, {len(faults)} faults")
    sys.exit(1 if faults else 0)
