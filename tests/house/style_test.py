# SPDX-License-Identifier: Apache-2.0
"""The written style, as far as a program can read it.

    style_test.py ROOT

Each rule is tried first on a small text that breaks it, and on one that does not.
"""
import os
import re
import sys
import tempfile

import source

COLUMNS, TAB = 100, 8
FUNCTION_LINES, FILE_LINES = 70, 800
CODE = (".c", ".h", ".cu", ".cuh")
SCRIPTS = (".py", ".sh", "/dev", "/.ci/run")

# What is longer than the rule and has a reason to be: "file" or "file:function" → the reason.
# A row whose reason has gone must go too; when the table passes ten rows the rule is not kept.
EXCEPTIONS = {
    "tests/store/node_test.c": "one test of one module's whole face, node.h, in the order of that",
    "engine/include/skep/skep.h": "the whole public interface in one place; most of it documents",
}
EXCEPTIONS_MAX = 10

# Calls that are not made here, and what to write in their place.
BANNED = {
    "strcpy": "snprintf or memcpy with a length",
    "strncpy": "snprintf or memcpy with a length",
    "stpcpy": "snprintf or memcpy with a length",
    "strcat": "snprintf",
    "strncat": "snprintf",
    "sprintf": "snprintf",
    "vsprintf": "vsnprintf",
    "strtok": "strtok_r, or a loop",
    "gets": "fgets or getline",
    "atoi": "strtol with its end looked at",
    "atol": "strtol with its end looked at",
    "atoll": "strtoll with its end looked at",
    "atof": "strtod with its end looked at",
    "alloca": "an array of a fixed size",
    "tmpnam": "mkstemp or mkdtemp",
    "cudaMallocManaged": "plain device memory: managed memory moves behind our back",
    "cuMemAllocManaged": "plain device memory: managed memory moves behind our back",
    "cudaMallocHost": "a registered chunk",
}
# Product code allocates through base/memory.h alone, so that tests can make the n-th one fail.
ALLOCATORS = {"malloc", "calloc", "realloc", "reallocarray", "strdup", "strndup", "asprintf",
              "vasprintf", "aligned_alloc", "posix_memalign"}
ALLOCATORS_LIVE_IN = {"base/memory.c"}

CALL = re.compile(r"(?<![\w.>])([A-Za-z_]\w*)\s*\(")
MARKERS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def is_product(path):
    return not path.startswith(("tests/", "examples/"))


def width(line):
    return len(line.expandtabs(TAB))


def text_faults(path, text):
    """Lines, blanks, ends, the licence line and markers: every kind of source file."""
    faults = []
    lines = text.split("\n")
    if lines[-1] != "":
        faults.append(f"{path}: the last line has no end")
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        if width(line) > COLUMNS:
            faults.append(f"{where}: {width(line)} columns, {COLUMNS} is the rule")
        if line != line.rstrip():
            faults.append(f"{where}: blanks at the end of the line")
        if MARKERS.search(line) and not path.startswith("tests/house/"):
            faults.append(f"{where}: a marker in the text; open work belongs to docs/ROADMAP.md")
    head = "\n".join(lines[:3])
    if "SPDX-License-Identifier: Apache-2.0" not in head:
        faults.append(f"{path}: no SPDX licence line at the top")
    return faults


def call_faults(path, text):
    """Banned calls, allocations past base/memory.h, typedefs of structs."""
    faults = []
    code = source.code_only(text)
    for match in CALL.finditer(code):
        name = match.group(1)
        where = f"{path}:{code.count(chr(10), 0, match.start()) + 1}"
        if name in BANNED:
            faults.append(f"{where}: {name}() is not used here; write {BANNED[name]}")
        if name in ALLOCATORS and is_product(path) and path not in ALLOCATORS_LIVE_IN:
            faults.append(f"{where}: {name}() goes past base/memory.h")
    for match in re.finditer(r"^[ \t]*typedef\s+(struct|union|enum)\b", code, re.M):
        line = code.count("\n", 0, match.start()) + 1
        faults.append(f"{path}:{line}: typedef of a {match.group(1)}")
    return faults


def functions(text):
    """(name, first line, lines) of each function body: a '{' and its '}' in the first column."""
    began, head, found = None, "", []
    for number, line in enumerate(source.code_only(text).split("\n"), 1):
        if began is None and line.startswith("{"):
            began = number
        elif began is not None and line.startswith("}"):
            name = re.search(r"(\w+)\s*\([^()]*(?:\([^()]*\)[^()]*)*\)[^()]*$", head)
            found.append((name.group(1) if name else "?", began, number - began - 1))
            began, head = None, ""
        elif began is None:
            head = "" if line.endswith((";", "}")) or line.startswith("#") else head + " " + line
    return found


def long_ones(path, text):
    """{"file" or "file:function": how many lines} of what passes the rule."""
    found = {}
    lines = text.count("\n")
    if lines > FILE_LINES:
        found[path] = lines
    if is_product(path):
        for name, _, length in functions(text):
            if length > FUNCTION_LINES:
                found[f"{path}:{name}"] = length
    return found


def length_faults(found, exceptions):
    faults = [f"{name}: {lines} lines; split it, or give the reason in style_test.py"
              for name, lines in sorted(found.items()) if name not in exceptions]
    faults += [f"style_test.py: {name} is not too long (any more): take its row out"
               for name in exceptions if name not in found]
    if len(exceptions) > EXCEPTIONS_MAX:
        faults.append(f"style_test.py: {len(exceptions)} exceptions, {EXCEPTIONS_MAX} is the rule")
    return faults


