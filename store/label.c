/* SPDX-License-Identifier: Apache-2.0 */
#include "store/label.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"

#define LOAD(field) atomic_load_explicit(&(field), RELAXED)

static uint32_t label_bytes(const struct label_head *head)
{
	return (uint32_t)(sizeof(*head) + head->parts * sizeof(struct label_part) +
			  align_up((uint64_t)head->token_count * 4, 8) +
			  align_up((uint64_t)head->key_bytes + head->extra_bytes, 8) +
			  (uint64_t)head->range_sums * 8);
}

static void label_parent(struct realm *realm, uint32_t slot, struct label_head *head)
{
	struct index *index = &realm->index;
	uint32_t parent = index_parent(realm, slot);

	if (parent == NONE32)
		return;
	head->parent_low = LOAD(index->entries[parent].id_low);
	head->parent_high = LOAD(index->entries[parent].id_high);
	head->parent_incarnation = realm->ssd.origins[LOAD(index->entries[parent].origin)];
	head->parent_write = LOAD(index_part(index, parent, 0)->write);
}

int label_make(struct realm *realm, uint32_t slot, void *out)
{
	struct index *index = &realm->index;
	const struct index_entry *entry = &index->entries[slot];
	const struct space *space = &realm->spaces[LOAD(entry->space)];
	struct record_shape shape = {.parts = LOAD(entry->parts)};
	const struct record_head *record =
		(const void *)(index->heap + (uint64_t)LOAD(entry->record) * INDEX_RECORD_GRANULE +
			       record_head_at(&shape));
	uint64_t word = LOAD(record->word);
	struct label_head head = {.kind = LABEL_BLOCK,
		.version = LABEL_VERSION,
		.space_key = space->key,
		.id_low = LOAD(entry->id_low),
		.id_high = LOAD(entry->id_high),
		.incarnation = realm->ssd.origins[LOAD(entry->origin)],
		.token_count = (uint32_t)word,
		.key_bytes = (uint16_t)(word >> 32),
		.extra_bytes = (uint16_t)(word >> 48),
		.range_sums = space->ranges,
		.parts = LOAD(entry->parts)};
	uint8_t *at = out;
	uint64_t rest;

	label_parent(realm, slot, &head);
	head.bytes = label_bytes(&head);
	if (head.bytes > SSD_LABEL_MAX)
		return -E2BIG;
	memcpy(at, &head, sizeof(head));
	at += sizeof(head);
	for (uint32_t i = 0; i < head.parts; i++) {
		const struct index_part *part = index_part(index, slot, i);
		struct label_part mine = {.bytes = LOAD(part->bytes),
			.write = LOAD(part->write),
			.root_low = LOAD(part->root_low),
			.root_high = LOAD(part->root_high)};

		memcpy(at, &mine, sizeof(mine));
		at += sizeof(mine);
	}
	/* Tokens, keys and sums lie in the record as they do here. The keeper alone writes them,
	 * and not while the name stands. */
	rest = head.bytes - (uint64_t)(at - (uint8_t *)out);
	memcpy(at, (const uint8_t *)(record + 1), rest);
	return (int)head.bytes;
}

int label_block_read(const void *label, uint32_t bytes, struct label_block *out)
{
	const uint8_t *at = label;
	const struct label_head *head = &out->head;
	uint64_t blob;

	if (bytes < sizeof(*head))
		return -EBADMSG;
	memcpy(&out->head, label, sizeof(*head));
	if (head->kind != LABEL_BLOCK || head->version != LABEL_VERSION || head->bytes != bytes ||
		!head->parts || head->parts > INDEX_PARTS_MAX ||
		head->token_count > INDEX_BLOCK_TOKENS_MAX || head->range_sums > SSD_LABEL_MAX ||
		head->key_bytes > INDEX_KEY_BYTES_MAX ||
		head->extra_bytes > INDEX_EXTRA_BYTES_MAX || label_bytes(head) != bytes)
		return -EBADMSG;
	at += sizeof(*head);
	out->parts = (const void *)at;
	at += head->parts * sizeof(struct label_part);
	out->proof =
		(struct id_input){.tokens = (const void *)at, .token_count = head->token_count};
	at += align_up((uint64_t)head->token_count * 4, 8);
	out->proof.key = head->key_bytes ? at : NULL;
	out->proof.key_bytes = head->key_bytes;
	out->proof.extra = head->extra_bytes ? at + head->key_bytes : NULL;
	out->proof.extra_bytes = head->extra_bytes;
	blob = (uint64_t)head->key_bytes + head->extra_bytes;
	out->sums = (const void *)(at + align_up(blob, 8));
	return 0;
}

int label_space_read(const void *label, uint32_t bytes, struct label_space *out)
{
	if (bytes != sizeof(*out))
		return -EBADMSG;
	memcpy(out, label, sizeof(*out));
	if (out->kind != LABEL_SPACE || out->version != LABEL_VERSION || out->bytes != bytes)
		return -EBADMSG;
	return 0;
}
