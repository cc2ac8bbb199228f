/* SPDX-License-Identifier: Apache-2.0 */
/*
 * "embedded:dram=2GiB[,realm=NAME]": a node inside this process, for libskep-node.so. Sessions that
 * name the same settings share one node; the last that closes ends it.
 */
#include "engine/client/embedded.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/list.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/node.h"

enum { SETTINGS_BYTES = 256, SECRET_BYTES = 32 };

struct embedded {
	struct list link;
	struct node *node;
	unsigned users;
	char settings[SETTINGS_BYTES];
};

/* The nodes of this process. A child of fork() has none of its parent's: it makes a list anew. */
struct registry {
	pid_t pid;
	pthread_mutex_t lock;
	struct list nodes;
};

static _Atomic(struct registry *) registry_now;

static struct registry *registry_get(void)
{
	/* Acquire pairs with the release of whoever made it. */
	struct registry *seen = atomic_load_explicit(&registry_now, memory_order_acquire), *fresh;

	if (seen && seen->pid == getpid())
		return seen;
	fresh = memory_zalloc(sizeof(*fresh));
	if (!fresh)
		return NULL;
	fresh->pid = getpid();
	pthread_mutex_init(&fresh->lock, NULL);
	list_init(&fresh->nodes);
	if (atomic_compare_exchange_strong_explicit(
		    &registry_now, &seen, fresh, memory_order_acq_rel, memory_order_acquire))
		return fresh;
	pthread_mutex_destroy(&fresh->lock);
	memory_free(fresh);
	return seen;
}

/* ---------------------------------------------------------------------------------- settings */

/* "2GiB", "512MiB", "4096". Return: 0 or -EINVAL. */
static int size_parse(const char *text, uint64_t *bytes)
{
	static const char *const units[] = {"", "KiB", "MiB", "GiB", "TiB"};
	char *end;
	unsigned long long number;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno || end == text || *text == '-')
		return -EINVAL;
	for (unsigned i = 0; i < ARRAY_COUNT(units); i++) {
		if (strcmp(end, units[i]))
			continue;
		if (number > UINT64_MAX >> (10 * i))
			return -EINVAL;
		*bytes = number << (10 * i);
		return 0;
	}
	return -EINVAL;
}

static int setting_take(const char *word, struct realm_config *realm)
{
	if (!strncmp(word, "dram=", 5))
		return size_parse(word + 5, &realm->dram_bytes);
	if (!strncmp(word, "realm=", 6) && word[6] && strlen(word + 6) < sizeof(realm->name)) {
		memcpy(realm->name, word + 6, strlen(word + 6) + 1);
		return 0;
	}
	return -EINVAL;
}

static int settings_take(const char *settings, struct realm_config *realm)
{
	char copy[SETTINGS_BYTES], *rest = copy, *word;

	if (strlen(settings) >= sizeof(copy))
		return -EINVAL;
	memcpy(copy, settings, strlen(settings) + 1);
	memcpy(realm->name, "default", sizeof("default"));
	while ((word = strsep(&rest, ",")))
		if (setting_take(word, realm))
			return -EINVAL;
	return realm->dram_bytes ? 0 : -EINVAL;
}

/* -------------------------------------------------------------------------------------- node */

/* Ids are keyed by a secret of this process: nobody else shares its blocks. */
static int secret_make(struct realm_config *realm)
{
	if (getrandom(realm->secret, SECRET_BYTES, 0) != SECRET_BYTES)
		return -EIO;
	realm->secret_bytes = SECRET_BYTES;
	return 0;
}

static int node_make(const char *settings, struct node **out)
{
	struct realm_config *realm = memory_zalloc(sizeof(*realm));
	struct node_config config = {.realms = realm, .realm_count = 1};
	char why[256] = "";
	int status;

	if (!realm)
		return -ENOMEM;
	status = settings_take(settings, realm);
	if (!status)
		status = secret_make(realm);
	if (!status)
		status = node_create(&config, out, why, sizeof(why));
	if (!status) {
		status = node_start(*out);
		if (status < 0)
			node_destroy(*out);
	}
	if (status < 0 && why[0])
		log_warn("embedded", "%s", why);
	explicit_bzero(realm, sizeof(*realm));
	memory_free(realm);
	return status;
}

static int embedded_make(struct registry *registry, const char *settings, struct embedded **out)
{
	struct embedded *made = memory_zalloc(sizeof(*made));
	int status;

	if (!made)
		return -ENOMEM;
	status = node_make(settings, &made->node);
	if (status < 0) {
		memory_free(made);
		return status;
	}
	made->users = 1;
	memcpy(made->settings, settings, strlen(settings) + 1);
	list_append(&registry->nodes, &made->link);
	*out = made;
	return 0;
}

int embedded_open(const char *settings, struct embedded **out)
{
	struct registry *registry = registry_get();
	int status = -ENOENT;

	if (!registry)
		return -ENOMEM;
	pthread_mutex_lock(&registry->lock);
	list_each (at, &registry->nodes) {
		struct embedded *one = list_item(at, struct embedded, link);

		if (status && !strcmp(one->settings, settings)) {
			one->users++;
			*out = one;
			status = 0;
		}
	}
	if (status)
		status = embedded_make(registry, settings, out);
	pthread_mutex_unlock(&registry->lock);
	return status;
}

int embedded_connect(struct embedded *node)
{
	return node_connect(node->node);
}

void embedded_close(struct embedded *node)
{
	struct registry *registry = node ? registry_get() : NULL;
	bool last;

	if (!registry)
		return;
	pthread_mutex_lock(&registry->lock);
	last = --node->users == 0;
	if (last) {
		list_remove(&node->link);
		node_destroy(node->node);
	}
	pthread_mutex_unlock(&registry->lock);
	if (last)
		memory_free(node);
}
