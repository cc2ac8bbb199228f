/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matching, pinning, reading: what the library answers from an index that lies there, and what it
 * tells the daemon of it.
 */
#include "base/status.h"
#include "engine/client/client_priv.h"
#include "tests/engine/client_unit.h"
#include "tests/engine/fake.h"

enum { BLOCKS = 8, PRESENT = 5 };

static struct fake fake = {.secret = 9};
static struct skep *session;
static struct skep_space *space;
static struct skep_chain *chain; /* five present, one pending, two that nobody knows */

static struct skep_match match_of(uint32_t first, uint32_t count, uint32_t flags)
{
	return (struct skep_match){.struct_bytes = sizeof(struct skep_match),
		.chain = chain,
		.first = first,
		.count = count,
		.flags = flags};
}

static struct skep_match matched(uint32_t first, uint32_t count, uint32_t flags)
{
	struct skep_match match = match_of(first, count, flags);

	REQUIRE_EQ(skep_match(session, &match, 1), 0);
	return match;
}

static struct pin_cell *cells(void)
{
	for (unsigned i = 0; i < FAKE_CLIENTS_MAX; i++)
		if (fake.clients[i].greeted)
			return (struct pin_cell *)(void *)((uint8_t *)fake.clients[i].page_memory +
							   page_pins_at());
	REQUIRE(!"a client");
	return NULL;
}

static void reason_is(const struct skep_match *match, const char *word)
{
	REQUIRE_TEXT(skep_reason_text(match->reason), word);
}

/* The record that the keeper gets of the next match. */
static struct submission touch_of(uint32_t first, uint32_t count)
{
	struct skep_match match;
	unsigned before;

	fake_settle(&fake); /* records of matches before this one are not taken for it */
	before = fake.touches;
	match = matched(first, count, SKEP_MATCH_PIN);
	skep_release(session, &match.pin);
	fake_await(&fake.touches, before + 1);
	return fake_last(&fake, &fake.last_touch);
}

static void run_ends_where_a_block_is_missing(void)
{
	struct skep_match match = matched(0, 0, SKEP_MATCH_PEEK);

	REQUIRE_EQ(match.matched, PRESENT);
	reason_is(&match, "pending");
	REQUIRE_EQ(match.pin.cell, 0);
	match = matched(0, 3, SKEP_MATCH_PEEK);
	REQUIRE_EQ(match.matched, 3);
	reason_is(&match, "none");
	match = matched(2, 100, SKEP_MATCH_PEEK);
	REQUIRE_EQ(match.matched, 3);
	match = matched(6, 0, SKEP_MATCH_PEEK);
	REQUIRE_EQ(match.matched, 0);
	reason_is(&match, "absent");
	match = matched(BLOCKS, 0, SKEP_MATCH_PEEK);
	REQUIRE_EQ(match.matched, 0);
	reason_is(&match, "none");
}

static void malformed_requests_are_refused(void)
{
	struct skep_match match = match_of(0, 0, SKEP_MATCH_PEEK), pair[2];

	match.flags = 0;
	REQUIRE_EQ(skep_match(session, &match, 1), -EINVAL);
	match.flags = SKEP_MATCH_PIN | SKEP_MATCH_PEEK;
	REQUIRE_EQ(skep_match(session, &match, 1), -EINVAL);
	match = match_of(BLOCKS + 1, 0, SKEP_MATCH_PEEK);
	REQUIRE_EQ(skep_match(session, &match, 1), -EINVAL);
	match = match_of(0, 0, SKEP_MATCH_PEEK);
	match.refs_max = 1;
	REQUIRE_EQ(skep_match(session, &match, 1), -EINVAL);
	match.refs_max = 0;
	match.chain = NULL;
	REQUIRE_EQ(skep_match(session, &match, 1), -EINVAL);
	match = match_of(0, 0, SKEP_MATCH_PEEK);
	match.struct_bytes = 8;
	REQUIRE_EQ(skep_match(session, &match, 1), -EINVAL);
	/* One that is malformed spoils the call before anything is pinned. */
	pair[0] = match_of(0, 0, SKEP_MATCH_PIN);
	pair[1] = match_of(0, 0, 0);
	REQUIRE_EQ(skep_match(session, pair, 2), -EINVAL);
	REQUIRE_EQ(pair[0].pin.cell, 0);
	REQUIRE_EQ(skep_match(session, NULL, 1), -EINVAL);
	REQUIRE_EQ(skep_match(NULL, pair, 1), -EINVAL);
	REQUIRE_EQ(skep_match(session, NULL, 0), 0);
}

