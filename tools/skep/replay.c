/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/replay.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/config/units.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/include/skep/skep.h"
#include "tools/skep/commands.h"
#include "tools/skep/link.h"
#include "tools/skep/replay_client.h"
#include "tools/skep/replay_daemon.h"
#include "tools/skep/replay_report.h"
#include "tools/skep/simulate.h"
#include "tools/skep/workload.h"
#include "tools/text.h"

#define PAYLOAD_BYTES_STANDARD 16384
#define DRAM_BLOCKS_STANDARD   10000
#define DRAM_BLOCKS_MAX	       (1u << 31)

/* How long a put may wait for a frame of a daemon that others use too. */
#define PUT_WAIT_NS (10 * NS_PER_S)

/* --- the command line ----------------------------------------------------------------------- */

enum flag {
#define X(name, flag, argument, help) FLAG_##name,
	REPLAY_OPTION_TABLE(X)
#undef X
		FLAG_COUNT
};

static const struct flag_row {
	const char *flag, *argument, *help;
} flag_rows[] = {
#define X(name, flag, argument, help) {flag, argument, help},
	REPLAY_OPTION_TABLE(X)
#undef X
};

static void flags_print(FILE *out)
{
	fprintf(out, "usage: skep replay [TRACE] [OPTIONS]\n\n"
		     "Replays the requests of a trace, or made chat traffic, and checks every "
		     "byte.\n\n");
	for (unsigned i = 0; i < FLAG_COUNT; i++)
		fprintf(out, "  --%-13s %-12s %s\n", flag_rows[i].flag, flag_rows[i].argument,
			flag_rows[i].help);
}

