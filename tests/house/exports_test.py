# SPDX-License-Identifier: Apache-2.0
"""A shared library exports what its public headers declare, and needs no other library than named.

    exports_test.py CC INCLUDE HEADER[,HEADER…] LIBRARY NEEDED…
"""
import os
import re
import subprocess
import sys
import tempfile

import source

# Weak references that the compiler's start files make in every library; unbound they are nothing.
START_FILES = {"__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable",
               "__cxa_finalize"}

# The loader is a part of libc that the linker names where thread-local variables are used.
LOADER = re.compile(r"ld-linux[\w-]*\.so\.\d+")


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def own_text(preprocessed, path):
    """What the header itself says, without what it includes (by the preprocessor's line marks)."""
    own, lines = False, []
    for line in preprocessed.splitlines():
        mark = re.match(r'# \d+ "(.*?)"', line)
        if mark:
            own = mark.group(1) == path
        elif own:
            lines.append(line)
    return "\n".join(lines)


def declared(cc, include, header):
    """The functions that a public header declares, by the preprocessor's view of it."""
    path = os.path.join(include, header)
    text = own_text(run(cc, "-E", "-x", "c", "-I", include, path), path)
    text = re.sub(r"\bstatic\b[^;{]*\{[^}]*\}", "", text)
    while re.search(r"\{[^{}]*\}", text):
        text = re.sub(r"\{[^{}]*\}", "", text)
    return set(re.findall(r"\b(skep_\w+)\s*\([^;]*\)[^;(]*;", text))


def faults_of(library, wanted, needed):
    """What is wrong with one library."""
    faults, exported = [], set()
    for line in run("nm", "-D", "--defined-only", library).splitlines():
        kind, name = line.split()[-2:]
        name = name.split("@")[0]
        if kind == "A":
            continue
        exported.add(name)
        if not name.startswith("skep_"):
            faults.append(f"exports {name}, which is not ours to name")
    faults += [f"does not export {name}, which a header declares" for name in wanted - exported]
    faults += [f"exports {name}, which no header declares"
               for name in exported - wanted if name.startswith("skep_")]
    for name in re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-dW", library)):
        if name not in needed and not LOADER.fullmatch(name):
            faults.append(f"needs {name}; only {', '.join(needed)} may be needed")
    if needed == ["libc.so.6"]:
        for line in run("nm", "-D", "--undefined-only", library).splitlines():
            name = line.split()[-1]
            if "@GLIBC_" not in name and name not in START_FILES:
                faults.append(f"leaves {name} open, which is not of libc")
    return sorted(faults)


def self_check(cc):
    """A library that is right is let through; each fault planted in it is found."""
    right = "__attribute__((visibility(\"default\"))) int skep_a(void) { return 1; }\n"
    loud = "__attribute__((visibility(\"default\"))) int %s(void) { return 1; }\n"
    with tempfile.TemporaryDirectory() as root:
        source.write_tree(root, {
            "include/skep/b.h": "int skep_of_another_library(void);\n",
            "include/skep/a.h": "#include <skep/b.h>\n#define API\nAPI int skep_a(void);\n"
                                "struct skep_b { int (*call)(int skep_c); };\n"
                                "static inline int skep_d(int e) { return e; }\n"})
        include = os.path.join(root, "include")
        wanted = declared(cc, include, "skep/a.h")
        assert wanted == {"skep_a"}, wanted
        planted = (("", (), 0), (loud % "other", (), 1), (loud % "skep_more", (), 1),
                   ("double cos(double);\ndouble (*skep_hidden)(double) = cos;\n",
                    ("-Wl,--no-as-needed", "-lm"), 1),
                   ("int lost(void);\nint kept(void) { return lost(); }\n", (), 1))
        for more, flags, count in planted:
            source.write_tree(root, {"a.c": right + more})
            library = os.path.join(root, "a.so")
            run(cc, "-shared", "-fPIC", "-fvisibility=hidden", "-o", library,
                os.path.join(root, "a.c"), *flags)
            faults = faults_of(library, wanted, ["libc.so.6"])
            assert len(faults) == count, f"{more}: found {faults}"
        assert faults_of(library, wanted | {"skep_gone"}, ["libc.so.6"])


def main():
    cc, include, headers, library = sys.argv[1:5]
    self_check(cc)
    each = {header: declared(cc, include, header) for header in headers.split(",")}
    wanted = set().union(*each.values())
    faults = [f"{os.path.basename(library)} {fault}"
              for fault in faults_of(library, wanted, sys.argv[5:])]
    faults += [f"no declaration was found in {header}" for header in each if not each[header]]
    source.finish(os.path.basename(library), f"{len(wanted)} declarations", faults)


main()
