/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/prefix/prefix.h"

#include <errno.h>
#include <skep/skep_hbm.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/memory.h"
#include "tiering/hbm/hbm.h"

enum {
	BATCH = 64,	     /* frames of a reservation */
	ASK_BATCH = 16,	     /* asks served in one step … */
	SAVE_NS = 100000000, /* … and how long each of them may wait for a frame */
	PAGES_AT_ONCE = 8,   /* given back where one is wanted: each time waits for the stream */
};

struct prefix {
	struct prefix_options options;
	struct hbm_tier *tier;
	struct skep_hbm *hbm;
	struct skep_chain *chain;  /* of the call under way */
	struct skep_chain *saving; /* of a block that is put meanwhile */
	uint32_t block_tokens, blocks_max;
	uint64_t block_bytes;
	uint32_t *tokens;     /* of each block of the tier, block_tokens */
	uint64_t deadline_ns; /* of the reclaim under way */
	/* The end of what a call is about: neither it nor what is above it leaves meanwhile. */
	uint32_t guarded;
	bool failed; /* the stream did, at some wait of the call under way */
	/* Room for the longest sequence: */
	uint32_t *pages, *numbers, *path;
	struct skep_hbm_block *blocks;
	struct skep_ref *refs;
	struct prefix_status status;
};

static uint32_t *tokens_of(const struct prefix *prefix, uint32_t number)
{
	return prefix->tokens + (size_t)number * prefix->block_tokens;
}

/* Who waits first is told what went wrong; who comes later looks at @failed. */
static int stream_wait(struct prefix *prefix)
{
	int status = gpu_stream_sync(prefix->options.stream);

	prefix->failed |= status < 0;
	return status;
}

/* ---------------------------------------------------------------------------------- putting */

/* The numbers of a block and all above it, from the root on. Return: how many. */
static uint32_t path_of(const struct prefix *prefix, uint32_t number, uint32_t *path)
{
	uint32_t depth = 0;

	for (uint32_t at = number; at != HBM_NONE; at = hbm_tier_parent(prefix->tier, at))
		depth++;
	for (uint32_t at = number, i = depth; i > 0; at = hbm_tier_parent(prefix->tier, at))
		path[--i] = at;
	return depth;
}

/* Copies the frames that were got out of their pages and commits them. Return: blocks, or negative:
 * they were given back. */
static int frames_fill(struct prefix *prefix, const uint32_t *path, struct skep_frame *frames,
	uint32_t count, uint64_t deadline_ns)
{
	struct skep_commit commit = {
		.struct_bytes = sizeof(commit), .sums = SKEP_SUMS_HERE, .deadline_ns = deadline_ns};
	int status = 0;

	for (uint32_t i = 0; i < count && !status; i++) {
		uint32_t page = hbm_tier_page(prefix->tier, path[frames[i].block]);

		if (frames[i].status)
			continue;
		if (frames[i].length != prefix->block_bytes)
			status = -EINVAL;
		else
			status = gpu_copy_out(prefix->options.stream, frames[i].bytes,
				arena_page_at(prefix->options.arena, page), prefix->block_bytes);
	}
	/* Before frames are given back too: a copy may be on its way into them. */
	if (stream_wait(prefix) < 0 && !status)
		status = -EIO;
	if (!status)
		status = skep_commit(prefix->options.session, frames, count, &commit);
	if (status < 0)
		(void)skep_abort(prefix->options.session, frames, count);
	return status;
}

