/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole client against a real node inside this process: what was put is what is had, and each
 * call keeps the promise of its header.
 */
#include <poll.h>

#include "base/status.h"
#include "engine/client/client_priv.h"
#include "tests/engine/client_unit.h"

enum { RANGES = 4, LONG_BYTES = RANGES * 24 * 1024, SHORT_BYTES = 5000, BLOCKS = 40 };

#define WHERE "embedded:dram=64MiB,realm=unit"

static struct skep *session;
static struct skep_space *space;

static struct skep_space *two_parts(struct skep *of, const char *name)
{
	static const struct skep_part_layout parts[2] = {
		{.bytes = LONG_BYTES, .ranges = RANGES}, {.bytes = SHORT_BYTES, .rank = 1}};
	struct skep_space_options options = {.struct_bytes = sizeof(options),
		.name = name,
		.model = "model",
		.block_tokens = UNIT_BLOCK_TOKENS,
		.ranks = 2,
		.part_count = 2,
		.parts = parts};
	struct skep_space *made;

	REQUIRE_EQ(skep_space_open(of, &options, &made), 0);
	return made;
}

/* Bytes of a part are a function of the block's id and the part. */
static uint8_t byte_of(const uint8_t id[16], uint32_t part, uint64_t at)
{
	uint64_t word;

	memcpy(&word, id, sizeof(word));
	return (uint8_t)(mix64(word + part * 77777 + at / 8) >> (8 * (at % 8)));
}

static void frame_write(const struct skep_frame *frame)
{
	uint8_t *bytes = frame->bytes;

	for (uint64_t i = 0; i < frame->length; i++)
		bytes[i] = byte_of(frame->id, frame->part, i);
}

static void bytes_check(const struct skep_chain *chain, uint32_t block, uint32_t part,
	const void *bytes, uint64_t length)
{
	const uint8_t *at = bytes;
	uint8_t id[16];

	REQUIRE_EQ(skep_chain_id(chain, block, id), 0);
	for (uint64_t i = 0; i < length; i++)
		REQUIRE_EQ(at[i], byte_of(id, part, i));
}

/* Reserves, writes and commits one part of blocks [first, first + count). */
static void put(struct skep *of, struct skep_chain *chain, uint32_t first, uint32_t count,
	uint32_t part, uint32_t sums_kind)
{
	struct skep_frame frames[BLOCKS];
	uint64_t sums[BLOCKS * RANGES];
	struct skep_commit commit = {.struct_bytes = sizeof(commit),
		.sums = sums_kind,
		.given = sums,
		.deadline_ns = SKEP_FOREVER};
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
		.chain = chain,
		.part = part,
		.deadline_ns = SKEP_FOREVER};

	while (count) {
		unsigned at = 0;
		int got;

		reserve.first = first;
		reserve.count = count;
		got = skep_reserve(of, &reserve, frames);
		REQUIRE(got > 0);
		for (int i = 0; i < got; i++) {
			uint64_t share = frames[i].length / frames[i].ranges;

			REQUIRE_EQ(frames[i].status, 0);
			frame_write(&frames[i]);
			for (uint32_t r = 0; r < frames[i].ranges; r++)
				sums[at++] = skep_range_sum(
					(uint8_t *)frames[i].bytes + r * share, share);
		}
		REQUIRE_EQ(skep_commit(of, frames, (unsigned)got, &commit), got);
		first += (uint32_t)got;
		count -= (uint32_t)got;
	}
}

static struct skep_match matched(struct skep *of, struct skep_chain *chain, struct skep_ref *refs)
{
	struct skep_match match = {.struct_bytes = sizeof(match),
		.chain = chain,
		.flags = SKEP_MATCH_PIN,
		.refs = refs,
		.refs_max = BLOCKS};

	REQUIRE_EQ(skep_match(of, &match, 1), 0);
	return match;
}

static uint32_t hits(struct skep *of, struct skep_chain *chain)
{
	struct skep_match match = {
		.struct_bytes = sizeof(match), .chain = chain, .flags = SKEP_MATCH_PIN};

	REQUIRE_EQ(skep_match(of, &match, 1), 0);
	skep_release(of, &match.pin);
	return match.matched;
}

