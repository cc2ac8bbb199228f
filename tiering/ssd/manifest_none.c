/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/ssd/manifest.h"

#include <errno.h>
#include <stdio.h>

#include "base/check.h"

/* A build without RocksDB: no manifest can be opened, so nothing else here is ever called. */

int manifest_open(
	const struct manifest_options *options, struct manifest **out, char *why, size_t why_bytes)
{
	*out = NULL;
	snprintf(why, why_bytes,
		"manifest %s: skep was built without RocksDB: build it with SKEP_SSD=ON, or take "
		"the ssds out of the configuration",
		options->path ? options->path : "");
	return -ENOTSUP;
}

void manifest_close(struct manifest *manifest)
{
	SKEP_CHECK(!manifest);
}

int manifest_each(struct manifest *manifest, const void *prefix, size_t prefix_bytes,
	manifest_visit *visit, void *arg)
{
	(void)manifest, (void)prefix, (void)prefix_bytes, (void)visit, (void)arg;
	return -ENOTSUP;
}

int manifest_put(struct manifest *manifest, const void *key, size_t key_bytes, const void *value,
	size_t value_bytes)
{
	(void)manifest, (void)key, (void)key_bytes, (void)value, (void)value_bytes;
	return -ENOTSUP;
}

int manifest_delete(struct manifest *manifest, const void *key, size_t key_bytes)
{
	(void)manifest, (void)key, (void)key_bytes;
	return -ENOTSUP;
}

int manifest_delete_range(struct manifest *manifest, const void *from, const void *to, size_t bytes)
{
	(void)manifest, (void)from, (void)to, (void)bytes;
	return -ENOTSUP;
}

int manifest_commit(struct manifest *manifest, bool durable, struct manifest_done *done)
{
	(void)manifest, (void)durable, (void)done;
	return -ENOTSUP;
}

void manifest_status_get(struct manifest *manifest, struct manifest_status *status)
{
	(void)manifest;
	*status = (struct manifest_status){0};
}
