/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/config/units.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/include/skep/skep.h"
#include "tools/skep/bench_client.h"
#include "tools/skep/commands.h"
#include "tools/skep/replay_daemon.h"

/* `skep bench local`: what bench_client.c measures, set up and reported. */

enum { BATCH_BLOCKS_MAX = 64, CLOCK_LOOKS = 100000, TOKENS_KEPT = 16 };

/* What two looks at the clock cost: it is in every figure of a single get. */
static double clock_look_ns(void)
{
	uint64_t began = clock_ns(), seen = 0;

	for (unsigned i = 0; i < CLOCK_LOOKS; i++)
		seen = clock_ns();
	return (double)(seen - began) / CLOCK_LOOKS;
}

static uint64_t walk_bytes(const struct local_run *run)
{
	return run->share * run->options->clients * run->options->block_bytes;
}

static int run_create(struct local_run *run)
{
	const struct bench_options *options = run->options;
	uint64_t blocks = divide_up(options->walk_bytes, options->block_bytes);
	int status;

	run->share = divide_up(blocks, options->clients);
	run->batch = (uint32_t)MIN_OF(MAX_OF(options->put_bytes / options->block_bytes, 1ull),
		(uint64_t)BATCH_BLOCKS_MAX);
	/* The pool, the two sides of the passes, and bookkeeping. */
	status = bench_memory_check(
		3 * walk_bytes(run) + run->share * options->clients * 1024 + (128 << 20));
	if (status)
		return status;
	pthread_mutex_init(&run->gate, NULL);
	pthread_barrier_init(&run->barrier, NULL, (unsigned)options->clients);
	run->source = bench_map(walk_bytes(run));
	run->destination = bench_map(walk_bytes(run));
	run->clients = memory_calloc(options->clients, sizeof(*run->clients));
	if (!run->source || !run->destination || !run->clients)
		return bench_complain(EXIT_DAEMON, "out of memory");
	for (unsigned i = 0; i < PASS_COUNT; i++)
		if (samples_create(&run->speeds[i], options->rounds))
			return bench_complain(EXIT_DAEMON, "out of memory");
	for (unsigned i = 0; i < options->clients; i++) {
		struct local_client *client = &run->clients[i];

		client->run = run;
		client->index = i;
		client->get_ns = memory_calloc(options->gets, sizeof(*client->get_ns));
		if (!client->get_ns)
			return bench_complain(EXIT_DAEMON, "out of memory");
	}
	return 0;
}

static void run_destroy(struct local_run *run)
{
	for (unsigned i = 0; run->clients && i < run->options->clients; i++)
		memory_free(run->clients[i].get_ns);
	for (unsigned i = 0; i < PASS_COUNT; i++)
		samples_free(&run->speeds[i]);
	memory_free(run->clients);
	bench_unmap(run->source, walk_bytes(run));
	bench_unmap(run->destination, walk_bytes(run));
}

/* All clients, from their threads' start to their end. Return: 0 or how the command ends. */
static int clients_run(struct local_run *run)
{
	unsigned started = 0;
	int status = 0;

	pthread_mutex_lock(&run->gate);
	for (; !status && started < run->options->clients; started += !status)
		status = -pthread_create(&run->clients[started].thread, NULL, local_client_thread,
			&run->clients[started]);
	run->cancelled = status != 0;
	pthread_mutex_unlock(&run->gate);
	for (unsigned i = 0; i < started; i++)
		pthread_join(run->clients[i].thread, NULL);
	if (status)
		return bench_complain(
			EXIT_DAEMON, "starting clients: %s", skep_status_text(status));
	status = atomic_load(&run->failure);
	return status ? bench_complain(EXIT_DAEMON, "a client: %s", skep_status_text(status)) : 0;
}

/* ------------------------------------------------------------------------------------- report */

