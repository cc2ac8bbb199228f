/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/node/user.h"

#include <errno.h>

enum { CALL_MS = 1000 };

/* ------------------------------------------------------------------------------ opening, names */

int user_try(struct user *user, const char *socket, const struct shape *shape,
	const struct user_who *who)
{
	struct skep_open_options open = {.struct_bytes = sizeof(open)};
	struct skep_part_layout parts[SKEP_PARTS_MAX] = {0};
	struct skep_space_options space = {.struct_bytes = sizeof(space),
		.name = shape->space,
		.model = "storyteller",
		.block_tokens = shape->block_tokens,
		.ranks = shape->parts,
		.part_count = shape->parts,
		.parts = parts};
	int status;

	if (who) {
		open.realm = who->realm;
		open.token = who->token;
		open.name = who->name;
		open.flags = who->flags;
	}
	for (uint32_t i = 0; i < shape->parts; i++) {
		parts[i].bytes = shape->part_bytes;
		parts[i].ranges = shape->ranges;
		parts[i].rank = (uint16_t)i;
	}
	*user = (struct user){.shape = *shape};
	status = skep_open(socket, &open, &user->session);
	if (status < 0)
		return status;
	status = skep_space_open(user->session, &space, &user->space);
	if (status < 0) {
		skep_close(user->session);
		user->session = NULL;
	}
	return status;
}

void user_open(struct user *user, const char *socket, const struct shape *shape)
{
	REQUIRE_EQ(user_try(user, socket, shape, NULL), 0);
}

void user_close(struct user *user)
{
	skep_space_close(user->space);
	skep_close(user->session);
	*user = (struct user){0};
}

/* What a block is about: the same for all of a family at its beginning. */
static uint64_t block_topic(uint64_t number, uint32_t block)
{
	bool shared = block < USER_SHARED_BLOCKS;

	return mix64((shared ? number / USER_FAMILY : number) * 1024 + block * 2 + shared);
}

struct story story_open(struct user *user, uint64_t number, uint32_t blocks)
{
	struct story story = {.number = number, .blocks = blocks};
	uint32_t count = user->shape.block_tokens;
	uint32_t tokens[512];

	REQUIRE(count <= ARRAY_COUNT(tokens) && blocks <= USER_BLOCKS_MAX);
	REQUIRE_EQ(skep_chain_create(user->space, &story.chain), 0);
	for (uint32_t i = 0; i < blocks; i++) {
		for (uint32_t t = 0; t < count; t++)
			tokens[t] = (uint32_t)mix64(block_topic(number, i) + t);
		REQUIRE_EQ(skep_chain_append(story.chain, tokens, count), i + 1);
	}
	return story;
}

void story_close(struct story *story)
{
	skep_chain_destroy(story->chain);
	story->chain = NULL;
}

struct payload story_payload(const struct story *story, uint32_t block, uint32_t part)
{
	uint64_t identity[2] = {block_topic(story->number, block), block};

	return payload_of(identity, part);
}

void view_check(const struct story *story, struct skep_view view, uint32_t block, uint32_t part)
{
	struct payload_range range = {.bytes = view.length};
	size_t wrong = payload_check(story_payload(story, block, part), range, view.bytes);

	if (wrong == PAYLOAD_RIGHT)
		return;
	fprintf(stderr, "WRONG BYTES: story %llu block %u part %u from byte %zu on\n",
		(unsigned long long)story->number, block, part, wrong);
	exit(1);
}

/* -------------------------------------------------------------------------------------- putting */

void frame_fill(const struct story *story, const struct skep_frame *frame)
{
	payload_fill(story_payload(story, frame->block, frame->part),
		(struct payload_range){.bytes = frame->length}, frame->bytes);
}

static int frames_commit(struct user *user, const struct putting *what, struct skep_frame *frames,
	unsigned count, struct put_result *result)
{
	struct skep_commit commit = {.struct_bytes = sizeof(commit),
		.sums = what->sums,
		.deadline_ns = what->deadline_ns};
	bool mine[USER_BLOCKS_MAX];
	int status;

	for (unsigned i = 0; i < count; i++) {
		mine[i] = frames[i].status == 0;
		result->existed += frames[i].status == -EEXIST;
		result->pending += frames[i].status == SKEP_EPENDING;
	}
	status = skep_commit(user->session, frames, count, &commit);
	for (unsigned i = 0; i < count; i++) {
		result->committed += mine[i] && frames[i].status == 0;
		result->stale += mine[i] && frames[i].status != 0;
	}
	return status;
}

struct put_result story_put(
	struct user *user, const struct story *story, const struct putting *what)
{
	struct put_result result = {0};
	struct skep_frame frames[USER_BLOCKS_MAX];
	uint32_t done = 0;

	while (done < what->count) {
		struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
			.chain = story->chain,
			.first = what->first + done,
			.count = what->count - done,
			.part = what->part,
			.deadline_ns = what->deadline_ns};
		int answered = skep_reserve(user->session, &reserve, frames);