/* Prints one line of complaint; gives @status back, so that callers can return it. */
__attribute__((format(printf, 2, 3))) static int complain(int status, const char *format, ...)
{
	va_list arguments;

	fputs("skep replay: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	return status;
}

struct bounds {
	uint64_t min, max;
};

/* Reads the argument of @flag; says what would be right where it is not. */
static int number_take(enum flag flag, const char *text, struct bounds bounds, uint64_t *number)
{
	char *end;

	errno = 0;
	*number = strtoull(text, &end, 10);
	if (!errno && text[0] >= '0' && text[0] <= '9' && !*end && *number >= bounds.min &&
		*number <= bounds.max)
		return 0;
	return complain(EXIT_USAGE,
		"--%s %s: wanted is a whole number from %" PRIu64 " to %" PRIu64,
		flag_rows[flag].flag, text, bounds.min, bounds.max);
}

static int payload_take(const char *text, uint64_t *bytes)
{
	if (!size_parse(text, bytes) && *bytes && *bytes <= REPLAY_PAYLOAD_BYTES_MAX)
		return 0;
	return complain(EXIT_USAGE,
		"--payload-bytes %s: wanted is a size up to 1GiB: 4096, 64KiB, 2MiB", text);
}

static int speed_take(const char *text, double *speed)
{
	char *end;

	*speed = 0;
	if (!strcmp(text, "max"))
		return 0;
	*speed = 1;
	if (!strcmp(text, "real"))
		return 0;
	*speed = strtod(text, &end);
	if (end != text && !strcmp(end, "x") && *speed >= 1e-3 && *speed <= 1e6)
		return 0;
	return complain(
		EXIT_USAGE, "--speed %s: wanted is max, real, or a factor as 2x or 0.5x", text);
}

static int flag_take(struct replay_options *options, enum flag flag, const char *text)
{
	switch (flag) {
	case FLAG_payload_bytes:
		return payload_take(text, &options->payload_bytes);
	case FLAG_dram_blocks:
		return number_take(
			flag, text, (struct bounds){1, DRAM_BLOCKS_MAX}, &options->dram_blocks);
	case FLAG_ssd_blocks:
		return number_take(
			flag, text, (struct bounds){1, DRAM_BLOCKS_MAX}, &options->ssd_blocks);
	case FLAG_ssd_path:
		options->ssd_path = text;
		return 0;
	case FLAG_clients:
		return number_take(
			flag, text, (struct bounds){1, REPLAY_CLIENTS_MAX}, &options->clients);
	case FLAG_requests:
		return number_take(
			flag, text, (struct bounds){1, TRACE_REQUESTS_MAX}, &options->requests);
	case FLAG_seed:
		return number_take(flag, text, (struct bounds){0, UINT64_MAX}, &options->seed);
	case FLAG_speed:
		return speed_take(text, &options->speed);
	case FLAG_socket:
		options->socket = text;
		return 0;
	case FLAG_json:
		options->json = true;
		return 0;
	default:
		return EXIT_USAGE;
	}
}

/* Reads flags and the trace's name. @help: they asked for help. Returns 0 or EXIT_USAGE. */
static int words_read(struct replay_options *options, bool *help, int argc, char **argv)
{
	struct option longs[FLAG_COUNT + 1] = {0};

	for (unsigned i = 0; i < FLAG_COUNT; i++)
		longs[i] = (struct option){.name = flag_rows[i].flag,
			.has_arg = flag_rows[i].argument[0] ? required_argument : no_argument,
			.val = (int)i};
	optind = 0; /* start anew: other words may have been read before */
	for (;;) {
		int flag = getopt_long(argc, argv, "", longs, NULL);

		if (flag < 0)
			break;
		if (flag == FLAG_help)
			*help = true;
		else if (flag >= FLAG_COUNT || flag_take(options, (enum flag)flag, optarg))
			return EXIT_USAGE; /* getopt or the taker said why */
	}
	if (optind < argc)
		options->trace = argv[optind++];
	if (optind < argc)
		return complain(
			EXIT_USAGE, "one trace at a time; %s is one too many", argv[optind]);
	return 0;
}

static int options_read(struct replay_options *options, bool *help, int argc, char **argv)
{
	int status;

	*help = false;
	*options = (struct replay_options){
		.payload_bytes = PAYLOAD_BYTES_STANDARD, .clients = 1, .seed = 1};
	status = words_read(options, help, argc, argv);
	if (status || *help)
		return status;
	if (options->socket && options->dram_blocks)
		return complain(EXIT_USAGE,
			"--dram-blocks is of a private daemon and cannot be set with --socket");
	if (options->socket && options->ssd_blocks)
		return complain(EXIT_USAGE,
			"--ssd-blocks is of a private daemon and cannot be set with --socket");
	if (options->ssd_path && !options->ssd_blocks)
		return complain(EXIT_USAGE, "--ssd-path says where --ssd-blocks go: give both");
	if (!options->socket && !options->dram_blocks)
		options->dram_blocks = DRAM_BLOCKS_STANDARD;
	return 0;
}

/* --- the requests --------------------------------------------------------------------------- */

/* Everything one replay holds. */
struct replay {
	struct replay_options options;
	struct trace *trace;
	struct replay_daemon daemon;
	struct replay_run run;
	struct replay_client *clients;
	unsigned client_count; /* threads that were started */
	struct replay_result result;
};

static int traffic_get(struct replay *replay)
{
	const struct replay_options *options = &replay->options;
	struct workload_config config = workload_default(options->seed);
	char error[TRACE_ERROR_BYTES];
	int status;

	if (options->trace) {
		if (trace_load(&replay->trace, options->trace, error))
			return complain(EXIT_USAGE, "%s", error);
		if (options->requests)
			trace_truncate(replay->trace, options->requests);
		replay->result.source = options->trace;
		status = 0;
	} else {
		if (options->requests)
			config.requests = options->requests;
		status = workload_make(&replay->trace, &config);
		replay->result.source = "made traffic";
	}
	if (!status)
		status = trace_describe(replay->trace, &replay->result.traffic);
	return status ? complain(EXIT_DAEMON, "%s", status_text(status)) : 0;
}

/*
 * Waits of a private daemon never end, so there must be no knot: every client may hold the longest
 * request, pinned or pending, and there is still room for all.
 */
static int pool_check(const struct replay *replay)
{
	const struct replay_options *options = &replay->options;
	uint64_t longest = 0;

	for (size_t r = 0; r < replay->trace->request_count; r++)
		longest = MAX_OF(longest, replay->trace->requests[r].block_count);
	if (options->dram_blocks >= longest * options->clients)
		return 0;
	return complain(EXIT_USAGE,
		"--dram-blocks %" PRIu64 " is too few: the longest request has %" PRIu64
		" blocks and %" PRIu64 " may be under way at a time; %" PRIu64 " would do",
		options->dram_blocks, longest, options->clients, longest * options->clients);
}

/* How many blocks the pool at the socket has room for. */
static int capacity_ask(struct replay *replay, const char *socket)
{
	struct skep_open_options options = {.struct_bytes = sizeof(options), .name = "skep replay"};
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};
	struct skep *session;
	int status = skep_open(socket, &options, &session);

	if (!status) {
		status = skep_stats(session, skep_deadline_ms(5000), &stats);
		skep_close(session);
	}
	if (status)
		return complain(EXIT_UNREACHABLE, "%s: %s", socket, skep_status_text(status));
	replay->result.capacity_blocks = stats.dram_bytes / replay->options.payload_bytes;
	return 0;
}

