/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "tools/skep/commands.h"

/*
 * `skep doctor`: the look from an engine's side is the Python package's, since that is what an
 * engine has; this calls it. $SKEP_PYTHON names the Python of the engine where that is not the
 * first on the path.
 */
int doctor_main(int argc, char **argv)
{
	const char *python = getenv("SKEP_PYTHON");
	char **words = memory_calloc((size_t)argc + 4, sizeof(*words));
	int count = 0;

	if (!words) {
		fputs("skep: out of memory\n", stderr);
		return EXIT_DAEMON;
	}
	if (!python || !*python)
		python = "python3";
	words[count++] = (char *)(uintptr_t)python; /* execvp() does not write it */
	words[count++] = "-m";
	words[count++] = "skep";
	words[count++] = "doctor";
	for (int i = 1; i < argc; i++)
		words[count++] = argv[i];
	execvp(python, words);
	fprintf(stderr,
		"skep: doctor: %s: %s\n"
		"It runs where the engine does, with the Python package of skep installed there; "
		"$SKEP_PYTHON names its Python.\n",
		python, strerror(errno));
	memory_free(words);
	return EXIT_USAGE;
}
