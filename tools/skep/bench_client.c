/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/bench_client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/include/skep/skep.h"

/* A chain that is put has at most so many blocks of so many tokens. */
enum { CHAIN_BLOCKS = 256, BLOCK_TOKENS = 16, KEY_BYTES = 32 };

#define PUT_WAIT_MS 10000
#define GIB	    (double)(1ull << 30)

/* What a client works with; its own thread's. */
struct work {
	struct local_client *client;
	struct local_run *run;
	struct skep *session;
	struct skep_space *keys;     /* blocks named by keys, each a chain of its own */
	struct skep_space *prompts;  /* blocks named by tokens */
	struct skep_chain *key;	     /* a block of the first */
	struct skep_chain **chains;  /* of the second: the share, this round's */
	struct skep_ref *refs;	     /* of the share */
	unsigned char **frames;	     /* of the share, where it was put */
	struct skep_frame *reserved; /* of one batch */
	uint64_t *sums;		     /* of one batch */
	uint64_t round;
};

static uint64_t block_bytes(const struct work *work)
{
	return work->run->options->block_bytes;
}

/* Block @i of the share, in source and destination. */
static size_t block_at(const struct work *work, uint64_t i)
{
	return (work->client->index * work->run->share + i) * block_bytes(work);
}

/* ------------------------------------------------------------------------------------ barriers */

/*
 * Waits until all clients have come this far. Return: 0, or what ended the first of them that
 * failed: then all of them end here. (The second barrier: nobody may fail at the next step before
 * all have read that nobody failed at this one.)
 */
static int together(struct work *work, int status)
{
	int none = 0;

	if (!status && bench_interrupted())
		status = -EINTR;
	if (status < 0)
		atomic_compare_exchange_strong(&work->run->failure, &none, status);
	pthread_barrier_wait(&work->run->barrier);
	status = atomic_load(&work->run->failure);
	pthread_barrier_wait(&work->run->barrier);
	return status;
}

/* ---------------------------------------------------------------------------------------- put */

/* Fills frames from block @at of the share on, and commits them. */
static int frames_fill(struct work *work, uint64_t at, unsigned count)
{
	struct skep_commit commit = {
		.struct_bytes = sizeof(commit),
		.sums = SKEP_SUMS_GIVEN,
		.given = work->sums,
		.deadline_ns = skep_deadline_ms(PUT_WAIT_MS),
	};
	int status;

	for (unsigned i = 0; i < count; i++) {
		struct skep_frame *frame = &work->reserved[i];

		/* Names are fresh and this client's own. */
		if (frame->status)
			return frame->status;
		work->frames[at + i] = frame->bytes;
		work->sums[i] = skep_copy_sum(
			frame->bytes, work->run->source + block_at(work, at + i), frame->length);
	}
	status = skep_commit(work->session, work->reserved, count, &commit);
	if (status < 0)
		return status;
	return (unsigned)status == count ? 0 : -EIO;
}

/* Puts all blocks of a chain, which are those from @at on in the share. */
static int chain_put(struct work *work, struct skep_chain *chain, uint64_t at)
{
	uint32_t blocks = skep_chain_blocks(chain), first = 0;

	while (first < blocks) {
		struct skep_reserve reserve = {
			.struct_bytes = sizeof(reserve),
			.chain = chain,
			.first = first,
			.count = MIN_OF(work->run->batch, blocks - first),
			.deadline_ns = skep_deadline_ms(PUT_WAIT_MS),
		};
		int answered = skep_reserve(work->session, &reserve, work->reserved);
		int status;

		if (answered < 0)
			return answered;
		SKEP_CHECK(answered > 0 && (uint32_t)answered <= reserve.count);
		status = frames_fill(work, at + first, (unsigned)answered);
		if (status)
			return status;
		first += (uint32_t)answered;
	}
	return 0;
}

/* ---------------------------------------------------------------------------------------- get */