/* A caller built later has a longer struct: requests lie further apart. */
static void longer_structs_are_stepped_over(void)
{
	struct longer {
		struct skep_match match;
		uint64_t more[3];
	} requests[2] = {{.match = match_of(0, 2, SKEP_MATCH_PEEK)},
		{.match = match_of(1, 1, SKEP_MATCH_PEEK)}};

	requests[0].match.struct_bytes = requests[1].match.struct_bytes = sizeof(requests[0]);
	REQUIRE_EQ(skep_match(session, &requests[0].match, 2), 0);
	REQUIRE_EQ(requests[0].match.matched, 2);
	REQUIRE_EQ(requests[1].match.matched, 1);
}

static void pin_names_the_deepest_block(void)
{
	struct skep_ref refs[BLOCKS];
	struct skep_match match = match_of(1, 0, SKEP_MATCH_PIN);
	struct skep_pin released;

	match.refs = refs;
	match.refs_max = BLOCKS;
	REQUIRE_EQ(skep_match(session, &match, 1), 0);
	REQUIRE_EQ(match.matched, PRESENT - 1);
	REQUIRE(match.pin.cell > PIN_CELL_COPY);
	REQUIRE_EQ(cells()[match.pin.cell].slot, PRESENT - 1);
	REQUIRE_EQ(cells()[match.pin.cell].generation, 2000 + PRESENT - 1);
	for (uint32_t i = 0; i < match.matched; i++) {
		REQUIRE_EQ(refs[i].slot, 1 + i);
		REQUIRE_EQ(refs[i].frame_generation, 2001 + i);
		REQUIRE(refs[i].incarnation == fake.incarnation);
	}
	released = match.pin;
	skep_release(session, &match.pin);
	REQUIRE_EQ(match.pin.cell, 0);
	REQUIRE_EQ(cells()[released.cell].generation, 0);
	/* What was released, never was, or is none, changes nothing. */
	skep_release(session, &released);
	skep_release(session, &match.pin);
	released = (struct skep_pin){.cell = 1000000, .epoch = 1};
	skep_release(session, &released);
	released = (struct skep_pin){.cell = 1, .epoch = 77};
	skep_release(session, &released);
	skep_release(session, NULL);
}

static void match_is_told_to_the_keeper_once(void)
{
	struct submission touch = touch_of(0, 0);

	REQUIRE_EQ(touch.slot, PRESENT - 1);
	REQUIRE_EQ(touch.generation, 2000 + PRESENT - 1);
	REQUIRE_EQ(touch.u.touch.asked, BLOCKS);
	REQUIRE_EQ(touch.u.touch.matched, PRESENT);
	REQUIRE_EQ(touch.u.touch.reason, SKEP_REASON_PENDING);
	REQUIRE(touch.u.touch.missing_low == chain->ids[PRESENT].low);
	touch = touch_of(1, 2);
	REQUIRE_EQ(touch.slot, 2);
	REQUIRE_EQ(touch.u.touch.asked, 2);
	REQUIRE_EQ(touch.u.touch.matched, 2);
	REQUIRE_EQ(touch.u.touch.reason, SKEP_REASON_NONE);
	REQUIRE(touch.u.touch.missing_low == 0);
	touch = touch_of(7, 0);
	REQUIRE_EQ(touch.slot, SLOT_NONE);
	REQUIRE_EQ(touch.generation, 0);
	REQUIRE_EQ(touch.u.touch.reason, SKEP_REASON_ABSENT);
	REQUIRE(touch.u.touch.missing_low == chain->ids[7].low);
}

static void peek_is_not_told(void)
{
	unsigned before;

	fake_settle(&fake);
	before = fake.touches;
	(void)matched(0, 0, SKEP_MATCH_PEEK);
	(void)touch_of(0, 0); /* comes after it in the ring */
	REQUIRE_EQ(fake.touches, before + 1);
}