static int daemon_get(struct replay *replay)
{
	const struct replay_options *options = &replay->options;
	struct replay_pool pool = {
		.blocks = options->dram_blocks,
		.payload_bytes = options->payload_bytes,
		.block_tokens = TRACE_BLOCK_TOKENS,
		.ssd_blocks = options->ssd_blocks,
		.ssd_path = options->ssd_path,
	};
	char why[REPLAY_WHY_BYTES];
	int status;

	if (options->socket) {
		replay->run.socket = options->socket;
		replay->run.put_wait_ns = PUT_WAIT_NS;
		return capacity_ask(replay, options->socket);
	}
	status = pool_check(replay);
	if (status)
		return status;
	if (replay_daemon_start(&replay->daemon, &pool, why))
		return complain(EXIT_UNREACHABLE, "%s", why);
	replay->run.socket = replay->daemon.socket;
	replay->run.put_wait_ns = CLOCK_NEVER;
	/* One memory of both tiers is what the simulated policies are given. */
	replay->result.capacity_blocks = options->dram_blocks + options->ssd_blocks;
	replay->result.ssd_blocks = options->ssd_blocks;
	return 0;
}

/* The daemon's status, as an operator sees it. 0 or how the command ends, after saying why. */
static int status_ask(struct replay *replay, json_t **status)
{
	struct arguments arguments = {.command = "replay"};

	arguments.option[OPTION_any_socket] = replay->run.socket;
	return link_ask_once(&arguments, request_of(&arguments, "status"), status);
}

/* --- running -------------------------------------------------------------------------------- */

static _Atomic bool interrupted;

static void interrupt(int signal)
{
	(void)signal;
	atomic_store(&interrupted, true);
}

static void progress_show(const struct replay *replay, bool terminal)
{
	char bar[31], done_text[TEXT_SHORT_BYTES], all_text[TEXT_SHORT_BYTES],
		rate[TEXT_SHORT_BYTES];
	uint64_t done = atomic_load(&replay->run.done), all = replay->trace->request_count;
	uint64_t blocks = atomic_load(&replay->run.done_blocks);
	double seconds = (double)(clock_ns() - replay->run.began_ns) / NS_PER_S;
	size_t full = (size_t)(done * (sizeof(bar) - 1) / all);

	text_count(done_text, done);
	text_count(all_text, all);
	text_count(rate, (uint64_t)((double)blocks / MAX_OF(seconds, 1e-6)));
	if (!terminal) {
		fprintf(stderr, "%s of %s requests, %s blocks/s\n", done_text, all_text, rate);
		return;
	}
	memset(bar, '.', sizeof(bar) - 1);
	memset(bar, '#', full);
	bar[sizeof(bar) - 1] = '\0';
	fprintf(stderr, "\r[%s] %3u %%  %s of %s requests, %s blocks/s ", bar,
		(unsigned)(100 * done / all), done_text, all_text, rate);
}

/* Waits for the clients, shows how far they are, hands an interrupt on. */
static void clients_watch(struct replay *replay)
{
	struct replay_run *run = &replay->run;
	bool terminal = isatty(STDERR_FILENO);
	uint64_t shown_ns = clock_ns();
	const uint64_t every_ns = terminal ? NS_PER_S / 10 : 2 * NS_PER_S;

	pthread_mutex_lock(&run->lock);
	while (run->ended < replay->client_count) {
		uint64_t wake_ns = clock_ns() + NS_PER_S / 20;
		struct timespec wake = {.tv_sec = (time_t)(wake_ns / NS_PER_S),
			.tv_nsec = (long)(wake_ns % NS_PER_S)};

		pthread_cond_timedwait(&run->changed, &run->lock, &wake);
		if (atomic_load(&interrupted))
			atomic_store(&run->stop, true);
		if (replay->options.json || clock_ns() - shown_ns < every_ns)
			continue;
		shown_ns = clock_ns();
		progress_show(replay, terminal);
	}
	pthread_mutex_unlock(&run->lock);
	if (!replay->options.json)
		progress_show(replay, terminal);
	if (!replay->options.json && terminal)
		fputc('\n', stderr);
}