/* Puts a block and what the store lacks above it. Return: true: it is there, or being put. */
static bool block_save(struct prefix *prefix, uint32_t number, uint64_t deadline_ns)
{
	uint32_t *numbers = prefix->path, depth = path_of(prefix, number, numbers);
	struct skep_frame frames[BATCH];
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve),
		.chain = prefix->saving,
		.deadline_ns = deadline_ns};
	bool there = false;

	skep_chain_truncate(prefix->saving, 0);
	for (uint32_t i = 0; i < depth; i++)
		if (skep_chain_append(prefix->saving, tokens_of(prefix, numbers[i]),
			    prefix->block_tokens) < 0)
			return false;
	while (reserve.first < depth) {
		int count;

		reserve.count = MIN_OF(depth - reserve.first, (uint32_t)BATCH);
		count = skep_reserve(prefix->options.session, &reserve, frames);
		if (count <= 0 ||
			frames_fill(prefix, numbers, frames, (uint32_t)count, deadline_ns) < 0)
			return false;
		for (int i = 0; i < count; i++)
			there = !frames[i].status || frames[i].status == -EEXIST ||
				frames[i].status == SKEP_EPENDING;
		reserve.first += (uint32_t)count;
	}
	return there;
}

/* ----------------------------------------------------------------------- what the tier asks */

static bool owner_leaves_room(void *arg, uint32_t number)
{
	const struct prefix *prefix = arg;

	return number != prefix->guarded &&
	       arena_page_holders(prefix->options.arena, hbm_tier_page(prefix->tier, number)) == 1;
}

/* The deepest ones first, and with each all above it. */
static void owner_demote(void *arg, const uint32_t *numbers, uint32_t count)
{
	struct prefix *prefix = arg;
	bool saved = false;

	for (uint32_t i = 0; i < count; i++) {
		if (!saved || hbm_tier_parent(prefix->tier, numbers[i - 1]) != numbers[i])
			saved = block_save(prefix, numbers[i], prefix->deadline_ns);
		prefix->status.demoted += saved;
		prefix->status.lost += !saved;
	}
}

static void owner_left(void *arg, uint32_t number)
{
	struct prefix *prefix = arg;
	struct hbm_label label = hbm_tier_label(prefix->tier, number);
	struct skep_hbm_block block = {.slot = label.slot, .generation = label.generation};
	uint32_t page = hbm_tier_page(prefix->tier, number);

	if (label.generation)
		(void)skep_hbm_withdraw(prefix->hbm, &block, 1);
	/* What was submitted before prefix_reclaim() is done, and no sequence has it. */
	arena_release(prefix->options.arena, &page, 1, 0);
}

uint32_t prefix_reclaim(struct prefix *prefix, uint32_t pages, uint64_t deadline_ns)
{
	prefix->deadline_ns = deadline_ns;
	/* A sequence that ended may have work under way that reads its pages. */
	if (stream_wait(prefix) < 0)
		return 0;
	return hbm_tier_reclaim(prefix->tier, pages);
}

/* ----------------------------------------------------------------------------------- finding */

/* Whole blocks of the prompt as the chain. Return: how many, or negative. */
static int chain_set(struct prefix *prefix, const struct prefix_tokens *prompt)
{
	uint32_t most = arena_geometry(prefix->options.arena)->range_pages;
	uint32_t blocks = MIN_OF(prompt->count / prefix->block_tokens, most);
	int status;

	skep_chain_truncate(prefix->chain, 0);
	status = skep_chain_append(
		prefix->chain, prompt->tokens, (size_t)blocks * prefix->block_tokens);
	return status < 0 ? status : (int)blocks;
}

/* Leading blocks that are here; their numbers in @prefix->numbers. */
static uint32_t here_find(struct prefix *prefix)
{
	uint32_t most = arena_geometry(prefix->options.arena)->range_pages, count = 0;
	struct skep_hbm_match match = {.struct_bytes = sizeof(match),
		.chain = prefix->chain,
		.blocks_max = most,
		.blocks = prefix->blocks};

	if (skep_hbm_match(prefix->hbm, &match) < 0)
		return 0;
	for (; count < MIN_OF(match.matched, most); count++) {
		const struct skep_hbm_block *block = &prefix->blocks[count];
		struct hbm_label label = {.generation = block->generation, .slot = block->slot};

		if (!hbm_tier_is(prefix->tier, (uint32_t)block->user, label))
			break;
		prefix->numbers[count] = (uint32_t)block->user;
	}
	if (count)
		hbm_tier_touch(prefix->tier, prefix->numbers[count - 1]);
	prefix->guarded = count ? prefix->numbers[count - 1] : HBM_NONE;
	return count;
}