static void pins_are_bounded_and_come_back(void)
{
	enum { CELLS = PAGE_PINS - 1 };
	struct skep_pin *pins = calloc(CELLS, sizeof(*pins));
	struct skep_match match;

	REQUIRE(pins != NULL);
	for (unsigned i = 0; i < CELLS; i++) {
		match = matched(0, 1, SKEP_MATCH_PIN);
		REQUIRE_EQ(match.matched, 1);
		pins[i] = match.pin;
	}
	match = matched(0, 1, SKEP_MATCH_PIN);
	REQUIRE_EQ(match.matched, 0);
	reason_is(&match, "pins");
	REQUIRE_EQ(match.pin.cell, 0);
	for (unsigned i = 0; i < CELLS; i++)
		skep_release(session, &pins[i]);
	free(pins);
	match = matched(0, 1, SKEP_MATCH_PIN);
	REQUIRE_EQ(match.matched, 1);
	skep_release(session, &match.pin);
	for (unsigned i = 0; i < PAGE_PINS; i++)
		REQUIRE_EQ(cells()[i].generation, 0);
}

/* The keeper unpublishes a block: a run found before ends there when it is pinned. */
static void refs_are_good_as_far_as_they_stand(void)
{
	struct skep_ref refs[PRESENT], swapped[2], old;
	struct skep_match match = match_of(0, PRESENT, SKEP_MATCH_PEEK);
	struct index_entry *entries = fake_entries(&fake);
	struct skep_pin pin;

	match.refs = refs;
	match.refs_max = PRESENT;
	REQUIRE_EQ(skep_match(session, &match, 1), 0);
	REQUIRE_EQ(skep_pin_refs(session, refs, PRESENT, &pin), PRESENT);
	REQUIRE_EQ(cells()[pin.cell].slot, PRESENT - 1);
	skep_release(session, &pin);
	atomic_store(&entries[3].frame_generation, 0);
	REQUIRE_EQ(skep_pin_refs(session, refs, PRESENT, &pin), 3);
	REQUIRE_EQ(cells()[pin.cell].slot, 2);
	skep_release(session, &pin);
	match = matched(0, 0, SKEP_MATCH_PIN);
	REQUIRE_EQ(match.matched, 3);
	skep_release(session, &match.pin);
	REQUIRE_EQ(skep_pin_refs(session, refs + 3, 1, &pin), 0);
	REQUIRE_EQ(pin.cell, 0);
	atomic_store(&entries[3].frame_generation, 2003);
	/* Not a run: the pin of the last one would not protect the first. */
	swapped[0] = refs[2];
	swapped[1] = refs[1];
	REQUIRE_EQ(skep_pin_refs(session, swapped, 2, &pin), 1);
	skep_release(session, &pin);
	old = refs[0];
	old.incarnation++;
	REQUIRE_EQ(skep_pin_refs(session, &old, 1, &pin), 0);
	old = refs[0];
	old.slot = UINT32_MAX;
	REQUIRE_EQ(skep_pin_refs(session, &old, 1, &pin), 0);
	REQUIRE_EQ(skep_pin_refs(session, NULL, 0, &pin), 0);
	REQUIRE_EQ(skep_pin_refs(session, NULL, 1, &pin), -EINVAL);
	REQUIRE_EQ(skep_pin_refs(session, refs, 1, NULL), -EINVAL);
}

/* The keeper in the middle of a batch: it has unpublished block 3 and not yet looked for pins. */
static void *keeper_decides(void *arg)
{
	struct index_head *head = (void *)fake.index;

	(void)arg;
	usleep(20000);
	atomic_store_explicit(&fake_entries(&fake)[3].frame_generation, 2003, memory_order_release);
	atomic_fetch_add_explicit(&head->evictions, 1, memory_order_release);
	return NULL;
}

static pthread_t batch_begin(void)
{
	struct index_head *head = (void *)fake.index;
	pthread_t keeper;

	atomic_fetch_add(&head->evictions, 1);
	atomic_store(&fake_entries(&fake)[3].frame_generation, 0);
	REQUIRE_EQ(pthread_create(&keeper, NULL, keeper_decides, NULL), 0);
	return keeper;
}

