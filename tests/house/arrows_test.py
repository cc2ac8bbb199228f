# SPDX-License-Identifier: Apache-2.0
"""Arrows between folders go one way: read from every #include and every link line.

    arrows_test.py ROOT LINKS    LINKS: the link lines CMake wrote (tests/house/CMakeLists.txt)

A violation is planted first, in a tree of its own: a test that finds nothing there proves nothing.
"""
import os
import re
import sys
import tempfile

import source

# The house plan. A folder may use itself and what stands here; what it may use does not pass on.
# "transport/local:client" is the half of transport/local that a client process links (wire
# included); "transport/local:server" is the daemon's half. `tiering/hbm` is the part of tiering
# that an engine may use. ALL: everything.
ALL = "all"
BELOW_STORE = ("store/read", "tiering", "tiering/hbm", "transport", "transport/local:client",
               "transport/local:server", "base", "base/loop", "kernels")
MAY_USE = {
    "base": (),
    "base/loop": ("base",),
    "base/config": ("base",),
    "kernels": ("base",),
    "tiering": ("base", "base/loop", "kernels", "tiering/hbm"),
    "tiering/hbm": ("base", "base/loop", "kernels", "tiering"),
    "transport": ("base", "base/loop", "transport/local:client", "transport/local:server"),
    "transport/local:client": ("base",),
    "transport/local:server": ("base", "base/loop", "transport", "transport/local:client"),
    "store/read": ("base",),
    "store": tuple(name for name in BELOW_STORE if name != "kernels"),
    "engine/include": (),
    "engine": ("engine/include", "store/read", "transport/local:client", "tiering/hbm", "kernels",
               "base"),
    "engine/embedded": ("engine", "engine/include", "store") + BELOW_STORE,
    "tools": ALL,
    "tests": ALL,
    "examples": ("engine/include",),
}

# Targets whose folder alone does not say which module they are.
TARGET_MODULE = {
    "skep_local_wire": "transport/local:client",
    "skep_local_client": "transport/local:client",
    "skep_local_server": "transport/local:server",
    "skep_node_shared": "engine/embedded",
}
# A program outside the tree's code (an example, a test) links a whole library, whatever is inside.
WHOLE_LIBRARIES = {"skep_shared", "skep_node_shared"}

# Outside libraries: a word of the header or of the link line, and who may name it. Each has one
# place, so that it can be left out or changed in one place.
OUTSIDE = {
    "liburing": ("base/loop", "tiering"),
    "yaml": ("base/config",),
    "microhttpd": ("tools",),
    "jansson": ("tools",),
    "xxhash": ("base",),
    "cuda": ("kernels",),
    "infiniband": ("transport",),
    "rdma": ("transport",),
    "rocksdb": ("tiering",),
    "openssl": ("transport",),
}
# Link words that are part of libc, or that name no library.
HARMLESS_LINKS = {"Threads::Threads", "m", "rt", "dl", "pthread"}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.M)


def module_of(path):
    """The module a file or folder belongs to, or None outside the plan."""
    if path.startswith("transport/local/") or path == "transport/local":
        half = "server" if "server" in os.path.basename(path) else "client"
        return f"transport/local:{half}"
    parts = path.split("/")
    for length in range(len(parts), 0, -1):
        name = "/".join(parts[:length])
        if name in MAY_USE:
            return name
    return None


def allowed(user, used):
    return user == used or MAY_USE[user] == ALL or used in MAY_USE[user]


def outside_fault(where, user, word):
    """A fault when an outside library is named by a folder that is not its place."""
    if MAY_USE[user] == ALL and user != "tools":
        return None
    for name, places in OUTSIDE.items():
        if name in word.lower() and user not in places:
            return f"{where}: {user} names {word}; that belongs to {', '.join(places)} alone"
    return None


def resolve(root, path, kind, name):
    """The included file as a path from the root, or None for a header of the system."""
    for base in ("", "engine/include"):
        if os.path.isfile(os.path.join(root, base, name)):
            return os.path.normpath(os.path.join(base, name))
    if kind == '"':
        return ""
    return None


def include_faults(root):
    """Every #include of the tree that the plan does not allow; and how many were looked at."""
    faults, seen = [], 0
    for path in source.files(root, (".c", ".h", ".cu", ".cuh")):
        user = module_of(path)
        if user is None:
            faults.append(f"{path}: its folder is not in the house plan")
            continue
        text = source.without_comments(source.read(root, path))
        for match in INCLUDE.finditer(text):
            seen += 1
            where = f"{path}:{text.count(chr(10), 0, match.start()) + 1}"
            used_path = resolve(root, path, match.group(1), match.group(2))
            if used_path is None:
                fault = outside_fault(where, user, match.group(2))
            else:
                fault = inside_fault(root, where, path, match.group(2), used_path)
            if fault:
                faults.append(fault)
    return faults, seen


def inside_fault(root, where, path, name, used_path):
    user, used = module_of(path), module_of(used_path)
    if used_path == "":
        return f"{where}: \"{name}\" is not found from the root (includes are written from there)"
    if used is None or not allowed(user, used):
        return f"{where}: {user} may not use {used} ({name})"
    same_folder = os.path.dirname(path) == os.path.dirname(used_path)
    if used_path.endswith("_priv.h") and not same_folder and user != "tests":
        return f"{where}: {name} is private to its folder"
    if used_path.endswith(".c") and user != "tests":
        return f"{where}: {name}: only a unit test includes a .c file"
    return None


