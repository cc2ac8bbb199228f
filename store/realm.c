/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A realm: one tenant's index, pool, spaces and sessions. Nothing is shared between two realms but
 * the keeper's time.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/memory.h"
#include "store/hbm_priv.h"
#include "store/store_priv.h"

enum { SESSIONS_DEFAULT = 256, GONE_PER_BLOCK = 4 };

static void config_defaults(struct realm_config *config)
{
	if (!config->sessions_max)
		config->sessions_max = SESSIONS_DEFAULT;
	if (!config->age_limit_ns)
		config->age_limit_ns = 30 * NS_PER_S;
}

/* Records of writers and waiters, each kind a free list in an array of its own. */
static int put_state_create(struct realm *realm)
{
	uint32_t max = MIN_OF(realm->index.head->slot_count, RESERVATIONS_MAX);

	realm->reservations = memory_calloc(max, sizeof(*realm->reservations));
	realm->reservation_heads = memory_calloc(max, sizeof(*realm->reservation_heads));
	realm->pendings = memory_calloc(max, sizeof(*realm->pendings));
	realm->waits = memory_calloc(WAITS_MAX, sizeof(*realm->waits));
	if (!realm->reservations || !realm->reservation_heads || !realm->pendings || !realm->waits)
		return -ENOMEM;
	realm->reservation_max = max;
	for (uint32_t i = 0; i < max; i++) {
		realm->reservation_heads[i] = NONE32;
		realm->reservations[i].next_free = i + 1 == max ? NONE32 : i + 1;
		realm->pendings[i].next_free = i + 1 == max ? NONE32 : i + 1;
		realm->pendings[i].slot = NONE32;
	}
	for (uint32_t i = 0; i < WAITS_MAX; i++)
		realm->waits[i].next_free = i + 1 == WAITS_MAX ? NONE32 : i + 1;
	realm->wait_next_ns = CLOCK_NEVER;
	return 0;
}

int realm_create(struct keeper *keeper, const struct realm_config *config,
	const struct realm_memory *memory, struct realm **out)
{
	struct dram_options dram = {.name = config->name,
		.bytes = config->dram_bytes,
		.use_max = config->dram_use_max,
		.chunk_bytes = memory->chunk_bytes,
		.chunk_fds = memory->chunk_fds,
		.ready_bytes = memory->ready_bytes};
	struct realm *realm;
	int status;

	if (keeper->realm_count == NODE_REALMS_MAX)
		return -ENOSPC;
	realm = memory_zalloc(sizeof(*realm));
	if (!realm)
		return -ENOMEM;
	realm->keeper = keeper;
	realm->config = *config;
	config_defaults(&realm->config);
	snprintf(realm->name, sizeof(realm->name), "%s", config->name);
	realm->index.fd = -1;
	list_init(&realm->sessions);
	list_init(&realm->reservation_age);
	list_init(&realm->pending_idle);
	list_init(&realm->blocked);
	realm->removed.first = realm->removed.last = NONE32;
	realm->guarded_slot = NONE32;
	for (unsigned i = 0; i < LRU_LISTS_MAX; i++)
		realm->lru[i] = (struct lru_list){NONE32, NONE32, 0};
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++) {
		realm->spaces[i].first_root = NONE32;
		realm->spaces[i].ssd_at = SSD_NONE;
	}
	status = loads_create(realm);
	if (status < 0)
		goto fail;
	status = ssd_realm_create(realm);
	if (status < 0)
		goto fail;
	status = index_create(
		&realm->index, &realm->config, realm->name, keeper->incarnation, keeper->id_bits);
	if (status < 0)
		goto fail;
	status = hbm_create(realm);
	if (status < 0)
		goto fail;
	status = dram_create(&dram, &realm->dram);
	if (status < 0)
		goto fail;
	status = gone_create(&realm->gone, GONE_PER_BLOCK * realm->index.head->slot_count);
	if (status < 0)
		goto fail;
	status = put_state_create(realm);
	if (status < 0)
		goto fail;
	realm->slot_count_by_state[ENTRY_FREE] = realm->index.head->slot_count;
	realm->index.head->pool_bytes = dram_bytes(realm->dram);
	realm->index.head->chunk_bytes = dram_chunk_bytes(realm->dram);
	realm->index.head->chunk_count = dram_chunk_count(realm->dram);
	keeper->realms[keeper->realm_count++] = realm;
	*out = realm;
	return 0;

fail:
	realm_destroy(realm);
	return status;
}

void realm_destroy(struct realm *realm)
{
	if (!realm)
		return;
	SKEP_CHECK(list_empty(&realm->sessions));
	index_destroy(&realm->index);
	dram_destroy(realm->dram);
	gone_destroy(&realm->gone);
	ssd_realm_destroy(realm);
	loads_destroy(realm);
	hbm_destroy(realm);
	memory_free(realm->reservations);
	memory_free(realm->reservation_heads);
	memory_free(realm->pendings);
	memory_free(realm->waits);
	memory_free(realm);
}

void realm_ready(struct realm *realm, uint64_t bytes)
{
	dram_ready(realm->dram, bytes);
	atomic_store_explicit(&realm->index.head->pool_ready_bytes, bytes, memory_order_release);
	realm->room_made = true;
}