static void refs_wait_for_what_the_keeper_decides(void)
{
	uint8_t to[UNIT_PART_BYTES];
	struct iovec piece = {.iov_base = to, .iov_len = sizeof(to)};
	struct skep_ref refs[PRESENT];
	struct skep_match match = match_of(0, PRESENT, SKEP_MATCH_PEEK);
	struct skep_copy copy = {
		.struct_bytes = sizeof(copy), .space = space, .to = &piece, .to_count = 1};
	struct index_head *head = (void *)fake.index;
	struct skep_view view;
	struct skep_pin pin;
	pthread_t keeper;
	uint64_t began;

	match.refs = refs;
	match.refs_max = PRESENT;
	REQUIRE_EQ(skep_match(session, &match, 1), 0);
	copy.ref = refs[3];
	keeper = batch_begin();
	REQUIRE_EQ(skep_pin_refs(session, refs, PRESENT, &pin), PRESENT);
	skep_release(session, &pin);
	REQUIRE_EQ(pthread_join(keeper, NULL), 0);
	keeper = batch_begin();
	REQUIRE_EQ(skep_view(session, &refs[3], 0, &view), 0);
	REQUIRE_EQ(pthread_join(keeper, NULL), 0);
	keeper = batch_begin();
	REQUIRE_EQ(skep_copy(session, &copy), UNIT_PART_BYTES);
	REQUIRE_EQ(pthread_join(keeper, NULL), 0);
	/* A keeper that died in a batch is waited for no longer than this. */
	atomic_fetch_add(&head->evictions, 1);
	atomic_store(&fake_entries(&fake)[3].frame_generation, 0);
	began = clock_ns();
	REQUIRE_EQ(skep_view(session, &refs[3], 0, &view), -ESTALE);
	REQUIRE(clock_ns() - began >= PIN_SETTLE_NS);
	atomic_store(&fake_entries(&fake)[3].frame_generation, 2003);
	atomic_fetch_add(&head->evictions, 1);
}

static struct skep_ref ref_of(uint32_t block)
{
	struct skep_ref ref;
	struct skep_match match = match_of(block, 1, SKEP_MATCH_PEEK);

	match.refs = &ref;
	match.refs_max = 1;
	REQUIRE_EQ(skep_match(session, &match, 1), 0);
	REQUIRE_EQ(match.matched, 1);
	return ref;
}

static void bytes_are(const void *bytes, uint64_t length, uint32_t block, uint64_t from)
{
	const uint8_t *at = bytes;

	for (uint64_t i = 0; i < length; i++)
		REQUIRE_EQ(at[i], (uint8_t)mix64(chain->ids[block].low + from + i));
}

static void view_points_to_the_bytes(void)
{
	struct skep_ref ref = ref_of(2), wrong = ref;
	struct skep_view view;

	REQUIRE_EQ(skep_view(session, &ref, 0, &view), 0);
	REQUIRE_EQ(view.length, UNIT_PART_BYTES);
	bytes_are(view.bytes, view.length, 2, 0);
	REQUIRE_EQ(skep_view(session, &ref, 1, &view), -ERANGE);
	wrong.frame_generation++;
	REQUIRE_EQ(skep_view(session, &wrong, 0, &view), -ESTALE);
	wrong = ref;
	wrong.incarnation++;
	REQUIRE_EQ(skep_view(session, &wrong, 0, &view), -ESTALE);
	wrong = ref;
	wrong.slot = FAKE_SLOTS;
	REQUIRE_EQ(skep_view(session, &wrong, 0, &view), -ESTALE);
	REQUIRE_EQ(skep_view(session, NULL, 0, &view), -EINVAL);
}

static void views_point_to_the_leading_ones(void)
{
	struct skep_ref refs[PRESENT], first;
	struct skep_view views[PRESENT];

	for (uint32_t i = 0; i < PRESENT; i++)
		refs[i] = ref_of(i);
	REQUIRE_EQ(skep_views(session, 0, refs, views, PRESENT), PRESENT);
	for (uint32_t i = 0; i < PRESENT; i++) {
		REQUIRE_EQ(views[i].length, UNIT_PART_BYTES);
		bytes_are(views[i].bytes, views[i].length, i, 0);
	}
	refs[3].frame_generation++;
	REQUIRE_EQ(skep_views(session, 0, refs, views, PRESENT), 3);
	first = refs[0];
	refs[0].frame_generation++;
	REQUIRE_EQ(skep_views(session, 0, refs, views, PRESENT), -ESTALE);
	refs[0] = first;
	REQUIRE_EQ(skep_views(session, 1, refs, views, PRESENT), -ERANGE);
	REQUIRE_EQ(skep_views(session, 0, NULL, views, 1), -EINVAL);
	REQUIRE_EQ(skep_views(session, 0, refs, NULL, 1), -EINVAL);
	REQUIRE_EQ(skep_views(session, 0, refs, views, UINT32_MAX), -EINVAL);
	REQUIRE_EQ(skep_views(NULL, 0, refs, views, 1), -EINVAL);
	REQUIRE_EQ(skep_views(session, 0, NULL, NULL, 0), 0);
}

