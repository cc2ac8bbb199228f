# SPDX-License-Identifier: Apache-2.0
"""What the programs say of themselves stands in their documents, all of it.

    documents_test.py SKEPD SKEP ROOT

The programs print from their tables, so this holds man pages, example and completion to the tables.
"""
import json
import os
import re
import shutil
import subprocess
import sys

SKEPD, SKEP, ROOT = sys.argv[1:4]
# A flag and its key are one option of skepd(8), named in the text where the names differ.
KEY_OF_FLAG = {"realm-socket": "socket", "token": "tokens", "token-file": "token_files",
               "uid": "uids", "realm-ssd": "ssd"}


def said(*words, rc=(0,)):
    env = dict(os.environ)
    env.pop("SKEP_SOCKET", None)
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env, timeout=60)
    if done.returncode not in rc:
        sys.exit(f"{' '.join(words)}: exit {done.returncode}: {done.stderr}")
    return done.stdout


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def flags_in(text):
    """The flags a help text lists, one a line at its start."""
    return re.findall(r"^ +--([a-z][a-z-]*)", text, re.M)


def man_flags(page):
    return set(re.findall(r"Fl -([a-z][a-z-]*)", page))


def skepd_faults():
    page, example = read("docs/man/skepd.8"), read("tools/skepd/skepd.yaml")
    flags = flags_in(said(SKEPD, "--help"))
    keys = re.findall(r"^ *#?([a-z_]+):", said(SKEPD, "--help-config"), re.M)
    checks = [row["name"] for row in json.loads(said(SKEPD, "--check", "--json", "--admin", "off",
                                                     "--ssd", "/nowhere/a:1GiB",
                                                     rc=(0, 1, 2)))["checks"]]
    faults = [f"skepd(8) has no --{flag}" for flag in flags if flag not in man_flags(page)]
    faults += [f"skepd(8): --{flag} is no flag" for flag in man_flags(page) if flag not in flags]
    faults += [f"skepd.yaml has no {key}" for key in keys
               if not re.search(rf"^[ #-]*(or, worse, )?{key}:", example, re.M)
               and not re.search(rf"\b{key}:", example)]
    faults += [f"skepd(8) has no key {key}" for key in KEY_OF_FLAG.values()
               if f".Cm {key}" not in page]
    faults += [f"skepd(8) has no check {name}" for name in checks if f".It Cm {name}" not in page]
    if len(flags) < 30 or len(keys) < 28 or len(checks) < 10:
        faults.append(f"only {len(flags)} flags, {len(keys)} keys, {len(checks)} checks were found")
    return faults


def skep_faults():
    page = read("docs/man/skep.1")
    commands = re.findall(r"^  ([a-z]+)  ", said(SKEP, "help"), re.M)
    faults, flags = [], set(flags_in(said(SKEP, "help")))
    for command in commands:
        if f".It Ic {command}" not in page:
            faults.append(f"skep(1) has no command {command}")
        if command not in ("replay", "bench", "doctor"):
            flags |= set(flags_in(said(SKEP, "help", command)))
    faults += [f"skep(1) has no --{flag}" for flag in flags if flag not in man_flags(page)]
    faults += [f"skep(1): --{flag} is no flag" for flag in man_flags(page) if flag not in flags]
    documented = re.findall(r"^\.It Ic ([a-z]+)", page, re.M)
    faults += [f"skep(1): no such command {word}" for word in documented if word not in commands]
    if len(commands) < 20 or len(flags) < 15:
        faults.append(f"only {len(commands)} commands and {len(flags)} flags were found")
    if said(SKEP, "completion", "bash") != read("tools/skep/completion.bash"):
        faults.append("tools/skep/completion.bash is not what `skep completion bash` prints")
    for shell in ("zsh", "fish"):
        if "skep" not in said(SKEP, "completion", shell):
            faults.append(f"no completion for {shell}")
    return faults


def tool_faults():
    """What other programs say of the documents, where they are installed."""
    faults = []
    if shutil.which("mandoc"):
        for page in ("docs/man/skepd.8", "docs/man/skep.1"):
            done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning",
                                   os.path.join(ROOT, page)], capture_output=True, text=True,
                                  check=False, timeout=60)
            faults += done.stdout.splitlines()
    else:
        print("mandoc is not installed: the pages are not linted")
    done = subprocess.run(["bash", "-n", os.path.join(ROOT, "tools/skep/completion.bash")],
                          capture_output=True, text=True, check=False, timeout=60)
    return faults + done.stderr.splitlines()


def main():
    assert flags_in("  --one X\n      text --two\n  --three\n") == ["one", "three"]
    assert man_flags(".It Fl -one Ar X\n.Op Fl -two\n") == {"one", "two"}
    faults = skepd_faults() + skep_faults() + tool_faults()
    for fault in faults:
        print(fault)
    sys.exit(1 if faults else 0)


main()
