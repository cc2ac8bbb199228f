# SPDX-License-Identifier: Apache-2.0
"""Imports of the engines' wheels, without which a test is skipped."""
import importlib
import sys


def modules(*names):
    """The modules of these names; the test is skipped where one cannot be imported."""
    found = []
    for name in names:
        try:
            found.append(importlib.import_module(name))
        except Exception as error:  # a wheel without its own needs raises anything
            print(f"skip: {name} cannot be imported here: {error}")
            sys.exit(77)
    return found