static int gets_gather(const struct local_run *run, struct samples *get_us)
{
	const struct bench_options *options = run->options;

	if (samples_create(get_us, options->clients * options->gets))
		return bench_complain(EXIT_DAEMON, "out of memory");
	for (unsigned i = 0; i < options->clients; i++)
		for (uint64_t n = 0; n < options->gets; n++)
			samples_add(get_us, run->clients[i].get_ns[n] / (double)NS_PER_US);
	return 0;
}

static uint64_t wrong_blocks(const struct local_run *run)
{
	uint64_t wrong = 0;

	for (unsigned i = 0; i < run->options->clients; i++)
		wrong += run->clients[i].wrong_blocks;
	return wrong;
}

static int report(struct local_run *run, struct samples *get_us)
{
	double medians[PASS_COUNT];

	for (unsigned i = 0; i < PASS_COUNT; i++)
		medians[i] = samples_quantile(&run->speeds[i], 0.5);

	const struct figure figures[] = {
		{"get_p50_us", samples_quantile(get_us, 0.5),
			"a block by its id: matched and pinned, pointed to, released", "get_us",
			get_us},
		FIGURE("get_p99_us", samples_quantile(get_us, 0.99), ""),
		FIGURE("clock_us", clock_look_ns() / NS_PER_US, "of it, a look at the clock"),
		{"copy_gib_s", medians[PASS_COPY], "copied out and verified", "copy_gib_s",
			&run->speeds[PASS_COPY]},
		FIGURE("copy_ratio", medians[PASS_COPY] / medians[PASS_COPY_MEMCPY],
			"over memcpy between the same addresses, medians"),
		{"put_gib_s", medians[PASS_PUT], "copied in with checksums, reserved and committed",
			"put_gib_s", &run->speeds[PASS_PUT]},
		FIGURE("put_ratio", medians[PASS_PUT] / medians[PASS_PUT_MEMCPY],
			"over memcpy between the same addresses, medians"),
		{"memcpy_gib_s", medians[PASS_PUT_MEMCPY], "memcpy into the frames", "memcpy_gib_s",
			&run->speeds[PASS_PUT_MEMCPY]},
		{"memcpy_out_gib_s", medians[PASS_COPY_MEMCPY], "memcpy out of the frames",
			"memcpy_out_gib_s", &run->speeds[PASS_COPY_MEMCPY]},
		FIGURE("block_bytes", (double)run->options->block_bytes, "of a block"),
		FIGURE("clients", (double)run->options->clients, "threads, each with a session"),
		FIGURE("walk_bytes", (double)walk_bytes(run), "of the pool"),
		FIGURE("batch", run->batch, "blocks reserved and committed at a time"),
		FIGURE("rounds", (double)run->options->rounds, "of the passes"),
		FIGURE("wrong_blocks", (double)wrong_blocks(run),
			"whose bytes were not what was put"),
		FIGURE("", 0, ""),
	};
	int status = figures_print(figures, run->options->json);

	return !status && wrong_blocks(run) ? EXIT_NEGATIVE : status;
}

int bench_local(const struct bench_options *options)
{
	struct local_run run = {.options = options};
	struct replay_daemon daemon = {0};
	struct samples get_us = {0};
	struct replay_pool pool;
	char why[REPLAY_WHY_BYTES];
	int status = run_create(&run);

	pool = (struct replay_pool){.blocks = run.share * options->clients,
		.payload_bytes = options->block_bytes,
		.block_tokens = TOKENS_KEPT};
	if (!status && replay_daemon_start(&daemon, &pool, why))
		status = bench_complain(EXIT_UNREACHABLE, "%s", why);
	run.socket = daemon.socket;
	if (!status)
		status = clients_run(&run);
	replay_daemon_stop(&daemon);
	if (!status)
		status = gets_gather(&run, &get_us);
	if (!status)
		status = report(&run, &get_us);
	samples_free(&get_us);
	run_destroy(&run);
	return status;
}