static void refs_check(struct skep *of, struct skep_space *in, const struct skep_chain *chain,
	const struct skep_ref *refs, uint32_t count)
{
	static uint8_t to[LONG_BYTES];

	for (uint32_t i = 0; i < count; i++) {
		for (uint32_t part = 0; part < 2; part++) {
			struct iovec pieces[2] = {{.iov_base = to, .iov_len = 10000},
				{.iov_base = to + 10000, .iov_len = sizeof(to) - 10000}};
			struct skep_copy copy = {.struct_bytes = sizeof(copy),
				.space = in,
				.ref = refs[i],
				.part = part,
				.to = pieces,
				.to_count = 2};
			struct skep_view view;

			REQUIRE_EQ(skep_view(of, &refs[i], part, &view), 0);
			REQUIRE_EQ(view.length, part ? SHORT_BYTES : LONG_BYTES);
			bytes_check(chain, i, part, view.bytes, view.length);
			REQUIRE_EQ(skep_copy(of, &copy), (int64_t)view.length);
			bytes_check(chain, i, part, to, view.length);
		}
	}
}

static void put_is_had(void)
{
	for (uint32_t kind = SKEP_SUMS_HERE; kind <= SKEP_SUMS_MOVER; kind++) {
		struct skep_chain *chain = unit_chain(space, BLOCKS, 100 + kind);
		struct skep_ref refs[BLOCKS];
		struct skep_match match;
		uint32_t missing[BLOCKS];

		REQUIRE_EQ(skep_missing(session, chain, 0, UINT32_MAX, missing, BLOCKS), BLOCKS);
		put(session, chain, 0, BLOCKS, 0, kind);
		match = matched(session, chain, refs);
		REQUIRE_EQ(match.matched, 0); /* the other part is not there */
		REQUIRE_TEXT(skep_reason_text(match.reason), "pending");
		REQUIRE_EQ(skep_missing(session, chain, 0, 0, missing, BLOCKS), 0);
		REQUIRE_EQ(skep_missing(session, chain, 0, 1, missing, BLOCKS), BLOCKS);
		put(session, chain, 0, BLOCKS, 1, kind);
		match = matched(session, chain, refs);
		REQUIRE_EQ(match.matched, BLOCKS);
		refs_check(session, space, chain, refs, BLOCKS);
		skep_release(session, &match.pin);
		REQUIRE_EQ(skep_missing(session, chain, 0, UINT32_MAX, missing, BLOCKS), 0);
	}
}

static void ranges_are_copied_alone(void)
{
	struct skep_chain *chain = unit_chain(space, 1, 150);
	static uint8_t to[LONG_BYTES];
	struct iovec piece = {.iov_base = to, .iov_len = sizeof(to)};
	struct skep_ref refs[BLOCKS];
	struct skep_match match;
	struct skep_copy copy = {.struct_bytes = sizeof(copy),
		.space = space,
		.first_range = 1,
		.range_count = 2,
		.to = &piece,
		.to_count = 1};
	uint8_t id[16];

	put(session, chain, 0, 1, 0, SKEP_SUMS_HERE);
	put(session, chain, 0, 1, 1, SKEP_SUMS_HERE);
	match = matched(session, chain, refs);
	REQUIRE_EQ(match.matched, 1);
	copy.ref = refs[0];
	REQUIRE_EQ(skep_copy(session, &copy), LONG_BYTES / 2);
	REQUIRE_EQ(skep_chain_id(chain, 0, id), 0);
	for (uint64_t i = 0; i < LONG_BYTES / 2; i++)
		REQUIRE_EQ(to[i], byte_of(id, 0, LONG_BYTES / 4 + i));
	skep_release(session, &match.pin);
}