DECLARATION = re.compile(r"^(?:SKEP_API\b|(?:struct|enum|union)\s+\w+\s*\{|typedef\b"
                         r"|static inline\b|#define\s+SKEP_\w+\s+\S)")
DECLARED = re.compile(r"(?:struct|enum|union)\s+(\w+)\s*\{|#define\s+(\w+)|(\w+)\s*\((?!\*)"
                      r"|\(\*(\w+)\)|(\w+);")


def document_faults(path, text):
    """Each declaration of a public header has a kernel-doc comment that begins with its name."""
    faults, comment, inside, depth = [], "", None, 0
    for number, line in enumerate(text.split("\n"), 1):
        if inside is not None:
            inside += line + "\n"
            if "*/" in line:
                comment, inside = inside, None
            continue
        if line.lstrip().startswith("/*") and "*/" not in line:
            inside = line + "\n"
            continue
        if line.lstrip().startswith("/*"):
            comment = line
            continue
        if depth == 0 and DECLARATION.match(line) and "SKEP_API __" not in line:
            named = DECLARED.search(line.replace("SKEP_API", ""))
            name = next((word for word in named.groups() if word), "?") if named else "?"
            head = " ".join(comment.split("\n")[:2])
            if name.endswith("_H"):
                pass
            elif not comment.lstrip().startswith("/**"):
                faults.append(f"{path}:{number}: {name} has no /** comment before it")
            elif not re.search(rf"\b{re.escape(name)}\b", head):
                faults.append(f"{path}:{number}: the comment before {name} names something else")
        if line.strip():
            comment = ""
        depth += line.count("{") - line.count("}") if 'extern "C"' not in line else 0
        depth = max(depth, 0)
    return faults


def link_faults(root, path, text):
    """Links from one document to a file of the tree lead there."""
    text = re.sub(r"^(```|    ).*$", "", text, flags=re.M)
    faults = []
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        there = os.path.join(root, os.path.dirname(path), target)
        if "://" not in target and not os.path.exists(there):
            faults.append(f"{path}: links to {target}, which is not there")
    return faults


def check_tree(root):
    faults, found = [], {}
    code = source.files(root, CODE)
    for path in code:
        text = source.read(root, path)
        faults += text_faults(path, text) + call_faults(path, text)
        found.update(long_ones(path, text))
        if path.startswith("engine/include/skep/"):
            faults += document_faults(path, text)
    scripts = [path for path in source.files(root, ("",)) if ("/" + path).endswith(SCRIPTS)]
    for path in scripts:
        faults += text_faults(path, source.read(root, path))
    for path in source.files(root, (".md",)):
        faults += link_faults(root, path, source.read(root, path))
    if not code:
        faults.append("no source file was found: is this the tree?")
    return len(code) + len(scripts), faults + length_faults(found, EXCEPTIONS)


SPDX = "/* SPDX-License-Identifier: Apache-2.0 */\n"
BODY = "static int long_one(int a, int (*b)(int))\n{\n%s\treturn a;\n}\n"
DOCUMENTED = ("/**\n * skep_a() - first\n */\nSKEP_API int skep_a(void);\n\n"
              "/**\n * struct skep_b - second\n */\nstruct skep_b {\n\tint c;\n};\n")


def self_check():
    """Each rule finds what breaks it, and leaves alone what does not."""
    clean = SPDX + "int a; /* strcpy(a, b) */\nchar b[] = \"atoi(1)\";\n"
    assert not text_faults("a.c", clean) and not call_faults("a.c", clean)
    for text, rules in ((SPDX + "int a; \n", 1), (SPDX + "\t" * 12 + "int a;\n", 1),
                        ("int a;\n", 1), (SPDX + "int a;", 1), (SPDX + "/* TO" "DO */\n", 1)):
        assert len(text_faults("a.c", text)) == rules, text
    for text in ("x = atoi(a);\n", "\tstrcpy (a, b);\n", "typedef struct a b;\n", "malloc(1);\n",
                 "cudaMallocManaged(&a, 1);\n"):
        assert len(call_faults("store/a.c", text)) == 1, text
    for text in ("ops->gets(a);\n", "my_atoi(a);\n", "memory_zalloc(1);\n"):
        assert not call_faults("store/a.c", text), text
    assert not call_faults("tests/a.c", "malloc(1);\n")
    fits, passes = BODY % ("\ta++;\n" * 69), BODY % ("\ta++;\n" * 70)
    assert not long_ones("a.c", fits), long_ones("a.c", fits)
    assert long_ones("a.c", passes) == {"a.c:long_one": 71}, long_ones("a.c", passes)
    assert long_ones("a.h", "\n" * 801) == {"a.h": 801}
    assert not length_faults({"a": 801}, {"a": "why"})
    assert length_faults({"a": 801}, {}) and length_faults({}, {"a": "why"})
    assert not document_faults("a.h", DOCUMENTED), document_faults("a.h", DOCUMENTED)
    with tempfile.TemporaryDirectory() as root:
        source.write_tree(root, {"docs/a.md": "\n"})
        assert not link_faults(root, "b.md", "[a](docs/a.md#x) [c](https://skep.invalid/)")
        assert len(link_faults(root, "docs/b.md", "[a](docs/a.md)")) == 1
    for text in ("SKEP_API int skep_a(void);\n", DOCUMENTED.replace("skep_a()", "skep_z()"),
                 DOCUMENTED.replace("/**\n * struct", "/*\n * struct"),
                 DOCUMENTED + "#define SKEP_C 1\n"):
        assert len(document_faults("a.h", text)) == 1, text


def main():
    self_check()
    checked, faults = check_tree(sys.argv[1])
    source.finish("style", f"{checked} files", faults)


main()
