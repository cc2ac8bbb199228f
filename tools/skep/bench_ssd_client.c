/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/bench_ssd_client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "engine/include/skep/skep.h"
#include "tools/skep/commands.h"

enum {
	BLOCK_TOKENS = 16,
	SOURCE_PAGES = 61,  /* that a block can begin at */
	LOOKED_AT = 64,	    /* bytes at a block's beginning and end */
	PUT_BLOCKS = 64,    /* reserved and committed at a time */
	SINGLE_TRIES = 100, /* per load: blocks passed over since they are in DRAM */
};

#define WAIT_MS	     60000
#define WAIT_PUT_MS  10000
#define WAIT_STEP_MS 1000

static uint64_t block_bytes(const struct ssd_client *client)
{
	return client->run->options->block_bytes;
}

/* ----------------------------------------------------------------------------- names and bytes */

/* The chain of a run of this round. */
static int chain_name(struct ssd_client *client, uint32_t number)
{
	uint64_t base = mix64(mix64(client->run->names) + number);
	uint32_t tokens[BLOCK_TOKENS];
	int status = 0;

	skep_chain_truncate(client->chain, 0);
	for (uint32_t block = 0; status >= 0 && block < client->run->run_blocks; block++) {
		for (unsigned i = 0; i < BLOCK_TOKENS; i++)
			tokens[i] = (uint32_t)mix64(base + (uint64_t)block * BLOCK_TOKENS + i);
		status = skep_chain_append(client->chain, tokens, BLOCK_TOKENS);
	}
	return MIN_OF(status, 0);
}

/* What is put as that block: windows of one source, so that filling a frame costs the caches'
 * speed and neighbours differ. */
static const unsigned char *block_source(
	const struct ssd_client *client, uint32_t number, uint32_t block)
{
	return client->run->source +
	       mix64(mix64(client->run->names + number) + block) % SOURCE_PAGES * 4096;
}

/* ----------------------------------------------------------------------------------------- put */

/* Puts blocks of the named chain from @first on. Return: how many, or negative. */
static int blocks_put(struct ssd_client *client, uint32_t number, uint32_t first)
{
	struct skep_reserve reserve = {
		.struct_bytes = sizeof(reserve),
		.chain = client->chain,
		.first = first,
		.count = MIN_OF((uint32_t)PUT_BLOCKS, client->run->run_blocks - first),
		.deadline_ns = skep_deadline_ms(WAIT_PUT_MS),
	};
	struct skep_commit commit = {
		.struct_bytes = sizeof(commit),
		.sums = SKEP_SUMS_GIVEN,
		.given = client->sums,
		.deadline_ns = skep_deadline_ms(WAIT_PUT_MS),
	};
	int answered = skep_reserve(client->session, &reserve, client->reserved), status;

	for (int i = 0; i < answered; i++) {
		struct skep_frame *frame = &client->reserved[i];

		if (frame->status) /* names are fresh and this client's own */
			return frame->status;
		client->sums[i] = skep_copy_sum(frame->bytes,
			block_source(client, number, first + (uint32_t)i), frame->length);
	}
	if (answered <= 0)
		return answered;
	status = skep_commit(client->session, client->reserved, (unsigned)answered, &commit);
	return status == answered ? answered : status < 0 ? status : -EIO;
}

/* An interrupt need not wait for a slow device. */
static int synced(struct ssd_client *client)
{
	int status = -ETIMEDOUT;

	for (unsigned waited_ms = 0; status == -ETIMEDOUT && waited_ms < WAIT_MS;
		waited_ms += WAIT_STEP_MS) {
		if (bench_interrupted())
			return -EINTR;
		status = skep_sync(client->space, skep_deadline_ms(WAIT_STEP_MS));
	}
	return status;
}

static int pass_put(struct ssd_client *client)
{
	struct ssd_run *run = client->run;
	int status = 0;

	run->runs = 0;
	while (status >= 0 && run->runs < run->runs_max && clock_ns() < run->until_ns &&
		!bench_interrupted()) {
		status = chain_name(client, run->runs);
		for (uint32_t at = 0; status >= 0 && at < run->run_blocks; at += (uint32_t)status)
			status = blocks_put(client, run->runs, at);
		run->runs++;
		client->bytes += run->run_blocks * block_bytes(client);
	}
	return status < 0 ? status : synced(client);
}

