/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why a block is not here: a bounded list of what left, newest first by id. A record is overwritten
 * when the ring comes round; then a miss reads "never seen", which the documents say.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/memory.h"
#include "store/store_priv.h"

int gone_create(struct gone_list *list, uint32_t size)
{
	list->ring = memory_calloc(size, sizeof(list->ring[0]));
	list->heads = memory_calloc(size, sizeof(list->heads[0]));
	if (!list->ring || !list->heads) {
		gone_destroy(list);
		return -ENOMEM;
	}
	memset(list->heads, 0xff, (size_t)size * sizeof(list->heads[0]));
	list->size = size;
	list->at = 0;
	return 0;
}

void gone_destroy(struct gone_list *list)
{
	memory_free(list->ring);
	memory_free(list->heads);
	memset(list, 0, sizeof(*list));
}

static uint32_t *gone_head(const struct gone_list *list, uint64_t id_low)
{
	return &list->heads[hash_range((uint32_t)mix64(id_low), list->size)];
}

/* Unlinks the record at @at from its chain; the chains are about one long. */
static void gone_forget(struct gone_list *list, uint32_t at)
{
	uint32_t *link = gone_head(list, list->ring[at].id_low);

	while (*link != at) {
		SKEP_CHECK(*link < list->size);
		link = &list->ring[*link].next;
	}
	*link = list->ring[at].next;
}

void gone_add(struct realm *realm, uint64_t id_low, enum skep_reason reason)
{
	struct gone_list *list = &realm->gone;
	struct gone *record = &list->ring[list->at];
	uint32_t *head;

	if (record->reason)
		gone_forget(list, list->at);
	head = gone_head(list, id_low);
	record->id_low = id_low;
	record->at_s = (uint32_t)(realm->keeper->now_ns / NS_PER_S);
	record->reason = (uint8_t)reason;
	record->next = *head;
	*head = list->at;
	list->at = list->at + 1 == list->size ? 0 : list->at + 1;
}

enum skep_reason gone_find(const struct realm *realm, uint64_t id_low, uint64_t *ago_ns)
{
	const struct gone_list *list = &realm->gone;
	uint32_t at = *gone_head(list, id_low);

	while (at != NONE32 && list->ring[at].id_low != id_low)
		at = list->ring[at].next;
	if (at == NONE32)
		return SKEP_REASON_NEVER_SEEN;
	if (ago_ns)
		*ago_ns = realm->keeper->now_ns - (uint64_t)list->ring[at].at_s * NS_PER_S;
	return (enum skep_reason)list->ring[at].reason;
}