static int key_set(struct work *work, uint64_t i)
{
	uint64_t key[KEY_BYTES / sizeof(uint64_t)];
	int status;

	for (unsigned word = 0; word < ARRAY_COUNT(key); word++)
		key[word] = mix64(mix64(work->client->index + word * 64) + i);
	skep_chain_truncate(work->key, 0);
	status = skep_chain_append_key(work->key, key, sizeof(key), NULL, 0);
	return MIN_OF(status, 0);
}

/* Each is a chain of its own and so a reservation of its own; committed they are together. */
static int keys_reserve(struct work *work, uint64_t at, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct skep_reserve reserve = {
			.struct_bytes = sizeof(reserve),
			.chain = work->key,
			.count = 1,
			.deadline_ns = skep_deadline_ms(PUT_WAIT_MS),
		};
		int status = key_set(work, at + i);

		if (!status)
			status = skep_reserve(work->session, &reserve, &work->reserved[i]);
		if (status < 0)
			return status;
	}
	return 0;
}

static int keys_put(struct work *work)
{
	uint64_t share = work->run->share;
	uint32_t count;
	int status = 0;

	for (uint64_t at = 0; !status && at < share && !bench_interrupted(); at += count) {
		count = (uint32_t)MIN_OF(work->run->batch, share - at);
		status = keys_reserve(work, at, count);
		if (!status)
			status = frames_fill(work, at, count);
	}
	return status;
}

/* Gets one block whose id is known, and lets it go. Return: 0 and @view, or negative. */
static int key_get(struct work *work, struct skep_view *view)
{
	struct skep_ref ref;
	struct skep_match match = {
		.struct_bytes = sizeof(match),
		.chain = work->key,
		.flags = SKEP_MATCH_PIN,
		.refs = &ref,
		.refs_max = 1,
	};
	int status = skep_match(work->session, &match, 1);

	if (!status)
		status = match.matched == 1 ? skep_view(work->session, &ref, 0, view) : -ENOENT;
	skep_release(work->session, &match.pin);
	return status;
}

/*
 * Gets at random. Each is timed alone, by two looks at the clock, and nothing is subtracted. The
 * name is made before; whose bytes they are is looked at afterwards.
 */
static int keys_get(struct work *work)
{
	const struct bench_options *options = work->run->options;
	uint64_t random = mix64(options->seed + work->client->index);

	for (uint64_t n = 0; n < options->gets && !bench_interrupted(); n++) {
		uint64_t i = mix64(random + n) % work->run->share, began, ended;
		struct skep_view view;
		int status = key_set(work, i);

		if (status)
			return status;
		began = clock_ns();
		status = key_get(work, &view);
		ended = clock_ns();
		if (status)
			return status;
		work->client->get_ns[n] = (uint32_t)MIN_OF(ended - began, UINT32_MAX);
		/* Nobody puts now, so the bytes are still there. */
		work->client->wrong_blocks +=
			view.length != options->block_bytes ||
			memcmp(view.bytes, work->run->source + block_at(work, i), 64);
	}
	return 0;
}

/*
 * Removes what was got. Matches are told to the keeper late, so some of these blocks would count as
 * used after the first that another client puts next, and outlive them.
 */
static int keys_purge(struct work *work)
{
	int64_t removed = 0;

	if (work->client->index == 0)
		removed = skep_space_purge(work->keys, skep_deadline_ms(PUT_WAIT_MS));
	return (int)MIN_OF(removed, 0);
}

/* ------------------------------------------------------------------------------------- passes */

static uint64_t chain_count(const struct work *work)
{
	return divide_up(work->run->share, CHAIN_BLOCKS);
}