/* ---------------------------------------------------------------------------------------- load */

/* Does all of it lie on the ssd, and nothing in DRAM? */
static bool on_ssd_alone(struct ssd_client *client, uint32_t first, uint32_t count)
{
	struct skep_match match = {
		.struct_bytes = sizeof(match),
		.chain = client->chain,
		.first = first,
		.count = count,
		.flags = SKEP_MATCH_PEEK,
	};
	int status = skep_match(client->session, &match, 1);

	return !status && !match.matched && match.stored == count;
}

static int look(struct ssd_client *client, uint32_t number, uint32_t first, uint32_t count)
{
	uint64_t end = block_bytes(client) - LOOKED_AT;

	for (uint32_t i = 0; i < count; i++) {
		const unsigned char *wanted = block_source(client, number, first + i);
		struct skep_view view;
		int status = skep_view(client->session, &client->refs[i], 0, &view);

		if (status)
			return status;
		client->wrong_blocks +=
			view.length != block_bytes(client) ||
			memcmp(view.bytes, wanted, LOOKED_AT) ||
			memcmp((const unsigned char *)view.bytes + end, wanted + end, LOOKED_AT);
	}
	return 0;
}

/* Loads blocks of the named chain, looks at them and lets them go. @took_ns may be NULL. */
static int blocks_load(struct ssd_client *client, uint32_t number, uint32_t first, uint32_t count,
	uint64_t *took_ns)
{
	struct skep_load load = {
		.struct_bytes = sizeof(load),
		.chain = client->chain,
		.first = first,
		.count = count,
		.refs = client->refs,
		.refs_max = count,
		.deadline_ns = skep_deadline_ms(WAIT_MS),
	};
	uint64_t began = clock_ns();
	int status = skep_load(client->session, &load);

	if (took_ns)
		*took_ns = clock_ns() - began;
	if (!status && load.loaded < count)
		status = -EIO;
	if (!status)
		status = look(client, number, first, count);
	skep_release(client->session, &load.pin);
	client->bytes += count * block_bytes(client);
	return status;
}

/* The clients take turns in one order, which is longer than the pool by far: by the time a run
 * comes again it has left DRAM. */
static int pass_load(struct ssd_client *client)
{
	struct ssd_run *run = client->run;
	int status = 0;

	/* Once at least: on a busy machine the first turn may come late. */
	do {
		uint32_t at = atomic_fetch_add_explicit(&run->next, 1, memory_order_relaxed);
		uint32_t number = run->order[at % run->runs];

		status = chain_name(client, number);
		if (!status && on_ssd_alone(client, 0, run->run_blocks))
			status = blocks_load(client, number, 0, run->run_blocks, NULL);
	} while (!status && clock_ns() < run->until_ns && !bench_interrupted());
	return status;
}

static int pass_single(struct ssd_client *client)
{
	struct ssd_run *run = client->run;
	uint64_t wanted = run->options->loads, tries = wanted * SINGLE_TRIES, took_ns = 0;
	int status = 0;

	for (uint64_t n = 0; !status && wanted && n < tries && !bench_interrupted(); n++) {
		uint64_t chosen = mix64(run->options->seed + n);
		uint32_t number = (uint32_t)(chosen % run->runs);
		uint32_t block = (uint32_t)((chosen >> 32) % run->run_blocks);

		status = chain_name(client, number);
		if (status || !on_ssd_alone(client, block, 1))
			continue;
		status = blocks_load(client, number, block, 1, &took_ns);
		if (!status)
			samples_add(run->single, (double)took_ns / NS_PER_US);
		wanted--;
	}
	return status;
}

static int pass_purge(struct ssd_client *client)
{
	int64_t removed = skep_space_purge(client->space, skep_deadline_ms(WAIT_MS));

	return (int)MIN_OF(removed, 0);
}

/* -------------------------------------------------------------------------------------- passes */

static void *client_thread(void *arg)
{
	struct ssd_client *client = arg;

	client->status = client->pass(client);
	client->ended_ns = clock_ns();
	return NULL;
}