/* ----------------------------------------------------------------------------------- keeping */

/* Announces blocks [first, first + count) of the chain, which the tier has. What is not announced
 * leaves again. Return: how many are, or negative where none is. */
static int numbers_announce(
	struct prefix *prefix, uint32_t first, uint32_t count, uint64_t deadline_ns)
{
	struct skep_hbm_announce announce = {.struct_bytes = sizeof(announce),
		.chain = prefix->chain,
		.first = first,
		.count = count,
		.blocks = prefix->blocks,
		.deadline_ns = deadline_ns};
	int got;

	for (uint32_t i = 0; i < count; i++)
		prefix->blocks[i] = (struct skep_hbm_block){.user = prefix->numbers[first + i]};
	got = count ? skep_hbm_announce(prefix->hbm, &announce) : 0;
	for (int i = 0; i < got; i++)
		hbm_tier_label_set(prefix->tier, prefix->numbers[first + (uint32_t)i],
			(struct hbm_label){.generation = prefix->blocks[i].generation,
				.slot = prefix->blocks[i].slot});
	prefix->guarded = HBM_NONE;
	for (uint32_t i = count; i-- > (uint32_t)MAX_OF(got, 0);)
		hbm_tier_remove(prefix->tier, prefix->numbers[first + i]);
	return got;
}

/* Adds block @at of the chain, which lies in @page, a reference of ours. */
static int number_add(
	struct prefix *prefix, const struct prefix_tokens *prompt, uint32_t at, uint32_t page)
{
	int64_t number = hbm_tier_add(prefix->tier, at ? prefix->numbers[at - 1] : HBM_NONE, page);

	if (number < 0)
		return (int)number;
	memcpy(tokens_of(prefix, (uint32_t)number),
		prompt->tokens + (size_t)at * prefix->block_tokens,
		prefix->block_tokens * sizeof(*prompt->tokens));
	prefix->numbers[at] = prefix->guarded = (uint32_t)number;
	return 0;
}

int prefix_keep(struct prefix *prefix, struct arena_sequence *sequence,
	const struct prefix_tokens *prompt, uint64_t deadline_ns)
{
	int blocks = chain_set(prefix, prompt), got;
	uint32_t here, at, room;

	if (blocks < 0)
		return blocks;
	if (arena_tokens(sequence) < (uint32_t)blocks * prefix->block_tokens)
		return -EINVAL;
	here = here_find(prefix);
	room = prefix->blocks_max - hbm_tier_blocks(prefix->tier);
	if ((uint32_t)blocks - here > room)
		(void)prefix_reclaim(prefix, (uint32_t)blocks - here - room, deadline_ns);
	for (at = here; at < (uint32_t)blocks; at++) {
		uint32_t page;
		int status = arena_hold(sequence, at, 1, &page);

		if (!status)
			status = number_add(prefix, prompt, at, page);
		if (status == -ENOSPC)
			arena_release(prefix->options.arena, &page, 1, 0);
		if (status)
			break;
	}
	got = numbers_announce(prefix, here, at - here, deadline_ns);
	prefix->status.kept += (uint32_t)MAX_OF(got, 0);
	return got;
}

/* --------------------------------------------------------------------------------- attaching */

/* One page for bytes out of the store. Return: 0, or negative: none can be had. */
static int page_get(struct prefix *prefix, uint64_t deadline_ns, uint32_t *page)
{
	int status = arena_take(prefix->options.arena, page);

	if ((status == -ENOMEM || status == -EAGAIN) &&
		prefix_reclaim(prefix, PAGES_AT_ONCE, deadline_ns))
		status = arena_take(prefix->options.arena, page);
	return status;
}

