/* SPDX-License-Identifier: Apache-2.0 */
#include "store/chains.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/memory.h"

enum { AHEAD = 16 }; /* heads lie all over memory: they are asked for so much before */

int chains_create(struct chains *chains, const struct ssd_found *found, int64_t count)
{
	size_t room = (size_t)count;

	*chains = (struct chains){
		.found = found, .head_count = (uint32_t)MIN_OF(2 * (uint64_t)count, UINT32_MAX)};
	chains->records = memory_calloc(room, sizeof(*chains->records));
	chains->order = memory_calloc(room, sizeof(*chains->order));
	chains->heads = memory_calloc(chains->head_count, sizeof(*chains->heads));
	if (!chains->records || !chains->order || !chains->heads) {
		chains_destroy(chains);
		return -ENOMEM;
	}
	memory_large_pages(chains->records, room * sizeof(*chains->records));
	memory_large_pages(chains->order, room * sizeof(*chains->order));
	memory_large_pages(chains->heads, chains->head_count * sizeof(*chains->heads));
	memset(chains->heads, 0xff, chains->head_count * sizeof(*chains->heads));
	return 0;
}

void chains_destroy(struct chains *chains)
{
	memory_free(chains->records);
	memory_free(chains->order);
	memory_free(chains->heads);
	*chains = (struct chains){0};
}

/* Short: of a million records a hundred pairs have one key, and then their labels are compared. */
static uint32_t key_of(uint64_t incarnation, uint64_t write)
{
	return (uint32_t)mix64(incarnation ^ mix64(write));
}

static uint32_t *head_of(struct chains *chains, uint32_t key)
{
	return &chains->heads[hash_range(key, chains->head_count)];
}

void chains_add(struct chains *chains, uint32_t number, uint8_t space)
{
	const struct label_head *head = chains->found[number].label;
	const struct label_part *parts = (const void *)(head + 1);

	chains->records[chains->count++] =
		(struct chains_record){.key = key_of(head->incarnation, parts[0].write),
			.parent_key = key_of(head->parent_incarnation, head->parent_write),
			.found = number,
			.parent = head->parent_write ? CHAINS_LOST : CHAINS_ROOT,
			.next = NONE32,
			.slot = NONE32,
			.space = space};
}

static const struct label_head *label_of(const struct chains *chains, uint32_t record)
{
	return chains->found[chains->records[record].found].label;
}

/* The record of this write generation, whose key is @key. Labels are looked at where keys agree. */
static uint32_t record_find(
	struct chains *chains, uint32_t key, uint64_t incarnation, uint64_t write)
{
	uint32_t at = *head_of(chains, key);

	for (; at != NONE32; at = chains->records[at].next) {
		const struct label_head *head;

		if (chains->records[at].key != key)
			continue;
		head = label_of(chains, at);
		if (head->incarnation == incarnation &&
			((const struct label_part *)(const void *)(head + 1))->write == write)
			return at;
	}
	return NONE32;
}

/* Makes all records known. */
static void heads_fill(struct chains *chains)
{
	for (uint32_t i = 0; i < chains->count; i++) {
		struct chains_record *record = &chains->records[i];
		uint32_t *head = head_of(chains, record->key), same = NONE32;

		if (i + AHEAD < chains->count)
			__builtin_prefetch(head_of(chains, record[AHEAD].key), 1);
		if (*head != NONE32) {
			const struct label_head *label = label_of(chains, i);
			const struct label_part *parts = (const void *)(label + 1);

			same = record_find(chains, record->key, label->incarnation, parts[0].write);
		}
		if (same == NONE32) {
			record->next = *head;
			*head = i;
			continue;
		}
		/* They come in the order of the log: this place is the later one. */
		chains->records[same].found = record->found;
		record->state = CHAINS_OUT;
		chains->moved++;
	}
}

static void parents_find(struct chains *chains)
{
	for (uint32_t i = 0; i < chains->count; i++) {
		struct chains_record *record = &chains->records[i];
		const struct label_head *label;
		uint32_t at;

		if (i + AHEAD < chains->count)
			__builtin_prefetch(head_of(chains, record[AHEAD].parent_key));
		if (i + AHEAD / 2 < chains->count) {
			at = *head_of(chains, record[AHEAD / 2].parent_key);
			if (at != NONE32)
				__builtin_prefetch(&chains->records[at]);
		}
		if (record->parent == CHAINS_ROOT || record->state == CHAINS_OUT)
			continue;
		label = label_of(chains, i);
		at = record_find(
			chains, record->parent_key, label->parent_incarnation, label->parent_write);
		record->parent = at == NONE32 ? CHAINS_LOST : at;
	}
}

/* Puts a record and whatever is above it into the order, from the top. */
static void chain_place(struct chains *chains, uint32_t at)
{
	uint32_t begin = chains->order_count, end;

	/* Up to one that is placed (or a circle is closed), a first block, or a gap. */
	while (at < chains->count && !chains->records[at].placed) {
		chains->records[at].placed = true;
		chains->order[chains->order_count++] = at;
		at = chains->records[at].parent;
	}
	for (end = chains->order_count; begin + 1 < end; begin++) {
		uint32_t other = chains->order[--end];

		chains->order[end] = chains->order[begin];
		chains->order[begin] = other;
	}
}

void chains_link(struct chains *chains)
{
	heads_fill(chains);
	parents_find(chains);
	/* The newest first: of a block that left and was put again both lives may be found, and
	 * all that is below the earlier one left with it. */
	for (uint32_t i = chains->count; i-- > 0;)
		if (chains->records[i].state != CHAINS_OUT)
			chain_place(chains, i);
}

/* -------------------------------------------------------------------------------- spaces */

unsigned chains_spaces(const struct ssd_found *found, int64_t count, const struct ssd_log *log,
	struct chains_space *spaces)
{
	unsigned have = 0, at;

	for (int64_t i = 0; i < count; i++) {
		struct label_space label;

		if (found[i].log != log || found[i].label_bytes != sizeof(label) ||
			label_space_read(found[i].label, found[i].label_bytes, &label) < 0)
			continue;
		for (at = 0; at < have; at++)
			if (!strncmp(spaces[at].label.request.name, label.request.name,
				    sizeof(label.request.name)))
				break;
		if (at == INDEX_SPACES_MAX)
			continue;
		if (at == have)
			have++;
		else if (label.space_version < spaces[at].label.space_version)
			continue;
		spaces[at] = (struct chains_space){label, (uint32_t)i};
	}
	return have;
}
