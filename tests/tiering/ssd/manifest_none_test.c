/* SPDX-License-Identifier: Apache-2.0 */
/* A build without RocksDB says so when a manifest is to be opened. */
#include "tiering/ssd/manifest_none.c"

#include "tests/base/unit.h"

int main(void)
{
	struct manifest_options options = {.path = "/nowhere"};
	struct manifest *manifest = NULL;
	char why[256] = "";

	REQUIRE_EQ(manifest_open(&options, &manifest, why, sizeof(why)), -ENOTSUP);
	REQUIRE(!manifest && strstr(why, "without RocksDB") && strstr(why, "/nowhere"));
	manifest_close(NULL);
	return 0;
}
