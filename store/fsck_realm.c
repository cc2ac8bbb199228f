/* SPDX-License-Identifier: Apache-2.0 */
/* One realm's log in the eyes of fsck: which of its records are blocks, and whether their bytes are
 * right. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/memory.h"
#include "store/fsck_priv.h"
#include "tiering/dram/sum.h"

enum { RANGES_MAX = 1024 };

#define WINDOW_BYTES (4ull << 20)

void fsck_realm_free(struct fsck_realm *realm)
{
	chains_destroy(&realm->chains);
	memory_free(realm->found);
	memory_free(realm->spaces);
	memory_free(realm->keys);
}

/* ------------------------------------------------------------------------------------- labels */

static uint32_t ranges_of(const struct wire_space_open *request, uint32_t part)
{
	return request->parts[part].ranges ? request->parts[part].ranges : 1;
}

static bool space_sound(const struct wire_space_open *request)
{
	if (!request->part_count || request->part_count > INDEX_PARTS_MAX)
		return false;
	for (uint32_t i = 0; i < request->part_count; i++)
		if (ranges_of(request, i) > RANGES_MAX)
			return false;
	return true;
}

/* Do the block's parts agree with its space, and with the record they lie in? */
static bool parts_sound(const struct wire_space_open *request, const struct label_block *label,
	const struct ssd_found *record)
{
	uint64_t units = 0, sums = 0;

	if (label->head.parts != request->part_count)
		return false;
	for (uint32_t i = 0; i < label->head.parts; i++) {
		const struct label_part *part = &label->parts[i];

		if (!part->write || !part->bytes || part->bytes > request->parts[i].bytes ||
			part->bytes % ranges_of(request, i))
			return false;
		units += divide_up(part->bytes, SSD_UNIT_BYTES);
		sums += ranges_of(request, i);
	}
	return units == record->units && sums == label->head.range_sums;
}

/* The place of the block's space among the realm's, or -ENOENT. */
static int space_of(const struct fsck_realm *realm, uint64_t key)
{
	for (unsigned i = 0; i < realm->space_count; i++)
		if (realm->spaces[i].label.space_key == key)
			return (int)i;
	return -ENOENT;
}

static bool key_known(const struct fsck_realm *realm, uint64_t key)
{
	for (size_t i = 0; i < realm->key_count; i++)
		if (realm->keys[i] == key)
			return true;
	return false;
}

static void block_take(struct fsck *fsck, struct fsck_realm *realm, uint32_t number)
{
	const struct ssd_found *record = &realm->found[number];
	struct label_block label;
	int space;

	if (label_block_read(record->label, record->label_bytes, &label) < 0) {
		fsck_say(fsck, FSCK_label_damaged, record);
		return;
	}
	space = space_of(realm, label.head.space_key);
	if (space < 0 && key_known(realm, label.head.space_key))
		fsck->report->superseded++;
	else if (space < 0)
		fsck_say(fsck, FSCK_space_missing, record);
	else if (!space_sound(&realm->spaces[space].label.request) ||
		 !parts_sound(&realm->spaces[space].label.request, &label, record))
		fsck_say(fsck, FSCK_label_damaged, record);
	else
		chains_add(&realm->chains, number, (uint8_t)space);
}

static void record_take(struct fsck *fsck, struct fsck_realm *realm, uint32_t number)
{
	const struct ssd_found *record = &realm->found[number];
	struct label_space space;
	struct {
		uint16_t kind, version;
	} label;

	if (record->label_bytes < sizeof(label)) {
		fsck_say(fsck, FSCK_label_damaged, record);
		return;
	}
	memcpy(&label, record->label, sizeof(label));
	if ((label.kind != LABEL_BLOCK && label.kind != LABEL_SPACE) ||
		label.version != LABEL_VERSION)
		fsck_say(fsck, FSCK_label_unknown, record);
	else if (label.kind == LABEL_BLOCK)
		block_take(fsck, realm, number);
	else if (label_space_read(record->label, record->label_bytes, &space) < 0)
		fsck_say(fsck, FSCK_label_damaged, record);
	else
		fsck->report->superseded++; /* the newest ones are taken off again */
}

