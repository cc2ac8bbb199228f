#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Packs a wheel: the package and the two libraries of a build, nothing to be compiled anywhere.

    engine/python/wheel.py BUILD OUT [--glibc 2.28]

BUILD is a build folder, from which version and libraries are taken. With --glibc the wheel is of
the manylinux tag of that version, and libraries that need a newer one are refused; without it is of
this machine's kind alone. Prints the wheel's path.
"""
import argparse
import base64
import hashlib
import os
import re
import struct
import sys
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
LICENSE = os.path.join(HERE, "..", "..", "LICENSE")
LIBRARIES = ("libskep.so.0", "libskep-gpu.so.0")
# The same bytes from the same tree.
DATE = (2020, 1, 1, 0, 0, 0)

SECTION_VERSIONS_NEEDED = 0x6FFFFFFE


def sections(elf):
    """(type, offset, size, link, info) of each section of a 64-bit little-endian ELF file."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    at, = struct.unpack_from("<Q", elf, 0x28)
    size, count = struct.unpack_from("<HH", elf, 0x3A)
    for i in range(count):
        _, kind, _, _, offset, length, link, info = struct.unpack_from("<IIQQQQII", elf,
                                                                       at + i * size)
        yield kind, offset, length, link, info


def text_at(elf, at):
    return elf[at:elf.index(b"\0", at)].decode()


def versions_needed(elf):
    """The symbol versions that a library needs of others: {"GLIBC_2.17", …}."""
    table, needed = list(sections(elf)), set()
    for kind, at, _, link, files in table:
        if kind != SECTION_VERSIONS_NEEDED:
            continue
        strings = table[link][1]
        for _ in range(files):
            _, count, _, first, following = struct.unpack_from("<HHIII", elf, at)
            entry = at + first
            for _ in range(count):
                _, _, _, name, step = struct.unpack_from("<IHHII", elf, entry)
                needed.add(text_at(elf, strings + name))
                entry += step
            at += following
    return needed


def newer_than(elf, glibc):
    """What of these is of a newer glibc, or of something that is not in the wheel."""
    def fits(version):
        if version.startswith("SKEP_"):
            return True
        match = re.fullmatch(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?", version)
        return match and (int(match[1]), int(match[2])) <= glibc

    return sorted(version for version in versions_needed(elf) if not fits(version))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def version_of(build):
    cache = read(os.path.join(build, "CMakeCache.txt")).decode()
    return re.search(r"^CMAKE_PROJECT_VERSION:STATIC=(.+)$", cache, re.M)[1]


def metadata(version):
    readme = read(os.path.join(HERE, "README.md")).decode()
    return ("Metadata-Version: 2.1\n"
            f"Name: skep\nVersion: {version}\n"
            "Summary: A KV-cache store for the serving of language models: the client\n"
            "License: Apache-2.0\n"
            "Requires-Python: >=3.10\n"
            "Classifier: Operating System :: POSIX :: Linux\n"
            "Classifier: Programming Language :: Python :: 3\n"
            "Classifier: Typing :: Typed\n"
            f"Description-Content-Type: text/markdown\n\n{readme}").encode()


def contents(build, version, tag):
    """{name in the wheel: bytes}, the list of them excepted."""
    package = os.path.join(HERE, "skep")
    names = (os.path.relpath(os.path.join(folder, name), HERE)
             for folder, _, found in os.walk(package) for name in found
             if name.endswith((".py", ".typed")))
    files = {name: read(os.path.join(HERE, name)) for name in sorted(names)}
    for name in LIBRARIES:
        files[f"skep/{name}"] = read(os.path.join(build, "lib", name))
    info = f"skep-{version}.dist-info"
    files[f"{info}/LICENSE"] = read(LICENSE)
    files[f"{info}/METADATA"] = metadata(version)
    files[f"{info}/WHEEL"] = ("Wheel-Version: 1.0\nGenerator: skep\nRoot-Is-Purelib: false\n"
                              f"Tag: {tag}\n").encode()
    return files, f"{info}/RECORD"


def record(files, own_name):
    lines = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}\n")
    return "".join(lines + [f"{own_name},,\n"]).encode()


def pack(build, out, glibc=None):
    """Writes the wheel. Return: its path."""
    version = version_of(build)
    platform = f"manylinux_{glibc[0]}_{glibc[1]}_x86_64" if glibc else "linux_x86_64"
    tag = f"py3-none-{platform}"
    files, record_name = contents(build, version, tag)
    for name in LIBRARIES:
        newer = newer_than(files[f"skep/{name}"], glibc) if glibc else ()
        if newer:
            raise ValueError(f"{name} needs {', '.join(newer)}: newer than {tag} allows")
    files[record_name] = record(files, record_name)
    os.makedirs(out, exist_ok=True)
    path = os.path.join(out, f"skep-{version}-{tag}.whl")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if ".so" in name else 0o644) << 16
            wheel.writestr(entry, data)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build")
    parser.add_argument("out")
    parser.add_argument("--glibc", help="the oldest one that the wheel is for, as 2.28")
    options = parser.parse_args()
    glibc = tuple(map(int, options.glibc.split("."))) if options.glibc else None
    try:
        print(pack(options.build, options.out, glibc))
    except (OSError, ValueError) as error:
        sys.exit(f"wheel.py: {error}")


if __name__ == "__main__":
    main()