/* Names for this round, which nobody used before. */
static int chains_name(struct work *work)
{
	uint32_t tokens[CHAIN_BLOCKS * BLOCK_TOKENS];
	uint64_t left = work->run->share;

	for (uint64_t c = 0; c < chain_count(work); c++) {
		size_t blocks = MIN_OF(left, (uint64_t)CHAIN_BLOCKS);
		uint64_t base = mix64(mix64(mix64(work->client->index) + work->round) + c);
		int status;

		for (size_t i = 0; i < blocks * BLOCK_TOKENS; i++)
			tokens[i] = (uint32_t)mix64(base + i);
		skep_chain_truncate(work->chains[c], 0);
		status = skep_chain_append(work->chains[c], tokens, blocks * BLOCK_TOKENS);
		if (status < 0)
			return status;
		left -= blocks;
	}
	return 0;
}

/* Where the share is: references for the copies. */
static int chains_match(struct work *work)
{
	for (uint64_t c = 0; c < chain_count(work); c++) {
		uint32_t blocks = skep_chain_blocks(work->chains[c]);
		struct skep_match match = {
			.struct_bytes = sizeof(match),
			.chain = work->chains[c],
			.flags = SKEP_MATCH_PEEK,
			.refs = work->refs + c * CHAIN_BLOCKS,
			.refs_max = blocks,
		};
		int status = skep_match(work->session, &match, 1);

		if (status)
			return status;
		if (match.matched != blocks)
			return -ENOENT;
	}
	return 0;
}

static int pass_put(struct work *work)
{
	int status = 0;

	for (uint64_t c = 0; !status && c < chain_count(work); c++)
		status = chain_put(work, work->chains[c], c * CHAIN_BLOCKS);
	return status;
}

static int pass_put_memcpy(struct work *work)
{
	for (uint64_t i = 0; i < work->run->share; i++)
		memcpy(work->frames[i], work->run->source + block_at(work, i), block_bytes(work));
	return 0;
}

static int pass_copy(struct work *work)
{
	for (uint64_t i = 0; i < work->run->share; i++) {
		struct iovec to = {.iov_base = work->run->destination + block_at(work, i),
			.iov_len = block_bytes(work)};
		struct skep_copy copy = {
			.struct_bytes = sizeof(copy),
			.space = work->prompts,
			.ref = work->refs[i],
			.to = &to,
			.to_count = 1,
		};
		int64_t copied = skep_copy(work->session, &copy);

		if (copied != (int64_t)block_bytes(work))
			return copied < 0 ? (int)copied : -EIO;
	}
	return 0;
}

static int pass_copy_memcpy(struct work *work)
{
	for (uint64_t i = 0; i < work->run->share; i++)
		memcpy(work->run->destination + block_at(work, i), work->frames[i],
			block_bytes(work));
	return 0;
}

/* From the first client's beginning to the last one's end. */
static void pass_count(struct work *work, enum local_pass pass)
{
	const struct local_run *run = work->run;
	uint64_t began = CLOCK_NEVER, ended = 0;
	double bytes = (double)(run->share * run->options->clients) * (double)block_bytes(work);

	for (unsigned i = 0; i < run->options->clients; i++) {
		began = MIN_OF(began, run->clients[i].pass_began_ns);
		ended = MAX_OF(ended, run->clients[i].pass_ended_ns);
	}
	samples_add(&work->run->speeds[pass], bytes / GIB / ((double)(ended - began) / NS_PER_S));
}

/* A pass of all clients at a time. Round 0 touches pages and is not counted. */
static int pass_run(struct work *work, enum local_pass pass)
{
	static int (*const passes[PASS_COUNT])(struct work * work) = {
		[PASS_PUT] = pass_put,
		[PASS_PUT_MEMCPY] = pass_put_memcpy,
		[PASS_COPY] = pass_copy,
		[PASS_COPY_MEMCPY] = pass_copy_memcpy,
	};
	int status = together(work, 0);

	if (status)
		return status;
	work->client->pass_began_ns = clock_ns();
	status = passes[pass](work);
	work->client->pass_ended_ns = clock_ns();
	status = together(work, status);
	if (!status && work->round && work->client->index == 0)
		pass_count(work, pass);
	return status;
}