static int clients_start(struct replay *replay)
{
	struct replay_run *run = &replay->run;
	pthread_condattr_t monotonic;
	int status = 0;

	pthread_mutex_init(&run->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&run->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	replay->clients = memory_calloc(replay->options.clients, sizeof(*replay->clients));
	if (!replay->clients)
		return -ENOMEM;
	for (; !status && replay->client_count < replay->options.clients;
		replay->client_count += !status) {
		struct replay_client *client = &replay->clients[replay->client_count];

		client->run = run;
		status = -pthread_create(&client->thread, NULL, replay_client_thread, client);
	}
	pthread_mutex_lock(&run->lock);
	while (run->opened < replay->client_count)
		pthread_cond_wait(&run->changed, &run->lock);
	if (status)
		atomic_store(&run->stop, true);
	pthread_mutex_unlock(&run->lock);
	return status;
}

static void clients_go(struct replay *replay)
{
	struct replay_run *run = &replay->run;

	pthread_mutex_lock(&run->lock);
	run->began_ns = clock_ns();
	run->go = true;
	pthread_cond_broadcast(&run->changed);
	pthread_mutex_unlock(&run->lock);
}

static void clients_end(struct replay *replay)
{
	for (unsigned i = 0; i < replay->client_count; i++) {
		pthread_join(replay->clients[i].thread, NULL);
		replay_tally_add(&replay->result.tally, &replay->clients[i].tally);
	}
	memory_free(replay->clients);
	pthread_cond_destroy(&replay->run.changed);
	pthread_mutex_destroy(&replay->run.lock);
}

/* All requests, from the first session to the last. 0, or how the command ends. */
static int requests_run(struct replay *replay)
{
	struct replay_run *run = &replay->run;
	struct sigaction on_signal = {.sa_handler = interrupt};
	int status;

	run->trace = replay->trace;
	if (replay->options.ssd_blocks) {
		run->acknowledged =
			memory_calloc(replay->trace->node_count, sizeof(*run->acknowledged));
		if (!run->acknowledged)
			return complain(EXIT_DAEMON, "%s", status_text(-ENOMEM));
	}
	run->payload_bytes = replay->options.payload_bytes;
	run->speed = replay->options.speed;
	sigaction(SIGINT, &on_signal, NULL);
	sigaction(SIGTERM, &on_signal, NULL);
	status = clients_start(replay);
	if (status)
		status = complain(EXIT_DAEMON, "starting clients: %s", status_text(status));
	else
		status = status_ask(replay, &replay->result.before);
	if (status)
		atomic_store(&run->stop, true);
	clients_go(replay);
	clients_watch(replay);
	replay->result.began_ns = run->began_ns;
	clients_end(replay);
	if (atomic_load(&interrupted))
		return complain(REPLAY_EXIT_INTERRUPTED, "interrupted");
	if (!status && atomic_load(&run->failure))
		return complain(EXIT_UNREACHABLE, "%s: %s", run->socket,
			skep_status_text(atomic_load(&run->failure)));
	return status;
}

/* --- the report ----------------------------------------------------------------------------- */

static int policies_simulate(struct replay *replay)
{
	int status = 0;

#define X(policy, field, name)                                                                     \
	if (!status)                                                                               \
		status = simulate(policy, replay->trace, replay->result.capacity_blocks,           \
			&replay->result.simulated_hit_blocks.field);
	REPLAY_POLICY_TABLE(X)
#undef X
	return status ? complain(EXIT_DAEMON, "simulating: %s", status_text(status)) : 0;
}

static int report(struct replay *replay)
{
	const struct replay_tally *tally = &replay->result.tally;
	struct replay_result *result = &replay->result;
	int status = status_ask(replay, &result->after);

	if (!status)
		status = policies_simulate(replay);
	if (status)
		return status;
	result->payload_bytes = replay->options.payload_bytes;
	result->clients = replay->options.clients;
	result->client_rss_bytes = replay_process_bytes(getpid());
	result->daemon_rss_bytes = replay_process_bytes(
		(pid_t)json_integer_value(json_object_get(result->after, "pid")));
	if (replay->options.json)
		status = json_print(replay_report_json(result));
	else
		replay_report_print(result, stdout);
	if (status)
		return status;
	if (tally->wrong_blocks || tally->failed_gets || tally->refused_puts || tally->lost_blocks)
		return EXIT_NEGATIVE;
	return EXIT_OK;
}

int replay_main(int argc, char **argv)
{
	struct replay replay = {0};
	bool help;
	int status = options_read(&replay.options, &help, argc, argv);

	if (status)
		return status;
	if (help) {
		flags_print(stdout);
		return EXIT_OK;
	}
	status = traffic_get(&replay);
	if (!status)
		status = daemon_get(&replay);
	if (!status)
		status = requests_run(&replay);
	if (!status)
		status = report(&replay);
	replay_daemon_stop(&replay.daemon);
	memory_free((void *)replay.run.acknowledged);
	json_decref(replay.result.before);
	json_decref(replay.result.after);
	trace_destroy(replay.trace);
	return status;
}