/* What a part's bytes must sum to is told, range by range, and only of this space's blocks. */
static void sums_are_told(void)
{
	struct skep_chain *chain = unit_chain(space, 3, 170);
	struct skep_ref refs[BLOCKS];
	uint64_t sums[RANGES];
	struct skep_match match;
	struct skep_view view;

	put(session, chain, 0, 3, 0, SKEP_SUMS_HERE);
	put(session, chain, 0, 3, 1, SKEP_SUMS_HERE);
	match = matched(session, chain, refs);
	REQUIRE_EQ(match.matched, 3);
	REQUIRE_EQ(skep_view(session, &refs[1], 0, &view), 0);
	REQUIRE_EQ(skep_sums(session, space, &refs[1], 0, sums, RANGES), RANGES);
	for (uint32_t i = 0; i < RANGES; i++)
		REQUIRE(sums[i] ==
			skep_range_sum((const uint8_t *)view.bytes + i * (LONG_BYTES / RANGES),
				LONG_BYTES / RANGES));
	REQUIRE_EQ(skep_sums(session, space, &refs[1], 1, sums, RANGES), 1);
	REQUIRE_EQ(skep_sums(session, space, &refs[1], 0, sums, RANGES - 1), -EMSGSIZE);
	REQUIRE_EQ(skep_sums(session, space, &refs[1], 2, sums, RANGES), -ERANGE);
	REQUIRE_EQ(skep_sums(session, NULL, &refs[1], 0, sums, RANGES), -EINVAL);
	refs[1].frame_generation++;
	REQUIRE_EQ(skep_sums(session, space, &refs[1], 0, sums, RANGES), -ESTALE);
	skep_release(session, &match.pin);
	skep_chain_destroy(chain);
}

static void second_writer_is_told(void)
{
	struct skep *other = unit_open(WHERE, 0);
	struct skep_space *other_space = two_parts(other, "space");
	struct skep_chain *mine = unit_chain(space, 2, 200), *its = unit_chain(other_space, 2, 200);
	struct skep_frame frames[2], rest[2], late[2];
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
		.chain = mine,
		.count = 2,
		.deadline_ns = SKEP_FOREVER};
	struct skep_reserve again = reserve;
	struct skep_wait wait = {.struct_bytes = sizeof(wait),
		.chain = its,
		.block = 1,
		.user = 5,
		.deadline_ns = SKEP_FOREVER};
	struct skep_event event;
	struct pollfd poll_one;

	again.chain = its;
	REQUIRE_EQ(skep_reserve(session, &reserve, frames), 2);
	reserve.part = 1;
	REQUIRE_EQ(skep_reserve(session, &reserve, rest), 2);
	REQUIRE_EQ(skep_reserve(other, &again, late), 2);
	REQUIRE_EQ(late[0].status, SKEP_EPENDING);
	REQUIRE(late[0].bytes == NULL);
	/* It waits rather than compute. */
	wait.deadline_ns = skep_deadline_ms(20);
	REQUIRE_EQ(skep_wait(other, &wait), -ETIMEDOUT);
	wait.deadline_ns = SKEP_FOREVER;
	REQUIRE_EQ(skep_queue_create(other, &wait.queue), 0);
	REQUIRE_EQ(skep_wait(other, &wait), 0);
	poll_one = (struct pollfd){.fd = skep_queue_fd(wait.queue), .events = POLLIN};
	REQUIRE_EQ(poll(&poll_one, 1, 20), 0);
	frame_write(&frames[0]);
	frame_write(&frames[1]);
	REQUIRE_EQ(skep_commit(session, frames, 2, NULL), 2);
	REQUIRE_EQ(poll(&poll_one, 1, 20), 0); /* the other part */
	frame_write(&rest[0]);
	frame_write(&rest[1]);
	REQUIRE_EQ(skep_commit(session, rest, 2, NULL), 2);
	REQUIRE_EQ(poll(&poll_one, 1, 5000), 1);
	REQUIRE_EQ(skep_queue_take(wait.queue, &event, 1), 1);
	REQUIRE(event.user == 5 && event.status == 0 && event.block == 1);
	wait.queue = NULL;
	REQUIRE_EQ(skep_wait(other, &wait), 0);
	REQUIRE_EQ(skep_reserve(other, &again, late), 2);
	REQUIRE_EQ(late[1].status, -EEXIST);
	skep_close(other);
}