/* ------------------------------------------------------------------------------------- chains */

static const struct label_head *head_of(const struct chains *chains, uint32_t at)
{
	return chains->found[chains->records[at].found].label;
}

/* Is there a block of this identity already? If not, this is it. Heads and their chains are free
 * for that once all parents were found. */
static bool identity_taken(struct chains *chains, uint32_t at)
{
	const struct label_head *mine = head_of(chains, at), *other;
	struct chains_record *record = &chains->records[at];
	uint32_t *head = &chains->heads[hash_range((uint32_t)mine->id_low, chains->head_count)];

	for (uint32_t i = *head; i != NONE32; i = chains->records[i].next) {
		other = head_of(chains, i);
		if (other->id_low == mine->id_low && other->id_high == mine->id_high &&
			chains->records[i].parent == record->parent &&
			chains->records[i].space == record->space)
			return true;
	}
	record->next = *head;
	*head = at;
	return false;
}

static void kept(struct fsck *fsck, const struct ssd_found *record)
{
	fsck->segment_live[record->at / fsck->survey.segment_units] = true;
}

/* As blocks_make() of recover.c, without an index. slot: what became of a record that is out. */
enum { OUT_SUPERSEDED, OUT_LOST };

static void block_judge(struct fsck *fsck, struct fsck_realm *realm, uint32_t at)
{
	struct chains *chains = &realm->chains;
	struct chains_record *record = &chains->records[at];
	const struct ssd_found *found = &realm->found[record->found];
	const struct label_head *label = found->label, *above = NULL;

	record->state = CHAINS_OUT;
	record->slot = OUT_LOST;
	if (record->parent < chains->count) {
		const struct chains_record *parent = &chains->records[record->parent];

		if (parent->state != CHAINS_IN && parent->slot == OUT_SUPERSEDED) {
			record->slot = OUT_SUPERSEDED;
			fsck->report->superseded++;
			return;
		}
		above = parent->state == CHAINS_IN ? head_of(chains, record->parent) : NULL;
	}
	if (!above && record->parent != CHAINS_ROOT) {
		fsck_say(fsck, FSCK_parent_missing, found);
	} else if (label->parent_low != (above ? above->id_low : 0) ||
		   label->parent_high != (above ? above->id_high : 0)) {
		fsck_say(fsck, FSCK_label_damaged, found);
	} else if (identity_taken(chains, at)) {
		record->slot = OUT_SUPERSEDED;
		fsck->report->superseded++;
	} else {
		record->state = CHAINS_IN;
		realm->log->blocks++;
		realm->log->bytes += (uint64_t)found->units * SSD_UNIT_BYTES;
		kept(fsck, found);
	}
}

int fsck_realm_judge(struct fsck *fsck, struct fsck_realm *realm)
{
	struct chains *chains = &realm->chains;
	int status;

	realm->spaces = memory_calloc(INDEX_SPACES_MAX, sizeof(*realm->spaces));
	status = realm->spaces ? chains_create(chains, realm->found, realm->count) : -ENOMEM;
	if (status < 0)
		return status;
	realm->space_count = chains_spaces(realm->found, realm->count, NULL, realm->spaces);
	for (int64_t i = 0; i < realm->count; i++)
		record_take(fsck, realm, (uint32_t)i);
	for (unsigned i = 0; i < realm->space_count; i++)
		kept(fsck, &realm->found[realm->spaces[i].found]);
	realm->log->spaces = realm->space_count;
	fsck->report->superseded -= realm->space_count;
	chains_link(chains);
	fsck->report->superseded += chains->moved;
	memset(chains->heads, 0xff, chains->head_count * sizeof(*chains->heads));
	for (uint32_t i = 0; i < chains->order_count; i++)
		block_judge(fsck, realm, chains->order[i]);
	return 0;
}