def read_links(text):
    """{target: (module, [words])} from lines of `target|folder|word word …`."""
    targets = {}
    for line in text.splitlines():
        name, folder, words = line.split("|")
        module = TARGET_MODULE.get(name) or module_of(folder)
        words = re.findall(r"[A-Za-z_][\w.+-]*(?:::[A-Za-z_][\w.+-]*)?", words)
        targets[name] = (module, words)
    return targets


def link_faults(text):
    """Every link line the plan does not allow; and how many words were looked at."""
    faults, seen = [], 0
    targets = read_links(text)
    for name, (user, words) in targets.items():
        if user is None:
            faults.append(f"target {name}: its folder is not in the house plan")
            continue
        for word in words:
            seen += 1
            if word in targets:
                used = targets[word][0]
                whole = user == "examples" and word in WHOLE_LIBRARIES
                if used and not whole and not allowed(user, used):
                    faults.append(f"target {name}: {user} may not link {word} of {used}")
            elif word not in HARMLESS_LINKS:
                fault = outside_fault(f"target {name}", user, word)
                if fault:
                    faults.append(fault)
    return faults + client_faults(targets), seen


def client_faults(targets):
    """libskep.so is the client alone: nothing that it reaches over its links is the node's."""
    faults, reached, ahead = [], set(), ["skep_shared"]
    while ahead:
        name = ahead.pop()
        if name in reached or name not in targets:
            continue
        reached.add(name)
        module, words = targets[name]
        if not allowed("engine", module):
            faults.append(f"libskep.so reaches {name} of {module}, which is not a client's")
        ahead += words
    return faults


GOOD = {
    "base/log.h": "#include <stdio.h>\n",
    "base/loop/loop.c": '#include "base/log.h"\n#include <liburing.h>\n',
    "store/read/index.h": '#include "base/log.h"\n',
    "store/keeper_priv.h": "\n",
    "store/keeper.c": '#include "store/keeper_priv.h"\n#include "transport/local/server.h"\n',
    "transport/local/server.h": '#include "transport/local/wire.h"\n',
    "transport/local/wire.h": "\n",
    "engine/include/skep/skep.h": "#include <stddef.h>\n",
    "engine/client/client.c": '#include "skep/skep.h"\n#include "transport/local/wire.h"\n',
    "examples/hello.c": "#include <skep/skep.h>\n",
    "tests/store/keeper_test.c": '#include "store/keeper.c"\n',
}
PLANTED = {
    "base/up.c": '#include "store/read/index.h"\n',
    "store/read/up.c": '#include "base/loop/loop.h"\n',
    "engine/client/up.c": '#include "transport/local/server.h"\n',
    "engine/client/down.c": '  #  include "store/keeper_priv.h"\n',
    "examples/inside.c": '#include "base/log.h"\n',
    "tools/skepd/peek.c": '#include "store/keeper_priv.h"\n',
    "store/ring.c": "#include <liburing.h>\n",
    "store/near.c": '#include "keeper_priv.h"\n',
    "lost/here.c": "\n",
}
GOOD_LINKS = """skep_base|base|Threads::Threads
skep_loop|base/loop|skep_base PkgConfig::liburing
skep_read|store/read|skep_base
skep_local_client|transport/local|skep_base
skep_local_server|transport/local|skep_loop skep_local_client
skep_store|store|skep_read skep_local_server
skep_shared|engine|skep_read $<LINK_ONLY:skep_local_client>
skep_node_shared|engine|skep_store skep_read
hello|examples|skep_shared
"""
PLANTED_LINKS = (
    "skep_up|store/read|skep_loop\n",
    "skep_ring|store|PkgConfig::liburing\n",
    "hello_inside|examples|skep_base\n",
    "skep_gpu|engine|$<LINK_ONLY:skep_store>\n",
)


def self_check():
    """The test finds each planted violation, and nothing in the tree without one."""
    with tempfile.TemporaryDirectory() as root:
        source.write_tree(root, GOOD)
        source.write_tree(root, {"base/loop/loop.h": "\n"})
        faults, seen = include_faults(root)
        assert not faults and seen > 0, f"a good tree was refused: {faults}"
        for path, text in PLANTED.items():
            source.write_tree(root, {path: text})
            faults, _ = include_faults(root)
            assert len(faults) == 1 and faults[0].startswith(path), f"{path}: found {faults}"
            os.remove(os.path.join(root, path))
    faults, seen = link_faults(GOOD_LINKS)
    assert not faults and seen > 0, f"good link lines were refused: {faults}"
    for line in PLANTED_LINKS:
        faults, _ = link_faults(GOOD_LINKS + line)
        assert len(faults) == 1, f"{line.strip()}: found {faults}"
    far = GOOD_LINKS.replace("skep_local_client|transport/local|skep_base",
                             "skep_local_client|transport/local|skep_loop")
    faults, _ = link_faults(far)
    assert any("libskep.so reaches skep_loop" in fault for fault in faults), f"found {faults}"


def main():
    root, links = sys.argv[1:]
    self_check()
    faults, includes = include_faults(root)
    with open(links, encoding="utf-8") as file:
        more, words = link_faults(file.read())
    if includes == 0 or words == 0:
        faults.append("no #include or no link line was found: is this the tree?")
    source.finish(f"arrows ({includes} includes, {words} links)", includes + words, faults + more)


main()
