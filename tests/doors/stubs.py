# SPDX-License-Identifier: Apache-2.0
"""Lets the torch of PyPI load without the CUDA libraries that it names: 2.7 GB, of which tensors in
the memory of a processor need nothing.

    PYTHON stubs.py CC    by the Python of the environment whose torch it is

For each library that torch names and lacks, a small one of that name is put beside it, which holds
the functions that torch takes from there: they answer that there is no device.
"""
import collections
import os
import re
import subprocess
import sys
import sysconfig

# Named by what is loaded on demand alone; were there one, others would believe in a driver.
LEFT_OUT = {"libcuda.so.1"}
OURS_TO_STUB = re.compile(r"lib(cu|nv|nccl)")
NO_DEVICE = 100  # cudaErrorNoDevice


def run(*command, text=None):
    done = subprocess.run(command, check=True, capture_output=True, text=True, input=text)
    return done.stdout


def needs_of(path):
    """The libraries that one names, and whose each symbol version is: {version: library}."""
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-dW", path)))
    version_of, library = {}, ""
    for line in run("readelf", "-VW", path).splitlines():
        file = re.search(r"File: (\S+)", line)
        library = file.group(1) if file else library
        version = re.search(r"Name: (\S+) .*Version: \d+", line)
        if version and library:
            version_of[version.group(1)] = library
    return needed, version_of


def symbols_of(path):
    """(open symbols as (name, version), names that are defined)."""
    left_open, defined = set(), set()
    for line in run("readelf", "--dyn-syms", "-W", path).splitlines():
        words = line.split()
        if len(words) < 8 or not words[0].endswith(":"):
            continue
        name, _, version = words[7].partition("@")
        if words[6] == "UND":
            left_open.add((name, version.strip("@")))
        else:
            defined.add(name)
    return left_open, defined


def answer(name):
    """Torch registers its kernels while it is loaded; whatever it asks later finds no device."""
    if name.startswith("__cuda"):
        return "0"
    return '(long)""' if name.endswith(("String", "Name")) else str(NO_DEVICE)


def stub_make(cc, target, functions):
    """@functions: {version: names}; the version "" is none."""
    names = sorted(set().union(*functions.values())) if functions else []
    code = "".join(f"long {name}(void) {{ return {answer(name)}; }}\n" for name in names)
    script = "".join(f"{version} {{ global: {'; '.join(sorted(group))}; }};\n"
                     for version, group in functions.items() if version)
    command = [cc, "-shared", "-fPIC", "-w", "-fno-builtin", "-x", "c", "-", "-o", target,
               f"-Wl,-soname,{os.path.basename(target)}"]
    if not script:
        run(*command, text=code)
        return
    with open(target + ".map", "w", encoding="utf-8") as file:
        file.write(script)
    run(*command, f"-Wl,--version-script={target}.map", text=code)
    os.remove(target + ".map")


def main():
    cc, place = sys.argv[1], os.path.join(sysconfig.get_path("platlib"), "torch", "lib")
    libraries = [name for name in sorted(os.listdir(place)) if ".so" in name]
    missing, left_open, defined = set(), set(), set()
    functions = collections.defaultdict(lambda: collections.defaultdict(set))
    for name in libraries:
        needed, version_of = needs_of(os.path.join(place, name))
        opens, defines = symbols_of(os.path.join(place, name))
        missing |= {other for other in needed if OURS_TO_STUB.match(other)}
        defined |= defines
        left_open |= {symbol for symbol, version in opens if not version}
        for symbol, version in opens:
            if version in version_of:
                functions[version_of[version]][version].add(symbol)
    missing -= set(libraries) | LEFT_OUT
    # What is wanted without a version may come from any of them.
    loose = {name for name in left_open - defined if re.match(r"cu|nv|nccl", name)}
    for library in sorted(missing):
        if library == min(missing):
            functions[library][""] = loose
        stub_make(cc, os.path.join(place, library), functions[library])
    print(f"{len(missing)} libraries of CUDA are stood in for")


main()