static void aborted_block_is_given_up(void)
{
	struct skep_chain *chain = unit_chain(space, 1, 250);
	struct skep_frame frame;
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
		.chain = chain,
		.count = 1,
		.deadline_ns = SKEP_FOREVER};
	struct skep_wait wait = {.struct_bytes = sizeof(wait), .chain = chain};
	int status;

	REQUIRE_EQ(skep_reserve(session, &reserve, &frame), 1);
	REQUIRE_EQ(skep_wait(session, &wait), -ETIMEDOUT); /* deadline 0: only looks */
	REQUIRE_EQ(skep_abort(session, &frame, 1), 0);
	REQUIRE(frame.bytes == NULL);
	wait.deadline_ns = skep_deadline_ms(5000);
	status = skep_wait(session, &wait);
	REQUIRE(status == SKEP_EGIVENUP || status == -ENOENT);
	REQUIRE_EQ(skep_reserve(session, &reserve, &frame), 1);
	REQUIRE_EQ(frame.status, 0);
	REQUIRE_EQ(skep_abort(session, &frame, 1), 0);
}

static void chain_without_its_head_is_refused(void)
{
	struct skep_chain *chain = unit_chain(space, 10, 300);
	struct skep_frame frames[10];
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
		.chain = chain,
		.first = 7,
		.count = 3,
		.deadline_ns = SKEP_FOREVER};

	REQUIRE_EQ(skep_reserve(session, &reserve, frames), SKEP_EPARENT);
	REQUIRE_EQ(reserve.first_missing, 0);
	put(session, chain, 0, 4, 0, SKEP_SUMS_HERE);
	put(session, chain, 0, 4, 1, SKEP_SUMS_HERE);
	REQUIRE_EQ(skep_reserve(session, &reserve, frames), SKEP_EPARENT);
	REQUIRE_EQ(reserve.first_missing, 4);
	put(session, chain, 4, 6, 0, SKEP_SUMS_HERE);
	put(session, chain, 4, 6, 1, SKEP_SUMS_HERE);
	REQUIRE_EQ(hits(session, chain), 10);
}

static void space_of_keys_takes_any_length(void)
{
	struct skep_space *opaque = unit_space(session, SKEP_SPACE_OPAQUE);
	struct skep_chain *chain;
	struct skep_frame frame;
	struct skep_ref refs[BLOCKS];
	struct skep_reserve reserve = {
		.struct_bytes = sizeof(reserve), .count = 1, .deadline_ns = SKEP_FOREVER};
	struct skep_view view;
	struct skep_match match;
	uint8_t key[32] = {1};

	REQUIRE_EQ(skep_chain_create(opaque, &chain), 0);
	reserve.chain = chain;
	for (uint32_t i = 0; i < 10; i++) {
		key[0] = (uint8_t)i;
		REQUIRE_EQ(skep_chain_append_key(chain, key, 16 + i, NULL, 0), i + 1);
		reserve.first = i;
		reserve.length = 1 + i * 400;
		REQUIRE_EQ(skep_reserve(session, &reserve, &frame), 1);
		REQUIRE_EQ(frame.status, 0);
		REQUIRE_EQ(frame.length, reserve.length);
		frame_write(&frame);
		REQUIRE_EQ(skep_commit(session, &frame, 1, NULL), 1);
	}
	match = matched(session, chain, refs);
	REQUIRE_EQ(match.matched, 10);
	for (uint32_t i = 0; i < 10; i++) {
		uint8_t to[4096];
		struct iovec piece = {.iov_base = to, .iov_len = sizeof(to)};
		struct skep_copy copy = {.struct_bytes = sizeof(copy),
			.space = opaque,
			.ref = refs[i],
			.to = &piece,
			.to_count = 1};

		REQUIRE_EQ(skep_view(session, &refs[i], 0, &view), 0);
		REQUIRE_EQ(view.length, 1 + i * 400);
		bytes_check(chain, i, 0, view.bytes, view.length);
		REQUIRE_EQ(skep_copy(session, &copy), 1 + i * 400);
		/* A block of another space is refused, not read with the wrong layout. */
		copy.space = space;
		REQUIRE_EQ(skep_copy(session, &copy), -EINVAL);
	}
	skep_release(session, &match.pin);
	REQUIRE_EQ(skep_space_purge(opaque, skep_deadline_ms(2000)), 10);
	REQUIRE_EQ(hits(session, chain), 0);
	skep_chain_destroy(chain);
	skep_space_close(opaque);
}