static int round_run(struct work *work)
{
	int status = chains_name(work);

	status = together(work, status);
	if (!status)
		status = pass_run(work, PASS_PUT);
	if (!status)
		status = pass_run(work, PASS_PUT_MEMCPY);
	if (!status)
		status = together(work, chains_match(work));
	if (!status)
		status = pass_run(work, PASS_COPY);
	if (!status)
		status = pass_run(work, PASS_COPY_MEMCPY);
	return status;
}

/* Once more without a clock, and every byte compared. */
static int copies_check(struct work *work)
{
	unsigned char *mine = work->run->destination + block_at(work, 0);
	int status;

	memset(mine, 0, work->run->share * block_bytes(work));
	status = pass_copy(work);
	for (uint64_t i = 0; !status && i < work->run->share; i++)
		work->client->wrong_blocks +=
			memcmp(work->run->source + block_at(work, i), mine + i * block_bytes(work),
				block_bytes(work)) != 0;
	return status;
}

/* ------------------------------------------------------------------------------ making, ending */

static int spaces_open(struct work *work)
{
	struct skep_part_layout part = {.bytes = block_bytes(work)};
	struct skep_space_options options = {
		.struct_bytes = sizeof(options),
		.name = "bench keys",
		.block_tokens = BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part,
		.flags = SKEP_SPACE_OPAQUE,
	};
	int status = skep_space_open(work->session, &options, &work->keys);

	options.name = "bench prompts";
	options.flags = 0;
	if (!status)
		status = skep_space_open(work->session, &options, &work->prompts);
	if (!status)
		status = skep_chain_create(work->keys, &work->key);
	for (uint64_t c = 0; !status && c < chain_count(work); c++)
		status = skep_chain_create(work->prompts, &work->chains[c]);
	return status;
}

static int work_open(struct work *work)
{
	struct skep_open_options options = {.struct_bytes = sizeof(options), .name = "skep bench"};
	size_t share = work->run->share, batch = work->run->batch;
	uint64_t bytes = share * block_bytes(work) / sizeof(uint64_t), base;
	uint64_t *words = (uint64_t *)(void *)(work->run->source + block_at(work, 0));
	int status;

	work->chains = memory_calloc(chain_count(work), sizeof(*work->chains));
	work->refs = memory_calloc(share, sizeof(*work->refs));
	work->frames = memory_calloc(share, sizeof(*work->frames));
	work->reserved = memory_calloc(batch, sizeof(*work->reserved));
	work->sums = memory_calloc(batch, sizeof(*work->sums));
	if (!work->chains || !work->refs || !work->frames || !work->reserved || !work->sums)
		return -ENOMEM;
	status = skep_open(work->run->socket, &options, &work->session);
	if (!status)
		status = spaces_open(work);
	base = mix64(work->run->options->seed) + block_at(work, 0);
	for (uint64_t i = 0; i < bytes; i++)
		words[i] = mix64(base + i);
	return status;
}

static void work_close(struct work *work)
{
	for (uint64_t c = 0; work->chains && c < chain_count(work); c++)
		skep_chain_destroy(work->chains[c]);
	skep_chain_destroy(work->key);
	skep_space_close(work->keys);
	skep_space_close(work->prompts);
	skep_close(work->session);
	memory_free(work->chains);
	memory_free(work->refs);
	memory_free(work->frames);
	memory_free(work->reserved);
	memory_free(work->sums);
}

void *local_client_thread(void *client)
{
	struct work work = {.client = client};
	bool cancelled;
	int status;

	work.run = work.client->run;
	pthread_mutex_lock(&work.run->gate);
	cancelled = work.run->cancelled;
	pthread_mutex_unlock(&work.run->gate);
	if (cancelled)
		return NULL;
	status = together(&work, work_open(&work));
	if (!status)
		status = together(&work, keys_put(&work));
	if (!status)
		status = together(&work, keys_get(&work));
	if (!status)
		status = together(&work, keys_purge(&work));
	for (; !status && work.round <= work.run->options->rounds; work.round++)
		status = round_run(&work);
	if (!status)
		together(&work, copies_check(&work));
	work_close(&work);
	return NULL;
}
