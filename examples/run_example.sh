#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# run_example.sh SKEPD EXAMPLE: runs an example beside a private daemon with a small pool. Both must
# end well: the daemon is stopped with SIGTERM, and its exit status counts too.
set -eu

folder=$(mktemp -d)
daemon=
stop() {
	[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
	rm -rf "$folder"
}
trap stop EXIT

mkfifo "$folder/ready"
"$1" --socket "$folder/skepd.sock" --volatile-secret --private --admin off --dram 64MiB \
	--parent-death --ready-fd 3 3>"$folder/ready" &
daemon=$!
# One byte comes when the daemon serves; end of file without it, when it could not start.
if [ "$(head -c 1 "$folder/ready" | wc -c)" -ne 1 ]; then
	wait "$daemon" || true
	daemon=
	echo "run_example: the daemon did not start; its words stand above" >&2
	exit 1
fi

SKEP_SOCKET=$folder/skepd.sock "$2"
kill -TERM "$daemon"
wait "$daemon"
daemon=