static struct skep_copy copy_of(const struct skep_ref *ref, const struct iovec *to, unsigned count)
{
	return (struct skep_copy){.struct_bytes = sizeof(struct skep_copy),
		.space = space,
		.ref = *ref,
		.to = to,
		.to_count = count};
}

static void copy_fills_any_pieces(uint64_t seed)
{
	struct skep_ref ref = ref_of(1);
	uint8_t to[UNIT_PART_BYTES + 64];
	uint64_t state = seed;

	for (unsigned round = 0; round < 200; round++) {
		struct iovec pieces[9];
		struct skep_copy copy = copy_of(&ref, pieces, 9);
		size_t at = 0, skew = unit_random(&state, 64);

		memset(to, 0xee, sizeof(to));
		for (unsigned i = 0; i < 9; i++) {
			size_t rest = UNIT_PART_BYTES - at;
			size_t step = i == 8 ? rest : unit_random(&state, 1200);

			step = round == 0 ? (i == 0 ? rest : 0) : MIN_OF(step, rest);
			pieces[i] = (struct iovec){.iov_base = to + skew + at, .iov_len = step};
			at += step;
		}
		REQUIRE_EQ(skep_copy(session, &copy), UNIT_PART_BYTES);
		bytes_are(to + skew, UNIT_PART_BYTES, 1, 0);
		for (size_t i = 0; i < skew; i++)
			REQUIRE_EQ(to[i], 0xee);
	}
	REQUIRE_EQ(cells()[PIN_CELL_COPY].generation, 0);
}

static void copy_refuses_what_makes_no_sense(void)
{
	uint8_t to[UNIT_PART_BYTES];
	struct iovec piece = {.iov_base = to, .iov_len = sizeof(to)}, small = piece;
	struct skep_ref ref = ref_of(0);
	struct skep_copy copy = copy_of(&ref, &piece, 1);

	small.iov_len--;
	copy.to = &small;
	REQUIRE_EQ(skep_copy(session, &copy), -EMSGSIZE);
	copy.to = &piece;
	copy.part = 1;
	REQUIRE_EQ(skep_copy(session, &copy), -ERANGE);
	copy.part = 0;
	copy.first_range = 1;
	REQUIRE_EQ(skep_copy(session, &copy), -ERANGE);
	copy.first_range = 0;
	copy.range_count = 2;
	REQUIRE_EQ(skep_copy(session, &copy), -ERANGE);
	copy.range_count = 1;
	REQUIRE_EQ(skep_copy(session, &copy), UNIT_PART_BYTES);
	copy.ref.frame_generation++;
	REQUIRE_EQ(skep_copy(session, &copy), -ESTALE);
	copy.ref = ref;
	copy.space = NULL;
	REQUIRE_EQ(skep_copy(session, &copy), -EINVAL);
	copy.struct_bytes = 4;
	REQUIRE_EQ(skep_copy(session, &copy), -EINVAL);
}

