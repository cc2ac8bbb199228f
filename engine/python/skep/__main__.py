# SPDX-License-Identifier: Apache-2.0
"""python3 -m skep doctor: see skep.doctor."""
import sys

from . import doctor


def main() -> int:
    if sys.argv[1:2] != ["doctor"]:
        print("usage: python3 -m skep doctor [--help]", file=sys.stderr)
        return 2
    return doctor.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
