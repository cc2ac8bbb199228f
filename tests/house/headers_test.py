# SPDX-License-Identifier: Apache-2.0
"""Each public header compiles alone, and twice, in C and in C++, without a warning.

    headers_test.py INCLUDE CC CXX
"""
import os
import re
import subprocess
import sys
import tempfile

import source

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wundef", "-Werror"]
# The oldest standards a user is promised; struct initialisers are their own business.
LANGUAGES = (("c", "c11", ["-Wstrict-prototypes"]), ("c++", "c++11", ["-Wold-style-cast"]))


def compile_faults(include, header, compilers):
    """What the compilers say about a source that holds the header alone, twice."""
    faults = []
    text = f"#include <{header}>\n#include <{header}>\nint nothing_else(void);\n"
    for language, standard, more in LANGUAGES:
        command = [compilers[language], "-x", language, f"-std={standard}", *WARNINGS, *more,
                   "-fsyntax-only", "-I", include, "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            faults.append(f"{header} in {standard}:\n{done.stderr.strip()}")
    return faults


def include_faults(include, header):
    """A public header stands on the system's headers and on other public ones."""
    text = source.without_comments(source.read(include, header))
    names = re.findall(r'^[ \t]*#[ \t]*include[ \t]*(["<][^">]+)', text, re.M)
    return [f"{header}: includes {name[1:]}: public headers are named <skep/…>"
            for name in names if name[0] == '"']


def self_check(compilers):
    good = ("#ifndef A\n#define A\n#include <stddef.h>\n"
            "#ifdef __cplusplus\nextern \"C\" {\n#endif\n"
            "size_t a(const char *b);\n"
            "#ifdef __cplusplus\n}\n#endif\n#endif\n")
    with tempfile.TemporaryDirectory() as root:
        source.write_tree(root, {
            "skep/good.h": good,
            "skep/bare.h": good.replace("#include <stddef.h>\n", ""),
            "skep/again.h": "static const int a = 1;\n",
            "skep/word.h": good.replace("char *b", "char *new"),
            "skep/near.h": '#include "base/log.h"\n',
        })
        assert not compile_faults(root, "skep/good.h", compilers)
        for name in ("bare", "again", "word"):
            assert compile_faults(root, f"skep/{name}.h", compilers), f"{name} was let through"
        assert include_faults(root, "skep/near.h") and not include_faults(root, "skep/good.h")


def main():
    include, cc, cxx = sys.argv[1:]
    compilers = {"c": cc, "c++": cxx}
    self_check(compilers)
    headers = source.files(include, (".h",))
    faults = [] if headers else [f"no header was found below {os.path.abspath(include)}"]
    for header in headers:
        faults += include_faults(include, header) + compile_faults(include, header, compilers)
    source.finish("headers", f"{len(headers)} headers", faults)


main()