/* Each has its result, and one that fails does so alone. */
static void copies_fail_alone(void)
{
	struct longer {
		struct skep_copy copy;
		uint64_t more;
	} copies[PRESENT];
	static uint8_t to[PRESENT][UNIT_PART_BYTES];
	struct skep_ref refs[PRESENT];
	struct iovec pieces[PRESENT];
	int64_t results[PRESENT];

	for (uint32_t i = 0; i < PRESENT; i++) {
		refs[i] = ref_of(i);
		pieces[i] = (struct iovec){.iov_base = to[i], .iov_len = UNIT_PART_BYTES};
		copies[i] = (struct longer){.copy = copy_of(&refs[i], &pieces[i], 1)};
		copies[i].copy.struct_bytes = sizeof(copies[i]);
	}
	copies[1].copy.ref.frame_generation++;
	copies[2].more = 1;
	copies[4].copy.struct_bytes--;
	REQUIRE_EQ(skep_copies(session, &copies[0].copy, results, PRESENT), 2);
	REQUIRE_EQ(results[0], UNIT_PART_BYTES);
	REQUIRE_EQ(results[1], -ESTALE);
	REQUIRE_EQ(results[2], -E2BIG);
	REQUIRE_EQ(results[3], UNIT_PART_BYTES);
	REQUIRE_EQ(results[4], -EINVAL);
	bytes_are(to[0], UNIT_PART_BYTES, 0, 0);
	bytes_are(to[3], UNIT_PART_BYTES, 3, 0);
	copies[0].copy.struct_bytes = 4;
	REQUIRE_EQ(skep_copies(session, &copies[0].copy, results, PRESENT), -EINVAL);
	REQUIRE_EQ(skep_copies(session, NULL, results, 1), -EINVAL);
	REQUIRE_EQ(skep_copies(session, &copies[3].copy, NULL, 1), -EINVAL);
	REQUIRE_EQ(skep_copies(NULL, &copies[3].copy, results, 1), -EINVAL);
	REQUIRE_EQ(skep_copies(session, NULL, NULL, 0), 0);
}

/* A byte, a sum or a root that is wrong: never given out as right, and the keeper is told. */
static void copy_finds_what_was_changed(void)
{
	uint8_t to[UNIT_PART_BYTES];
	struct iovec piece = {.iov_base = to, .iov_len = sizeof(to)};
	struct skep_ref ref = ref_of(3);
	struct skep_copy copy = copy_of(&ref, &piece, 1);
	const struct index_head *head = (const void *)fake.index;
	struct index_part *part =
		&((struct index_part *)(void *)(fake.index + head->parts_at))[ref.slot];
	uint8_t *frame = fake.pool + ref.slot * 16384u;

	frame[777] ^= 1;
	REQUIRE_EQ(skep_copy(session, &copy), SKEP_ECHECKSUM);
	fake_await(&fake.quarantines, 1);
	frame[777] ^= 1;
	REQUIRE_EQ(skep_copy(session, &copy), UNIT_PART_BYTES);
	part->root_high ^= 1ull << 63;
	REQUIRE_EQ(skep_copy(session, &copy), SKEP_ECHECKSUM);
	part->root_high ^= 1ull << 63;
	part->write++; /* bytes of another writing of the same block */
	REQUIRE_EQ(skep_copy(session, &copy), SKEP_ECHECKSUM);
	part->write--;
	REQUIRE_EQ(skep_copy(session, &copy), UNIT_PART_BYTES);
	fake_await(&fake.quarantines, 3);
	part->frame = UINT32_MAX - 1; /* outside the pool: not even looked at */
	REQUIRE_EQ(skep_copy(session, &copy), -ESTALE);
	part->frame = ref.slot * 4;
}

static void missing_lists_what_nobody_has_or_writes(void)
{
	const struct index_head *head = (const void *)fake.index;
	struct index_part *parts = (struct index_part *)(void *)(fake.index + head->parts_at);
	struct index_entry *entries = fake_entries(&fake);
	uint32_t blocks[BLOCKS];

	REQUIRE_EQ(skep_missing(session, chain, 0, UINT32_MAX, blocks, BLOCKS), 2);
	REQUIRE(blocks[0] == 6 && blocks[1] == 7);
	REQUIRE_EQ(skep_missing(session, chain, 7, 0, blocks, BLOCKS), 1);
	REQUIRE_EQ(blocks[0], 7);
	REQUIRE_EQ(skep_missing(session, chain, 0, 0, blocks, 1), 1);
	REQUIRE_EQ(blocks[0], 6);
	/* Pending, but nobody holds the part. */
	parts[PRESENT].write = 0;
	REQUIRE_EQ(skep_missing(session, chain, 0, 0, blocks, BLOCKS), 3);
	REQUIRE_EQ(blocks[0], PRESENT);
	REQUIRE_EQ(skep_missing(session, chain, 0, UINT32_MAX, blocks, BLOCKS), 3);
	parts[PRESENT].write = 1;
	/* An empty entry is not present. */
	entries[1].state = ENTRY_EMPTY;
	atomic_store(&entries[1].frame_generation, 0);
	REQUIRE_EQ(skep_missing(session, chain, 0, UINT32_MAX, blocks, BLOCKS), 3);
	REQUIRE_EQ(blocks[0], 1);
	entries[1].state = ENTRY_PRESENT;
	atomic_store(&entries[1].frame_generation, 2001);
	REQUIRE_EQ(skep_missing(session, chain, BLOCKS + 1, 0, blocks, BLOCKS), -ERANGE);
	REQUIRE_EQ(skep_missing(session, chain, 0, 1, blocks, BLOCKS), -ERANGE);
	REQUIRE_EQ(skep_missing(session, NULL, 0, 0, blocks, BLOCKS), -EINVAL);
}

