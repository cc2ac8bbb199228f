/* SPDX-License-Identifier: Apache-2.0 */
/* Token lists as `skep explain` takes them: read whole, or refused with line and cause. */
#include <string.h>

#include "base/check.h"
#include "tests/fuzz/fuzz.h"
#include "tools/skep/tokens.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct tokens tokens = {0};
	char why[TOKENS_WHY_MAX];
	FILE *file;
	int status;

	if (bytes == 0)
		return 0; /* fmemopen refuses it */
	file = fmemopen((void *)(uintptr_t)data, bytes, "r");
	SKEP_CHECK(file);
	status = tokens_read(file, &tokens, why);
	fclose(file);
	SKEP_CHECK(status <= 0 && tokens.count <= bytes);
	SKEP_CHECK(status == 0 || (why[0] == ':' && !strchr(why, '\n')));
	tokens_drop(&tokens);
	return 0;
}