static void wrong_bytes_are_a_miss_from_then_on(void)
{
	struct skep_chain *chain = unit_chain(space, 1, 400);
	static uint8_t to[LONG_BYTES];
	struct iovec piece = {.iov_base = to, .iov_len = sizeof(to)};
	struct skep_explanation why = {.struct_bytes = sizeof(why)};
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};
	struct skep_copy copy = {
		.struct_bytes = sizeof(copy), .space = space, .to = &piece, .to_count = 1};
	struct skep_ref refs[BLOCKS];
	struct skep_view view;
	struct skep_match match;
	uint64_t until;

	put(session, chain, 0, 1, 0, SKEP_SUMS_HERE);
	put(session, chain, 0, 1, 1, SKEP_SUMS_HERE);
	match = matched(session, chain, refs);
	REQUIRE_EQ(match.matched, 1);
	REQUIRE_EQ(skep_view(session, &refs[0], 0, &view), 0);
	((uint8_t *)(uintptr_t)view.bytes)[LONG_BYTES - 1] ^= 0x80;
	copy.ref = refs[0];
	REQUIRE_EQ(skep_copy(session, &copy), SKEP_ECHECKSUM);
	skep_release(session, &match.pin);
	until = clock_ns() + 5 * NS_PER_S;
	while (hits(session, chain)) { /* the keeper is told, not waited for */
		REQUIRE(clock_ns() < until);
		usleep(1000);
	}
	REQUIRE_EQ(skep_explain(session, chain, skep_deadline_ms(2000), &why), 0);
	REQUIRE_EQ(why.matched, 0);
	REQUIRE_TEXT(skep_reason_text(why.reason), "checksum");
	REQUIRE_EQ(skep_stats(session, skep_deadline_ms(2000), &stats), 0);
	REQUIRE_EQ(stats.checksum_failures, 1);
}

static void misses_are_explained(void)
{
	struct skep_chain *chain = unit_chain(space, 3, 500);
	struct skep_space *stranger = two_parts(session, "space");
	struct skep_explanation why = {.struct_bytes = sizeof(why)};

	REQUIRE_EQ(skep_explain(session, chain, skep_deadline_ms(2000), &why), 0);
	REQUIRE_TEXT(skep_reason_text(why.reason), "never_seen");
	put(session, chain, 0, 2, 0, SKEP_SUMS_HERE);
	REQUIRE_EQ(skep_explain(session, chain, skep_deadline_ms(2000), &why), 0);
	REQUIRE_TEXT(skep_reason_text(why.reason), "pending");
	put(session, chain, 0, 2, 1, SKEP_SUMS_HERE);
	REQUIRE_EQ(skep_explain(session, chain, skep_deadline_ms(2000), &why), 0);
	REQUIRE_EQ(why.matched, 2);
	REQUIRE_TEXT(skep_reason_text(why.reason), "never_seen");
	skep_chain_truncate(chain, 2);
	REQUIRE_EQ(skep_explain(session, chain, skep_deadline_ms(2000), &why), 0);
	REQUIRE_TEXT(skep_reason_text(why.reason), "none");
	skep_space_close(stranger);
}

/* A space whose version was stepped holds nothing of the old one; chains go on. */
static void stepped_space_begins_anew(void)
{
	struct skep *other = unit_open(WHERE, 0);
	struct skep_space *stepped = two_parts(session, "stepped"),
			  *seen = two_parts(other, "stepped");
	struct skep_chain *chain = unit_chain(stepped, 3, 600), *its = unit_chain(seen, 3, 600);
	struct skep_ref refs[BLOCKS];
	struct skep_match match;

	put(session, chain, 0, 3, 0, SKEP_SUMS_HERE);
	put(session, chain, 0, 3, 1, SKEP_SUMS_HERE);
	match = matched(other, its, refs);
	REQUIRE_EQ(match.matched, 3);
	skep_release(other, &match.pin);
	REQUIRE_EQ(skep_space_step(stepped, skep_deadline_ms(2000)), 2);
	REQUIRE_EQ(hits(session, chain), 0);
	REQUIRE_EQ(hits(other, its), 0);
	put(session, chain, 0, 3, 0, SKEP_SUMS_HERE);
	put(other, its, 0, 3, 1, SKEP_SUMS_HERE);
	match = matched(session, chain, refs);
	REQUIRE_EQ(match.matched, 3);
	refs_check(session, stepped, chain, refs, 3);
	skep_release(session, &match.pin);
	match = matched(other, its, refs);
	REQUIRE_EQ(match.matched, 3);
	skep_release(other, &match.pin);
	skep_close(other);
}

