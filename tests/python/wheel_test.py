# SPDX-License-Identifier: Apache-2.0
"""The wheel, where there is nothing: a bare environment without compiler, numpy or this tree.

    wheel_test.py [BUILD]    the wheel that $SKEP_WHEEL names, or one of the libraries of a build

$SKEPD names the daemon it is tried against. A wheel of the manylinux kind needs no symbol that is
newer than its name says.
"""
import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(ROOT, "engine", "python"))
import wheel as packer  # noqa: E402

PROGRAM = """
import errno, os, sys
import skep
from skep import tensors
session = skep.Session(sys.argv[1], timeout=10)
space = session.space("wheel", [skep.Part(8192, ranges=2)], 16)
chain = space.chain(range(64))
assert session.put(chain, os.urandom(4 * 8192)).count == 4
with session.match(chain) as run:
    assert run.copy_into(space, bytearray(4 * 8192)) == [8192] * 4
with tensors.Device(session):
    pass
assert skep.status_text(-errno.ENOMEM) == "Cannot allocate memory", skep.status_text(-errno.ENOMEM)
assert skep.status_text(-3999) == "unknown error"
session.close()
assert not {"numpy", "torch", "setuptools"} & set(sys.modules)
print(skep.__version__, os.path.dirname(os.path.abspath(skep._library.lib._name)))
"""


def require(condition, what):
    if not condition:
        sys.exit(f"wheel_test.py: {what}")


def the_wheel(arguments, folder):
    if arguments:
        return packer.pack(arguments[0], folder)
    if "SKEP_WHEEL" not in os.environ:
        reason = os.environ.get("SKEP_WHEEL_REASON", "SKEP_WHEEL is not set")
        print(f"skip: no wheel to try: {reason} (./dev wheel makes one)")
        sys.exit(77)
    return os.environ["SKEP_WHEEL"]


def symbols_fit(path):
    """No library of the wheel needs a glibc that is newer than the name of the wheel says."""
    said = re.search(r"manylinux_(\d+)_(\d+)_x86_64", path)
    seen = 0
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            if ".so" not in name:
                continue
            data = file.read(name)
            seen += len(packer.versions_needed(data))
            require(packer.newer_than(data, (2, 1)), f"{name}: the check finds nothing")
            if said:
                newer = packer.newer_than(data, (int(said[1]), int(said[2])))
                require(not newer, f"{name} needs {newer}")
    require(seen > 5, "no symbol version was found: is this a wheel?")
    return said


def record_fits(path):
    """The list of the wheel names each of its files, and no other."""
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        [own] = [name for name in names if name.endswith("/RECORD")]
        listed = [line.split(",")[0] for line in file.read(own).decode().splitlines()]
    require(listed == names, "RECORD does not list the files")
    require("skep/py.typed" in names and "skep/libskep.so.0" in names, f"it holds {names}")


def bare_environment(folder):
    """A virtual environment, and variables with which nothing else is found."""
    try:
        venv.create(folder, with_pip=True)
    except subprocess.CalledProcessError:
        print("skip: this Python has no ensurepip (Debian: python3-venv)")
        sys.exit(77)
    return {"PATH": os.path.join(folder, "bin"), "HOME": folder, "PIP_CONFIG_FILE": os.devnull}


def install(path, folder, environment):
    python = os.path.join(folder, "bin", "python3")
    # The compressed platform tag is the wheel's promise; pip compares it with this machine.
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-index", "--no-deps",
                    "--disable-pip-version-check", path], check=True, env=environment)
    return python


def try_it(python, environment, folder):
    """Imports it and goes once through a private daemon."""
    socket = os.path.join(folder, "socket")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    with open(os.path.join(folder, "log"), "ab") as log, subprocess.Popen(
            [os.environ["SKEPD"], "--socket", socket, "--state-dir", folder, "--admin", "off",
             "--dram", "16MiB", "--private", "--parent-death", "--ready-fd", str(writer)],
            pass_fds=[writer], stderr=log) as daemon:
        os.close(writer)
        try:
            require(os.read(reader, 1) == b"\0", "skepd did not start")
            return subprocess.run([python, "-B", "-c", PROGRAM, socket], env=environment,
                                  check=True, capture_output=True, text=True,
                                  cwd=folder).stdout.split()
        except subprocess.CalledProcessError as error:
            sys.exit(f"wheel_test.py: {error.stderr}")
        finally:
            os.close(reader)
            daemon.kill()


def main():
    with tempfile.TemporaryDirectory(prefix="skep-wheel-") as folder:
        path = the_wheel(sys.argv[1:], folder)
        said = symbols_fit(path)
        record_fits(path)
        environment = bare_environment(os.path.join(folder, "venv"))
        python = install(path, os.path.join(folder, "venv"), environment)
        version, place = try_it(python, environment, folder)
        require(f"skep-{version}-" in path, f"the library is of version {version}")
        require(place.startswith(folder), f"the library of {place} was used, not the wheel's")
    print(f"{os.path.basename(path)}: works in a bare environment; "
          f"{'its symbols are of glibc ' + said[1] + '.' + said[2] if said else 'of this glibc'}")


main()
