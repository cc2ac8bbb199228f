/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records and their parents, against a plain search: each is ordered once and after its parent, the
 * newest first; of two places of one block the later counts; gaps and circles end nothing.
 *
 *	store_chains_test [SEED]
 */
#include <errno.h>

#include "base/memory.h"
#include "store/chains.h"
#include "tests/base/unit.h"

enum { ROUNDS = 300, RECORDS_MAX = 200, PLACES_MORE = 40 };

struct label {
	struct label_head head;
	struct label_part part;
};

static struct label labels[RECORDS_MAX];
static struct ssd_found found[RECORDS_MAX + PLACES_MORE];
static uint32_t number_of[RECORDS_MAX + PLACES_MORE]; /* found → label */
static uint32_t parent_of[RECORDS_MAX]; /* label → label, or as chains_record.parent */
static uint32_t records, places;

/* A forest whose parents mostly come before their children; writes collide across incarnations. */
static void forest_make(uint64_t *seed)
{
	records = 1 + unit_random(seed, RECORDS_MAX);
	memset(labels, 0, sizeof(labels));
	for (uint32_t i = 0; i < records; i++) {
		labels[i].head.incarnation = 7 + i % 3;
		labels[i].part.write = 1 + i / 3;
	}
	for (uint32_t i = 0; i < records; i++) {
		struct label_head *head = &labels[i].head;
		uint32_t kind = unit_random(seed, 20), parent = CHAINS_ROOT;

		if (kind == 0) {
			parent = CHAINS_LOST;
			head->parent_incarnation = 99;
			head->parent_write = 1 + i;
		} else if (kind > 3 && (i || kind == 4)) {
			/* A later one, or itself, now and then: circles. */
			parent = unit_random(seed, kind == 4 ? records : i);
			head->parent_incarnation = labels[parent].head.incarnation;
			head->parent_write = labels[parent].part.write;
		}
		parent_of[i] = parent;
	}
	places = 0;
	for (uint32_t i = 0; i < records; i++) {
		number_of[places++] = i;
		if (unit_random(seed, 8) == 0 && places < records + PLACES_MORE - 1 &&
			places - i < PLACES_MORE)
			number_of[places++] = unit_random(seed, i + 1);
	}
	for (uint32_t i = 0; i < places; i++)
		found[i] = (struct ssd_found){.label = &labels[number_of[i]],
			.label_bytes = sizeof(struct label),
			.at = i,
			.units = 1};
}

/* Is there a circle above? */
static bool circled(uint32_t label)
{
	uint32_t steps = 0;

	while (label < records && steps++ <= records)
		label = parent_of[label];
	return label < records;
}

static void forest_check(const struct chains *chains)
{
	static uint32_t record_of[RECORDS_MAX], last[RECORDS_MAX], at_of[RECORDS_MAX + PLACES_MORE];
	uint32_t outs = 0, newest = places - 1;

	for (uint32_t i = 0; i < records; i++)
		record_of[i] = NONE32;
	for (uint32_t i = 0; i < places; i++) {
		last[number_of[i]] = i;
		at_of[i] = NONE32;
		if (record_of[number_of[i]] == NONE32)
			record_of[number_of[i]] = i;
		else
			outs++;
	}
	REQUIRE_EQ(chains->count, places);
	REQUIRE_EQ(chains->moved, outs);
	REQUIRE_EQ(chains->order_count, records);
	for (uint32_t i = 0; i < chains->order_count; i++) {
		REQUIRE_EQ(at_of[chains->order[i]], NONE32);
		at_of[chains->order[i]] = i;
	}
	for (uint32_t i = 0; i < records; i++) {
		const struct chains_record *record = &chains->records[record_of[i]];
		uint32_t parent = parent_of[i];

		REQUIRE(record->state != CHAINS_OUT);
		REQUIRE_EQ(record->found, last[i]); /* the later place */
		REQUIRE(at_of[record_of[i]] != NONE32);
		REQUIRE_EQ(record->parent, parent < records ? record_of[parent] : parent);
		if (parent < records && !circled(i))
			REQUIRE(at_of[record_of[parent]] < at_of[record_of[i]]);
	}
	/* Nothing stands before the newest but what is above it. */
	while (chains->records[newest].state == CHAINS_OUT)
		newest--;
	for (uint32_t i = 0; i <= at_of[newest]; i++) {
		uint32_t up = number_of[newest], steps = 0;

		for (; record_of[up] != chains->order[i]; up = parent_of[up], steps++)
			REQUIRE(parent_of[up] < records && steps < records);
	}
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	for (unsigned round = 0; round < ROUNDS; round++) {
		struct chains chains;

		forest_make(&seed);
		REQUIRE_EQ(chains_create(&chains, found, places), 0);
		for (uint32_t i = 0; i < places; i++)
			chains_add(&chains, i, (uint8_t)(number_of[i] % 5));
		chains_link(&chains);
		forest_check(&chains);
		chains_destroy(&chains);
	}
	for (unsigned nth = 1; nth <= 3; nth++) {
		struct chains chains;

		memory_fail_after(nth, 0);
		REQUIRE_EQ(chains_create(&chains, found, places), -ENOMEM);
		REQUIRE(!chains.records && !chains.order && !chains.heads);
	}
	memory_fail_after(0, 0);
	return 0;
}
