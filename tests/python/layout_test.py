# SPDX-License-Identifier: Apache-2.0
"""The structs of the package lie as the headers say: sizes and offsets from the C compiler.

    layout_test.py CC INCLUDE

Structs of which the header has more fields, or that it has and the package does not, are found too.
"""
import ctypes
import os
import re
import subprocess
import sys
import tempfile
import unittest

from skep import _structs, errors, session

CC, INCLUDE = sys.argv[1:3]
# Handles, and what is C's alone.
OPAQUE = {"skep", "skep_space", "skep_chain", "skep_queue", "skep_gpu", "skep_gpu_plan",
          "skep_gpu_job", "skep_chunk"}


def c_name(field):
    return field.rstrip("_")


def program(kinds):
    """A C program that prints the size of each struct and the place of each field."""
    lines = ["#include <skep/skep_gpu.h>", "#include <stdio.h>", "int main(void)", "{"]
    for name, kind in kinds.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        for field, *_ in kind._fields_:
            of = f"struct {name}, {c_name(field)}"
            lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof({of}), '
                         f'sizeof((({of.split(",")[0]} *)0)->{c_name(field)}));')
    return "\n".join(lines + ["return 0;", "}", ""])


def header_structs():
    """{name: [fields]} as the text of the headers has them."""
    found = {}
    for header in ("skep.h", "skep_gpu.h"):
        with open(os.path.join(INCLUDE, "skep", header), encoding="utf-8") as file:
            text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S)
        for name, body in re.findall(r"struct (\w+) \{([^}]*)\};", text):
            found[name] = re.findall(r"(\w+)(?:\[\d+\])?;", body)
    return found


class Layout(unittest.TestCase):
    def test_sizes_and_offsets_are_the_compilers(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "layout")
            with open(path + ".c", "w", encoding="utf-8") as file:
                file.write(program(_structs.C_NAMES))
            subprocess.run([CC, "-I", INCLUDE, "-o", path, path + ".c"], check=True)
            said = subprocess.run([path], check=True, capture_output=True, text=True).stdout
        truth = dict(line.split(" ", 1) for line in said.splitlines())
        for name, kind in _structs.C_NAMES.items():
            self.assertEqual(str(ctypes.sizeof(kind)), truth.pop(name), name)
            for field, *_ in kind._fields_:
                place = getattr(kind, field)
                self.assertEqual(f"{place.offset} {place.size}", truth.pop(f"{name}.{field}"),
                                 f"{name}.{field}")
        self.assertEqual(truth, {})

    def test_every_field_of_the_headers_is_there(self):
        found = header_structs()
        self.assertEqual(set(found) - OPAQUE, set(_structs.C_NAMES))
        for name, kind in _structs.C_NAMES.items():
            self.assertEqual(found[name], [c_name(field) for field, *_ in kind._fields_], name)

    def test_a_copy_is_packed_as_its_struct(self):
        packed = session._COPY.pack(72, 1, bytes(range(24)), 2, 3, 4, 5, 6)
        copy = _structs.Copy.from_buffer_copy(packed)
        self.assertEqual(
            (copy.struct_bytes, copy.space, bytes(copy.ref), copy.part, copy.first_range,
             copy.range_count, copy.to, copy.to_count),
            (ctypes.sizeof(_structs.Copy), 1, bytes(range(24)), 2, 3, 4, 5, 6))

    def test_codes_are_the_headers(self):
        with open(os.path.join(INCLUDE, "skep", "skep.h"), encoding="utf-8") as file:
            codes = dict(re.findall(r"\tSKEP_(E[A-Z]+) = (-\d+),", file.read()))
        self.assertEqual({name: int(number) for name, number in codes.items()},
                         {name: number for number, name in errors._NAMES.items()})
        for name, number in codes.items():
            self.assertEqual(getattr(errors, name), int(number))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