/* Copies what the load brought into pages of the tier. Return: blocks. */
static uint32_t run_promote(struct prefix *prefix, const struct prefix_tokens *prompt,
	uint32_t here, uint32_t count, uint64_t deadline_ns)
{
	struct skep *session = prefix->options.session;
	uint32_t got = 0;

	for (; got < count; got++) {
		struct skep_view view;
		uint32_t page;
		int status = skep_view(session, &prefix->refs[got], 0, &view);

		if (status || view.length != prefix->block_bytes ||
			page_get(prefix, deadline_ns, &page))
			break;
		status = gpu_copy_in(prefix->options.stream,
			arena_page_at(prefix->options.arena, page), view.bytes,
			prefix->block_bytes);
		if (!status)
			status = number_add(prefix, prompt, here + got, page);
		if (status) {
			(void)stream_wait(prefix);
			arena_release(prefix->options.arena, &page, 1, 0);
			break;
		}
	}
	return got;
}

/* Blocks [here, …) of the chain that the store has, into pages of ours. Return: blocks. */
static uint32_t store_fetch(struct prefix *prefix, const struct prefix_tokens *prompt,
	uint32_t here, uint32_t count, uint64_t deadline_ns)
{
	struct skep *session = prefix->options.session;
	struct skep_match match = {.struct_bytes = sizeof(match),
		.chain = prefix->chain,
		.first = here,
		.count = count,
		.flags = SKEP_MATCH_PIN,
		.refs = prefix->refs,
		.refs_max = count};
	struct skep_load load = {.struct_bytes = sizeof(load),
		.chain = prefix->chain,
		.first = here,
		.count = count,
		.refs = prefix->refs,
		.refs_max = count,
		.deadline_ns = deadline_ns};
	uint32_t got;
	int announced;

	prefix->failed = false;
	if (skep_match(session, &match, 1) < 0)
		return 0;
	load.loaded = match.matched;
	load.pin = match.pin;
	if (match.stored > match.matched) {
		skep_release(session, &match.pin);
		load.loaded = 0;
		if (skep_load(session, &load) < 0)
			return 0;
	}
	got = run_promote(prefix, prompt, here, load.loaded, deadline_ns);
	/* The pool's bytes are read until the copies are done. */
	if (stream_wait(prefix) < 0 || prefix->failed) {
		prefix->guarded = HBM_NONE;
		while (got > 0)
			hbm_tier_remove(prefix->tier, prefix->numbers[here + --got]);
	}
	skep_release(session, &load.pin);
	announced = numbers_announce(prefix, here, got, deadline_ns);
	got = (uint32_t)MAX_OF(announced, 0);
	prefix->status.promoted += got;
	return got;
}

int64_t prefix_attach(struct prefix *prefix, struct arena_sequence *sequence,
	const struct prefix_tokens *prompt, uint64_t deadline_ns)
{
	int blocks = chain_set(prefix, prompt), status;
	uint32_t count;

	if (blocks < 0)
		return blocks;
	count = here_find(prefix);
	if (count < (uint32_t)blocks)
		count += store_fetch(prefix, prompt, count, (uint32_t)blocks - count, deadline_ns);
	prefix->guarded = HBM_NONE;
	if (!count)
		return 0;
	for (uint32_t i = 0; i < count; i++)
		prefix->pages[i] = hbm_tier_page(prefix->tier, prefix->numbers[i]);
	status = arena_attach(sequence, prefix->pages, count, count * prefix->block_tokens);
	if (status < 0)
		return status;
	prefix->status.attached += count;
	return (int64_t)count * prefix->block_tokens;
}

/* ------------------------------------------------------------------------------------- asks */