int ssd_pass_run(struct ssd_run *run, enum ssd_pass_kind kind, struct ssd_pass *pass)
{
	static const struct {
		const char *name;
		int (*run)(struct ssd_client *client);
	} passes[] = {
		[SSD_PASS_PUT] = {"putting", pass_put},
		[SSD_PASS_LOAD] = {"loading", pass_load},
		[SSD_PASS_SINGLE] = {"loading one by one", pass_single},
		[SSD_PASS_PURGE] = {"purging", pass_purge},
	};
	unsigned count = kind == SSD_PASS_LOAD ? (unsigned)run->options->sessions : 1, started = 0;
	uint64_t began = clock_ns(), ended = began;
	int status = 0;

	*pass = (struct ssd_pass){0};
	run->until_ns = began + run->options->seconds * NS_PER_S;
	for (; !status && started < count; started += !status) {
		struct ssd_client *client = &run->clients[started];

		client->bytes = client->wrong_blocks = 0;
		client->pass = passes[kind].run;
		status = -pthread_create(&client->thread, NULL, client_thread, client);
	}
	for (unsigned i = 0; i < started; i++) {
		struct ssd_client *client = &run->clients[i];

		pthread_join(client->thread, NULL);
		status = status ? status : client->status;
		ended = MAX_OF(ended, client->ended_ns);
		pass->bytes += client->bytes;
		run->wrong_blocks += client->wrong_blocks;
	}
	pass->ns = ended - began;
	if (status < 0 && bench_interrupted())
		return BENCH_EXIT_INTERRUPTED;
	if (status < 0)
		return bench_complain(
			EXIT_DAEMON, "%s: %s", passes[kind].name, skep_status_text(status));
	return 0;
}

/* ------------------------------------------------------------------------------ making, ending */

static int client_open(struct ssd_client *client)
{
	struct skep_open_options options = {.struct_bytes = sizeof(options), .name = "skep bench"};
	struct skep_part_layout part = {.bytes = block_bytes(client)};
	struct skep_space_options space = {
		.struct_bytes = sizeof(space),
		.name = "bench ssd",
		.block_tokens = BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part,
	};
	uint32_t blocks = client->run->run_blocks;
	int status;

	client->refs = memory_calloc(blocks, sizeof(*client->refs));
	client->reserved = memory_calloc(PUT_BLOCKS, sizeof(*client->reserved));
	client->sums = memory_calloc(PUT_BLOCKS, sizeof(*client->sums));
	if (!client->refs || !client->reserved || !client->sums)
		return -ENOMEM;
	status = skep_open(client->run->socket, &options, &client->session);
	if (!status)
		status = skep_space_open(client->session, &space, &client->space);
	if (!status)
		status = skep_chain_create(client->space, &client->chain);
	return status;
}

static void client_close(struct ssd_client *client)
{
	skep_chain_destroy(client->chain);
	skep_space_close(client->space);
	skep_close(client->session);
	memory_free(client->refs);
	memory_free(client->reserved);
	memory_free(client->sums);
}

static uint64_t source_bytes(const struct ssd_run *run)
{
	return run->options->block_bytes + SOURCE_PAGES * 4096;
}

int ssd_clients_open(struct ssd_run *run)
{
	uint64_t *words;
	int status = 0;

	run->clients = memory_calloc(run->options->sessions, sizeof(*run->clients));
	run->source = bench_map(source_bytes(run));
	if (!run->clients || !run->source)
		return bench_complain(EXIT_DAEMON, "out of memory");
	words = (uint64_t *)(void *)run->source;
	for (uint64_t i = 0; i < source_bytes(run) / sizeof(*words); i++)
		words[i] = mix64(run->options->seed + i);
	for (unsigned i = 0; !status && i < run->options->sessions; i++) {
		run->clients[i].run = run;
		status = client_open(&run->clients[i]);
	}
	if (status)
		return bench_complain(
			EXIT_DAEMON, "opening a session: %s", skep_status_text(status));
	return 0;
}

void ssd_clients_close(struct ssd_run *run)
{
	for (unsigned i = 0; run->clients && i < run->options->sessions; i++)
		client_close(&run->clients[i]);
	memory_free(run->clients);
	bench_unmap(run->source, source_bytes(run));
	run->clients = NULL;
	run->source = NULL;
}
