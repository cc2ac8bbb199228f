#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# run.sh MODULES FILE [ARGUMENT…]: runs a Python file in the environment that $SKEP_DOORS_PYTHON
# names, where that holds the modules (one word, commas between); else skips. One thread: sums of
# several may differ in their last bits from run to run.
modules=$1
shift
if [ -z "${SKEP_DOORS_PYTHON:-}" ]; then
	echo "skipped: \$SKEP_DOORS_PYTHON names no Python that holds $modules"
	exit 77
fi
missing=$("$SKEP_DOORS_PYTHON" -c 'import sys
from importlib.util import find_spec
print(" ".join(name for name in sys.argv[1].split(",") if not find_spec(name)))' \
	"$modules") || exit 1
if [ -n "$missing" ]; then
	echo "skipped: the environment of $SKEP_DOORS_PYTHON has no $missing"
	exit 77
fi
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$SKEP_DOORS_PYTHON" -B "$@"