int prefix_step(struct prefix *prefix)
{
	struct skep_hbm_block asked[ASK_BATCH];
	int count = skep_hbm_asks(prefix->hbm, asked, ASK_BATCH), put = 0;

	for (int i = 0; i < count; i++) {
		struct hbm_label label = {.generation = asked[i].generation, .slot = asked[i].slot};
		uint64_t until = MIN_OF(asked[i].deadline_ns, clock_after(clock_ns(), SAVE_NS));

		if (hbm_tier_is(prefix->tier, (uint32_t)asked[i].user, label) &&
			block_save(prefix, (uint32_t)asked[i].user, until))
			put++;
		else
			(void)skep_hbm_decline(prefix->hbm, &asked[i], 1);
	}
	prefix->status.asked += (uint32_t)MAX_OF(count, 0);
	return count < 0 ? count : put;
}

void prefix_status_get(const struct prefix *prefix, struct prefix_status *out)
{
	*out = prefix->status;
	out->blocks = hbm_tier_blocks(prefix->tier);
}

/* ----------------------------------------------------------------------------- create, destroy */

static int arrays_create(struct prefix *prefix)
{
	uint32_t most = arena_geometry(prefix->options.arena)->range_pages;
	/* A path is as long as the tier is deep at the most. */
	uint32_t depth = MAX_OF(most, prefix->blocks_max);

	prefix->tokens = memory_calloc(
		(size_t)prefix->blocks_max * prefix->block_tokens, sizeof(*prefix->tokens));
	prefix->pages = memory_calloc(most, sizeof(*prefix->pages));
	prefix->numbers = memory_calloc(most, sizeof(*prefix->numbers));
	prefix->path = memory_calloc(depth, sizeof(*prefix->path));
	prefix->blocks = memory_calloc(most, sizeof(*prefix->blocks));
	prefix->refs = memory_calloc(most, sizeof(*prefix->refs));
	return prefix->tokens && prefix->pages && prefix->numbers && prefix->path &&
			       prefix->blocks && prefix->refs
		       ? 0
		       : -ENOMEM;
}

int prefix_create(const struct prefix_options *options, struct prefix **out)
{
	const struct arena_geometry *geometry = arena_geometry(options->arena);
	struct skep_hbm_options announcing = {
		.struct_bytes = sizeof(announcing), .blocks_max = options->blocks_max};
	struct hbm_options keeping = {.blocks_max = options->blocks_max,
		.owner = {.leaves_room = owner_leaves_room,
			.demote = owner_demote,
			.left = owner_left}};
	struct prefix *prefix;
	int status;

	if (geometry->page_blocks != 1)
		return -EINVAL;
	prefix = memory_zalloc(sizeof(*prefix));
	if (!prefix)
		return -ENOMEM;
	prefix->options = *options;
	prefix->blocks_max = options->blocks_max;
	prefix->block_tokens = geometry->block_tokens;
	prefix->block_bytes = geometry->block_bytes;
	prefix->guarded = HBM_NONE;
	keeping.owner.arg = prefix;
	status = arrays_create(prefix);
	if (!status)
		status = hbm_tier_create(&keeping, &prefix->tier);
	if (!status)
		status = skep_chain_create(options->space, &prefix->chain);
	if (!status)
		status = skep_chain_create(options->space, &prefix->saving);
	if (!status)
		status = skep_hbm_create(options->session, &announcing, &prefix->hbm);
	if (status < 0) {
		prefix_destroy(prefix);
		return status;
	}
	*out = prefix;
	return 0;
}

void prefix_destroy(struct prefix *prefix)
{
	if (!prefix)
		return;
	if (prefix->tier && hbm_tier_blocks(prefix->tier))
		gpu_stream_sync(prefix->options.stream);
	hbm_tier_destroy(prefix->tier);
	skep_hbm_destroy(prefix->hbm);
	skep_chain_destroy(prefix->saving);
	skep_chain_destroy(prefix->chain);
	memory_free(prefix->tokens);
	memory_free(prefix->pages);
	memory_free(prefix->numbers);
	memory_free(prefix->path);
	memory_free(prefix->blocks);
	memory_free(prefix->refs);
	memory_free(prefix);
}