		if (answered < 0) {
			result.status = answered;
			result.first_missing = reserve.first_missing;
			return result;
		}
		REQUIRE(answered > 0 && (uint32_t)answered <= reserve.count);
		for (int i = 0; i < answered; i++)
			if (frames[i].status == 0)
				frame_fill(story, &frames[i]);
		result.status = frames_commit(user, what, frames, (unsigned)answered, &result);
		if (result.status < 0)
			return result;
		done += (uint32_t)answered;
	}
	result.status = 0;
	return result;
}

void story_put_all(struct user *user, const struct story *story)
{
	for (uint32_t part = 0; part < user->shape.parts; part++) {
		struct putting what = {.count = story->blocks,
			.part = part,
			.deadline_ns = skep_deadline_ms(CALL_MS * harness_slower())};
		struct put_result result = story_put(user, story, &what);

		REQUIRE_EQ(result.status, 0);
		REQUIRE_EQ(result.committed + result.existed, story->blocks);
	}
}

/* -------------------------------------------------------------------------------------- getting */

struct skep_match story_match(
	struct user *user, const struct story *story, uint32_t flags, struct skep_ref *refs)
{
	struct skep_match match = {.struct_bytes = sizeof(match),
		.chain = story->chain,
		.flags = flags,
		.refs = refs,
		.refs_max = refs ? story->blocks : 0};

	REQUIRE_EQ(skep_match(user->session, &match, 1), 0);
	REQUIRE(match.matched <= story->blocks);
	REQUIRE(flags == SKEP_MATCH_PIN || !match.pin.cell);
	return match;
}

void story_check(struct user *user, const struct story *story, const struct skep_ref *refs,
	uint32_t first, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		for (uint32_t part = 0; part < user->shape.parts; part++) {
			struct skep_view view;

			REQUIRE_EQ(skep_view(user->session, &refs[i], part, &view), 0);
			REQUIRE_EQ(view.length, user->shape.part_bytes);
			view_check(story, view, first + i, part);
		}
	}
}

int64_t story_copy(struct user *user, const struct story *story, const struct skep_ref *ref,
	uint32_t block, uint32_t part)
{
	static _Alignas(64) uint8_t room[1 << 20];
	struct iovec to = {.iov_base = room, .iov_len = user->shape.part_bytes};
	struct skep_copy copy = {.struct_bytes = sizeof(copy),
		.space = user->space,
		.ref = *ref,
		.part = part,
		.to = &to,
		.to_count = 1};
	int64_t copied;

	REQUIRE(to.iov_len <= sizeof(room));
	copied = skep_copy(user->session, &copy);
	if (copied < 0)
		return copied;
	REQUIRE_EQ(copied, to.iov_len);
	view_check(story, (struct skep_view){.bytes = room, .length = to.iov_len}, block, part);
	return copied;
}

uint32_t story_get(struct user *user, const struct story *story)
{
	struct skep_ref refs[USER_BLOCKS_MAX];
	struct skep_match match = story_match(user, story, SKEP_MATCH_PIN, refs);

	story_check(user, story, refs, 0, match.matched);
	skep_release(user->session, &match.pin);
	return match.matched;
}

uint32_t story_load(struct user *user, const struct story *story)
{
	struct skep_ref refs[USER_BLOCKS_MAX];
	struct skep_match match = story_match(user, story, SKEP_MATCH_PIN, refs);
	struct skep_load load = {.struct_bytes = sizeof(load),
		.chain = story->chain,
		.first = match.matched,
		.count = match.stored - match.matched,
		.refs = refs + match.matched,
		.refs_max = match.stored - match.matched,
		.deadline_ns = skep_deadline_ms(10 * CALL_MS * harness_slower())};
	uint32_t had = match.matched;

	REQUIRE(match.stored >= match.matched && match.stored <= story->blocks);
	if (match.stored > match.matched) {
		REQUIRE_EQ(skep_load(user->session, &load), 0);
		REQUIRE(load.loaded <= match.stored - match.matched);
		had += load.loaded;
	}
	story_check(user, story, refs, 0, had);
	skep_release(user->session, &load.pin);
	skep_release(user->session, &match.pin);
	return had;
}

/* ------------------------------------------------------------------------------------- counters */

struct skep_stats user_stats(struct user *user)
{
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};

	REQUIRE_EQ(
		skep_stats(user->session, skep_deadline_ms(CALL_MS * harness_slower()), &stats), 0);
	return stats;
}

void user_wait_idle(struct user *user)
{
	uint64_t until = clock_ns() + NS_PER_S * harness_slower();
	struct skep_stats stats = user_stats(user);

	while (stats.pins || stats.blocks_pending) {
		if (clock_ns() > until) {
			fprintf(stderr, "after a second: %llu pins, %llu pending\n",
				(unsigned long long)stats.pins,
				(unsigned long long)stats.blocks_pending);
			exit(1);
		}
		usleep(1000);
		stats = user_stats(user);
	}
}