static void hint_names_a_known_block(void)
{
	REQUIRE_EQ(skep_hint(session, chain, 2, SKEP_HINT_OPEN), 0);
	fake_await(&fake.hints, 1);
	REQUIRE_EQ(skep_hint(session, chain, 7, SKEP_HINT_DONE), -ENOENT);
	REQUIRE_EQ(skep_hint(session, chain, BLOCKS, SKEP_HINT_DONE), -ERANGE);
	REQUIRE_EQ(skep_hint(session, chain, 0, 0), -EINVAL);
	REQUIRE_EQ(skep_hint(session, chain, 0, 3), -EINVAL);
}

/* Another session stepped the version: a miss at first, then the chain is hashed anew. */
static void stepped_space_is_looked_up_again(void)
{
	struct index_head *head = (struct index_head *)(void *)fake.index;
	struct block_id before = chain->ids[0];
	struct skep_match match;
	uint64_t until = clock_ns() + 5 * NS_PER_S;

	fake.secret++;
	fake.generation++;
	atomic_store(&head->spaces[0].generation, fake.generation);
	match = matched(0, 0, SKEP_MATCH_PIN);
	REQUIRE_EQ(match.matched, 0);
	reason_is(&match, "absent");
	while (space->bound.generation != fake.generation) {
		REQUIRE(clock_ns() < until);
		(void)matched(0, 0, SKEP_MATCH_PEEK);
		usleep(1000);
	}
	REQUIRE(before.low != chain->ids[0].low);
	fake_block(&fake, chain, 0, ENTRY_PRESENT, UNIT_PART_BYTES);
	match = matched(0, 0, SKEP_MATCH_PEEK);
	REQUIRE_EQ(match.matched, 1);
}

/* A daemon that sleeps gets no system call for a match record until the ring is half full. */
static void records_wait_and_are_dropped_when_full(void)
{
	struct local_client *local = &session->current->local;
	uint64_t dropped = local->touches_dropped;
	unsigned before;

	fake_settle(&fake);
	fake.deaf = true;
	fake_settle(&fake);
	before = fake.touches;
	for (unsigned i = 0; i < PAGE_SUBMISSIONS + 10; i++) {
		struct skep_match match = matched(0, 1, SKEP_MATCH_PIN);

		REQUIRE_EQ(match.matched, 1);
		skep_release(session, &match.pin);
	}
	REQUIRE(local->touches_dropped >= dropped + 10);
	fake.deaf = false;
	fake_await(&fake.touches, before + PAGE_SUBMISSIONS);
	(void)touch_of(0, 1);
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	fake_start(&fake);
	session = unit_open(fake.path, 0);
	space = unit_space(session, 0);
	chain = unit_chain(space, BLOCKS, seed);
	for (uint32_t i = 0; i <= PRESENT; i++)
		fake_block(&fake, chain, i, i < PRESENT ? ENTRY_PRESENT : ENTRY_PENDING,
			UNIT_PART_BYTES);
	run_ends_where_a_block_is_missing();
	malformed_requests_are_refused();
	longer_structs_are_stepped_over();
	pin_names_the_deepest_block();
	match_is_told_to_the_keeper_once();
	peek_is_not_told();
	pins_are_bounded_and_come_back();
	refs_are_good_as_far_as_they_stand();
	refs_wait_for_what_the_keeper_decides();
	view_points_to_the_bytes();
	copy_fills_any_pieces(seed);
	copy_refuses_what_makes_no_sense();
	views_point_to_the_leading_ones();
	copies_fail_alone();
	copy_finds_what_was_changed();
	missing_lists_what_nobody_has_or_writes();
	hint_names_a_known_block();
	records_wait_and_are_dropped_when_full();
	stepped_space_is_looked_up_again();
	skep_close(session);
	fake_end(&fake);
	return 0;
}