/* ----------------------------------------------------------------------------------- payloads */

/* The part of a segment that was read last. */
struct window {
	uint8_t *bytes;
	void *memory;
	uint32_t at, units, room; /* units */
};

/* The bytes of a record, or NULL: they cannot be read. */
static const uint8_t *record_read(
	struct fsck *fsck, struct window *window, const struct ssd_found *record)
{
	uint32_t rest = fsck->survey.segment_units - record->at % fsck->survey.segment_units;

	if (record->at >= window->at && record->at + record->units <= window->at + window->units)
		return window->bytes + (uint64_t)(record->at - window->at) * SSD_UNIT_BYTES;
	if (record->units > window->room)
		return NULL;
	window->at = record->at;
	window->units = MIN_OF(window->room, rest);
	if (ssd_survey_read(fsck->ssd, window->at, window->bytes, window->units) == 0)
		return window->bytes;
	/* The fault may lie behind it. */
	window->units = record->units;
	if (ssd_survey_read(fsck->ssd, window->at, window->bytes, window->units) == 0)
		return window->bytes;
	window->units = 0;
	return NULL;
}

static bool bytes_right(
	const struct wire_space_open *request, const struct ssd_found *record, const uint8_t *bytes)
{
	uint64_t sums[RANGES_MAX];
	struct label_block label;

	SKEP_CHECK(label_block_read(record->label, record->label_bytes, &label) == 0);
	for (uint32_t i = 0; i < label.head.parts; i++) {
		const struct label_part *part = &label.parts[i];
		struct part_sums input = {.bytes = bytes,
			.length = part->bytes,
			.range_count = ranges_of(request, i),
			.part = i,
			.id_low = label.head.id_low,
			.id_high = label.head.id_high,
			.incarnation = label.head.incarnation,
			.write = part->write};

		if (!checksum_root_equal(part_sums_make(&input, sums),
			    (struct checksum_root){part->root_low, part->root_high}))
			return false;
		bytes += align_up(part->bytes, SSD_UNIT_BYTES);
	}
	return true;
}

int fsck_realm_payloads(struct fsck *fsck, struct fsck_realm *realm, uint64_t bytes_all)
{
	struct fsck_report *report = fsck->report;
	const struct chains *chains = &realm->chains;
	uint64_t room = MAX_OF(WINDOW_BYTES, SSD_UNIT_BYTES);
	struct window window = {0};

	/* A record is no longer than its segment. */
	for (uint32_t i = 0; i < chains->count; i++)
		room = MAX_OF(room,
			(uint64_t)realm->found[chains->records[i].found].units * SSD_UNIT_BYTES);
	window.room = (uint32_t)(room / SSD_UNIT_BYTES);
	window.memory = memory_zalloc(room + SSD_UNIT_BYTES);
	if (!window.memory)
		return -ENOMEM;
	window.bytes = (uint8_t *)align_up((uintptr_t)window.memory, SSD_UNIT_BYTES);
	for (uint32_t i = 0; i < chains->count; i++) {
		const struct chains_record *record = &chains->records[i];
		const struct ssd_found *found = &realm->found[record->found];
		const uint8_t *bytes;

		if (record->state != CHAINS_IN)
			continue;
		bytes = record_read(fsck, &window, found);
		if (!bytes)
			fsck_say(fsck, FSCK_payload_unreadable, found);
		else if (!bytes_right(&realm->spaces[record->space].label.request, found, bytes))
			fsck_say(fsck, FSCK_payload_bad, found);
		report->payload_blocks++;
		report->payload_bytes += (uint64_t)found->units * SSD_UNIT_BYTES;
		if (fsck->options->progress)
			fsck->options->progress(fsck->options->arg, report, bytes_all);
	}
	memory_free(window.memory);
	return 0;
}