/* References of one session, pinned by another, hold while blocks are evicted around them. */
static void references_hold_under_eviction(void)
{
	struct skep *other = unit_open(WHERE, SKEP_OPEN_READONLY);
	struct skep_space *other_space = two_parts(other, "space");
	struct skep_chain *chain = unit_chain(space, 8, 700);
	struct skep_ref refs[BLOCKS];
	struct skep_match match;
	struct skep_pin pin;
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};

	put(session, chain, 0, 8, 0, SKEP_SUMS_HERE);
	put(session, chain, 0, 8, 1, SKEP_SUMS_HERE);
	match = matched(session, chain, refs);
	REQUIRE_EQ(match.matched, 8);
	REQUIRE_EQ(skep_pin_refs(other, refs, 8, &pin), 8);
	skep_release(session, &match.pin);
	for (uint64_t i = 0; i < 30; i++) {
		struct skep_chain *fill = unit_chain(space, BLOCKS, 800 + i);

		put(session, fill, 0, BLOCKS, 0, SKEP_SUMS_HERE);
		put(session, fill, 0, BLOCKS, 1, SKEP_SUMS_HERE);
		skep_chain_destroy(fill);
	}
	REQUIRE_EQ(skep_stats(session, skep_deadline_ms(2000), &stats), 0);
	REQUIRE(stats.evicted > 100 && stats.pins == 1);
	refs_check(other, other_space, chain, refs, 8);
	skep_release(other, &pin);
	for (uint64_t i = 0; i < 30; i++) {
		struct skep_chain *fill = unit_chain(space, BLOCKS, 900 + i);

		put(session, fill, 0, BLOCKS, 0, SKEP_SUMS_HERE);
		put(session, fill, 0, BLOCKS, 1, SKEP_SUMS_HERE);
		skep_chain_destroy(fill);
	}
	REQUIRE(skep_pin_refs(other, refs, 8, &pin) < 8);
	skep_release(other, &pin);
	skep_close(other);
}

/* What a session reserved and pinned is free when it is closed. */
static void closed_session_leaves_nothing(void)
{
	struct skep *other = unit_open(WHERE, 0);
	struct skep_chain *chain = unit_chain(two_parts(other, "space"), 4, 1000);
	struct skep_frame frames[4];
	struct skep_ref refs[BLOCKS];
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
		.chain = chain,
		.count = 4,
		.deadline_ns = SKEP_FOREVER};
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};
	uint64_t until = clock_ns() + 5 * NS_PER_S;

	put(other, chain, 0, 2, 0, SKEP_SUMS_HERE);
	put(other, chain, 0, 2, 1, SKEP_SUMS_HERE);
	REQUIRE_EQ(matched(other, chain, refs).matched, 2);
	REQUIRE_EQ(skep_reserve(other, &reserve, frames), 4);
	REQUIRE_EQ(frames[3].status, 0);
	skep_close(other);
	do {
		REQUIRE(clock_ns() < until);
		usleep(5000);
		REQUIRE_EQ(skep_stats(session, skep_deadline_ms(2000), &stats), 0);
	} while (stats.blocks_pending || stats.pins || stats.sessions > 1);
}

int main(int argc, char **argv)
{
	unit_seed(argc, argv);
	session = unit_open(WHERE, 0);
	space = two_parts(session, "space");
	put_is_had();
	ranges_are_copied_alone();
	sums_are_told();
	second_writer_is_told();
	aborted_block_is_given_up();
	chain_without_its_head_is_refused();
	space_of_keys_takes_any_length();
	wrong_bytes_are_a_miss_from_then_on();
	misses_are_explained();
	stepped_space_begins_anew();
	references_hold_under_eviction();
	closed_session_leaves_nothing();
	skep_close(session);
	return 0;
}
