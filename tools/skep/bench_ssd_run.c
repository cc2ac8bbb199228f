/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/config/units.h"
#include "base/memory.h"
#include "tiering/ssd/disk.h"
#include "tiering/ssd/format.h"
#include "tools/skep/bench_ssd.h"
#include "tools/skep/bench_ssd_client.h"
#include "tools/skep/commands.h"
#include "tools/skep/replay_daemon.h"

/* `skep bench ssd`: what bench_ssd_client.c moves beside what fio moves, set up and reported. */

enum {
	TOKENS_KEPT = 16,
	FIO_DEPTH_MAX = 1024,
	WRITTEN_MIB = 64, /* of a file that is made, between two looks for an interrupt */
	/* Of the tier's bytes: what a round puts, and the most of them the pool may be. */
	PUT_EIGHTHS = 5,
	POOL_EIGHTHS = 2,
};

#define WRITTEN_BYTES ((uint64_t)WRITTEN_MIB << 20)
/* Bytes of writes that the tier has under way at a time (docs/benchmarks.md). */
#define FLIGHT_BYTES (16ull << 20)
#define GIB	     (double)(1ull << 30)
#define PATH_BYTES   (REPLAY_SSD_BYTES + 8)

enum speed { SPEED_WRITE, SPEED_WRITE_FIO, SPEED_READ, SPEED_READ_FIO, SPEED_COUNT };

struct bench {
	struct ssd_run run;
	unsigned round;
	struct replay_daemon daemon;
	char directory[REPLAY_SSD_BYTES]; /* of both files; "": not there */
	char files[2][PATH_BYTES];
	unsigned tier;	    /* which of them is the tier's; the other one is fio's */
	uint64_t put_bytes; /* by the last pass of puts */
	/* The figures of the round's first half, until the second one's are there. */
	double first[SPEED_COUNT];
	struct samples speeds[SPEED_COUNT], single;
	struct fio_result fio_single;
	double cpu_s, moved_bytes; /* of the tier's passes */
};

/* One line that is written over where somebody watches; in a file lines. */
static void progress(const struct bench *bench, const char *what)
{
	const struct bench_options *options = bench->run.options;
	bool watched = isatty(STDERR_FILENO);

	if (options->json)
		return;
	fprintf(stderr, "%sskep bench: round %u of %u: %s%s", watched ? "\r\033[K" : "",
		bench->round, (unsigned)options->rounds, what, watched ? "" : "\n");
	fflush(stderr);
}

static void progress_end(const struct bench *bench)
{
	if (!bench->run.options->json && isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
}

/* ------------------------------------------------------------------------------------ set up */

static uint64_t run_bytes(const struct bench *bench)
{
	return bench->run.run_blocks * bench->run.options->block_bytes;
}

static unsigned write_depth(const struct bench_options *options)
{
	return (unsigned)MAX_OF(
		MIN_OF(FLIGHT_BYTES / options->block_bytes, (uint64_t)FIO_DEPTH_MAX), 1ull);
}

static unsigned read_depth(const struct bench *bench)
{
	return (unsigned)MIN_OF(
		bench->run.options->sessions * bench->run.run_blocks, (uint64_t)FIO_DEPTH_MAX);
}

static int sizes_check(const struct bench *bench)
{
	const struct bench_options *options = bench->run.options;

	if (options->block_bytes % 4096)
		return bench_complain(
			EXIT_USAGE, "--block-bytes: wanted is a multiple of 4096 bytes");
	/* What the pool holds of a round is not read from the ssd. */
	if (options->dram_bytes > options->ssd_bytes / 8 * POOL_EIGHTHS)
		return bench_complain(EXIT_USAGE,
			"a pool of %s beside an ssd of %s: wanted is a quarter of it at most "
			"(--dram-bytes, --ssd-bytes)",
			size_format(options->dram_bytes).text,
			size_format(options->ssd_bytes).text);
	if (options->sessions * run_bytes(bench) > options->dram_bytes / 2)
		return bench_complain(EXIT_USAGE,
			"%u sessions that load %s at a time need a pool twice as large "
			"(--sessions, --run-bytes, --dram-bytes)",
			(unsigned)options->sessions, size_format(run_bytes(bench)).text);
	return bench_memory_check(options->dram_bytes + (256 << 20));
}

/* Makes a file as skepd makes it, and writes it through as skepd does. */
static int file_make(struct bench *bench, const char *path)
{
	uint64_t bytes = bench->run.options->ssd_bytes;
	struct disk_path disk = {path, bytes};
	struct disks_options options = {.paths = &disk, .count = 1};
	char why[REPLAY_WHY_BYTES];
	struct ssd_io *io;
	int64_t written = 0;

	if (disks_create(&options, &io, why, sizeof(why)))
		return bench_complain(EXIT_DAEMON, "%s", why);
	bytes = io->device_bytes[0];
	progress(bench, "writing a file through");
	while (written >= 0 && (uint64_t)written < bytes && !bench_interrupted())
		written = disks_write_through(io, 0, WRITTEN_BYTES);
	disks_destroy(io);
	if (written < 0)
		return bench_complain(
			EXIT_DAEMON, "%s: writing it: %s", path, strerror((int)-written));
	return bench_interrupted() ? BENCH_EXIT_INTERRUPTED : 0;
}

static int files_make(struct bench *bench)
{
	const struct bench_options *options = bench->run.options;
	char why[REPLAY_WHY_BYTES];
	int status = 0;

	if (replay_ssd_directory_make(
		    options->ssd_path, 2 * options->ssd_bytes, bench->directory, why))
		return bench_complain(EXIT_DAEMON, "%s", why);
	for (unsigned i = 0; !status && i < 2; i++) {
		snprintf(bench->files[i], PATH_BYTES, "%s/%u", bench->directory, i);
		status = file_make(bench, bench->files[i]);
	}
	return status;
}

/* A device that is clear before its first segment is new to skepd. */
static int head_clear(const char *path)
{
	static const _Alignas(SSD_UNIT_BYTES) char zeros[SSD_SEGMENTS_AT];
	int fd = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC), status = 0;

	if (fd < 0 || pwrite(fd, zeros, sizeof(zeros), 0) != sizeof(zeros))
		status = bench_complain(
			EXIT_DAEMON, "%s: cannot be written: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return status;
}

static int daemon_start(struct bench *bench)
{
	const struct bench_options *options = bench->run.options;
	struct replay_pool pool = {.blocks = options->dram_bytes / options->block_bytes,
		.payload_bytes = options->block_bytes,
		.block_tokens = TOKENS_KEPT,
		.ssd_blocks = options->ssd_bytes / options->block_bytes,
		.ssd_file = bench->files[bench->tier],
		.ssd_bytes = options->ssd_bytes};
	char why[REPLAY_WHY_BYTES];

	if (head_clear(pool.ssd_file))
		return EXIT_DAEMON;
	if (replay_daemon_start(&bench->daemon, &pool, why))
		return bench_complain(EXIT_UNREACHABLE, "%s", why);
	bench->run.socket = bench->daemon.socket;
	return ssd_clients_open(&bench->run);
}

static void daemon_stop(struct bench *bench)
{
	ssd_clients_close(&bench->run);
	replay_daemon_stop(&bench->daemon);
}

static int bench_create(struct bench *bench)
{
	const struct bench_options *options = bench->run.options;
	uint64_t blocks = MAX_OF(options->run_bytes / options->block_bytes, 1ull);
	int status;

	bench->run.run_blocks = (uint32_t)blocks;
	bench->run.runs_max = (uint32_t)(options->ssd_bytes / 8 * PUT_EIGHTHS / run_bytes(bench));
	status = sizes_check(bench);
	if (status)
		return status;
	bench->run.single = &bench->single;
	bench->run.order = memory_calloc(bench->run.runs_max, sizeof(*bench->run.order));
	if (!bench->run.order || samples_create(&bench->single, options->loads))
		return bench_complain(EXIT_DAEMON, "out of memory");
	for (unsigned i = 0; i < SPEED_COUNT; i++)
		if (samples_create(&bench->speeds[i], options->rounds))
			return bench_complain(EXIT_DAEMON, "out of memory");
	return 0;
}

static void bench_destroy(struct bench *bench)
{
	daemon_stop(bench);
	if (bench->directory[0])
		replay_ssd_directory_remove(bench->directory);
	memory_free(bench->run.order);
	samples_free(&bench->single);
	for (unsigned i = 0; i < SPEED_COUNT; i++)
		samples_free(&bench->speeds[i]);
}

/* ------------------------------------------------------------------------------------ passes */

/* Seconds of processor that this process and the daemon have used so far. */
static double cpu_used(const struct bench *bench)
{
	unsigned long long user = 0, kernel = 0;
	struct rusage mine;
	char path[64], line[1024], *end;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)bench->daemon.pid);
	file = fopen(path, "re");
	/* The name in it may hold anything; what is wanted are the 14th and the 15th word. */
	if (file && fgets(line, sizeof(line), file) && (end = strrchr(line, ')')))
		sscanf(end + 1, " %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %llu", &user,
			&kernel);
	if (file)
		fclose(file);
	getrusage(RUSAGE_SELF, &mine);
	return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK) +
	       (double)(mine.ru_utime.tv_sec + mine.ru_stime.tv_sec) +
	       (double)(mine.ru_utime.tv_usec + mine.ru_stime.tv_usec) / 1e6;
}

/* A round's figure is the mean of its halves: each file was the tier's once. */
static void speed_add(struct bench *bench, enum speed speed, double gib_s)
{
	if (bench->tier == 0)
		bench->first[speed] = gib_s;
	else
		samples_add(&bench->speeds[speed], (bench->first[speed] + gib_s) / 2);
}

static int tier_pass(struct bench *bench, enum ssd_pass_kind kind, enum speed speed)
{
	double cpu = cpu_used(bench);
	struct ssd_pass pass;
	int status;

	progress(bench, kind == SSD_PASS_PUT ? "putting" : "loading");
	status = ssd_pass_run(&bench->run, kind, &pass);
	if (status || bench_interrupted())
		return status;
	if (!pass.bytes)
		return bench_complain(EXIT_DAEMON,
			"nothing was moved within %u s: give more --seconds",
			(unsigned)bench->run.options->seconds);
	speed_add(bench, speed, (double)pass.bytes / GIB / ((double)pass.ns / NS_PER_S));
	bench->cpu_s += cpu_used(bench) - cpu;
	bench->moved_bytes += (double)pass.bytes;
	return 0;
}

static int fio_pass(struct bench *bench, bool write, unsigned depth, struct fio_result *result)
{
	const struct bench_options *options = bench->run.options;
	struct fio_run run = {.path = bench->files[!bench->tier],
		/* As many as were put: whatever caches a device has serve both. */
		.file_bytes = bench->put_bytes,
		.block_bytes = options->block_bytes,
		.depth = depth,
		.seconds = write ? 0 : (unsigned)options->seconds,
		.write = write};
	char why[512];

	if (bench_interrupted())
		return BENCH_EXIT_INTERRUPTED;
	progress(bench, write ? "fio writing" : "fio reading");
	if (fio_measure(&run, result, why, sizeof(why)))
		return bench_interrupted() ? BENCH_EXIT_INTERRUPTED
					   : bench_complain(EXIT_DAEMON, "%s", why);
	return 0;
}

/* What was put in this round is loaded in an order of its own. */
static void order_make(struct ssd_run *run)
{
	for (uint32_t i = 0; i < run->runs; i++) {
		uint32_t at = (uint32_t)(mix64(run->options->seed + run->names + i) % (i + 1));

		run->order[i] = run->order[at];
		run->order[at] = i;
	}
	atomic_store(&run->next, 0);
}

/* Every page of the pool is touched before anything is timed, by daemon and client. */
static int pool_touch(struct bench *bench)
{
	const struct bench_options *options = bench->run.options;
	uint32_t runs_max = bench->run.runs_max;
	struct ssd_pass pass;
	int status;

	bench->run.runs_max = (uint32_t)MIN_OF(
		divide_up(options->dram_bytes, run_bytes(bench)) + 1, (uint64_t)runs_max);
	status = ssd_pass_run(&bench->run, SSD_PASS_PUT, &pass);
	bench->run.runs_max = runs_max;
	return status ? status : ssd_pass_run(&bench->run, SSD_PASS_PURGE, &pass);
}

static int write_pass(struct bench *bench)
{
	int status = tier_pass(bench, SSD_PASS_PUT, SPEED_WRITE);

	bench->put_bytes = bench->run.runs * run_bytes(bench);
	return status;
}

static int write_pass_fio(struct bench *bench)
{
	struct fio_result fio;
	int status = fio_pass(bench, true, write_depth(bench->run.options), &fio);

	if (!status)
		speed_add(bench, SPEED_WRITE_FIO, fio.gib_s);
	return status;
}

static int read_pass(struct bench *bench)
{
	order_make(&bench->run);
	return tier_pass(bench, SSD_PASS_LOAD, SPEED_READ);
}

static int read_pass_fio(struct bench *bench)
{
	struct fio_result fio;
	int status = fio_pass(bench, false, read_depth(bench), &fio);

	if (!status)
		speed_add(bench, SPEED_READ_FIO, fio.gib_s);
	return status;
}

/*
 * The tier on one file, fio on the other. In the second half fio comes first: who writes last finds
 * more of it in what caches the device has.
 */
static int half_run(struct bench *bench)
{
	static int (*const passes[2][4])(struct bench * bench) = {
		{write_pass, write_pass_fio, read_pass, read_pass_fio},
		{write_pass_fio, write_pass, read_pass_fio, read_pass}};
	int status = daemon_start(bench);

	bench->run.names++;
	if (!status)
		status = pool_touch(bench);
	bench->run.names++;
	for (unsigned i = 0; i < 4 && !status; i++)
		status = passes[bench->tier][i](bench);
	return status;
}

/* Of the blocks that the last half left. */
static int singles_run(struct bench *bench)
{
	struct ssd_pass single;
	int status;

	progress(bench, "loading one by one");
	status = ssd_pass_run(&bench->run, SSD_PASS_SINGLE, &single);
	if (!status)
		status = fio_pass(bench, false, 1, &bench->fio_single);
	if (!status && !bench->single.count)
		return bench_complain(EXIT_DAEMON, "no block was on the ssd alone");
	return status;
}

static int rounds_run(struct bench *bench)
{
	const struct bench_options *options = bench->run.options;
	int status = 0;

	for (bench->round = 1; !status && bench->round <= options->rounds; bench->round++)
		for (bench->tier = 0; !status && bench->tier < 2; bench->tier++) {
			daemon_stop(bench);
			status = half_run(bench);
			if (bench_interrupted())
				return BENCH_EXIT_INTERRUPTED;
		}
	bench->round--;
	bench->tier = 1; /* whose daemon still runs */
	if (!status)
		status = singles_run(bench);
	progress_end(bench);
	return status;
}

/* ------------------------------------------------------------------------------------ report */

static int report(struct bench *bench)
{
	const struct bench_options *options = bench->run.options;
	double medians[SPEED_COUNT], wrong = (double)bench->run.wrong_blocks;
	int status;

	for (unsigned i = 0; i < SPEED_COUNT; i++)
		medians[i] = samples_quantile(&bench->speeds[i], 0.5);

	const struct figure figures[] = {
		{"read_gib_s", medians[SPEED_READ], "loaded from the ssd, verified", "read_gib_s",
			&bench->speeds[SPEED_READ]},
		{"ceiling_read_gib_s", medians[SPEED_READ_FIO], "fio, at random",
			"ceiling_read_gib_s", &bench->speeds[SPEED_READ_FIO]},
		FIGURE("read_ratio", medians[SPEED_READ] / medians[SPEED_READ_FIO], "of medians"),
		{"write_gib_s", medians[SPEED_WRITE], "put, from the first to durable all",
			"write_gib_s", &bench->speeds[SPEED_WRITE]},
		{"ceiling_write_gib_s", medians[SPEED_WRITE_FIO], "fio, in order",
			"ceiling_write_gib_s", &bench->speeds[SPEED_WRITE_FIO]},
		FIGURE("write_ratio", medians[SPEED_WRITE] / medians[SPEED_WRITE_FIO],
			"of medians"),
		FIGURE("cpu_s_per_gib", bench->cpu_s / (bench->moved_bytes / GIB),
			"seconds of processor, of client and daemon"),
		{"read_p50_us", samples_quantile(&bench->single, 0.5),
			"one block, nothing else under way", "read_us", &bench->single},
		FIGURE("read_p99_us", samples_quantile(&bench->single, 0.99), ""),
		FIGURE("ceiling_read_p50_us", (double)bench->fio_single.p50_ns / NS_PER_US,
			"fio, one request at a time"),
		FIGURE("ceiling_read_p99_us", (double)bench->fio_single.p99_ns / NS_PER_US, ""),
		FIGURE("block_bytes", (double)options->block_bytes, "of a block and a request"),
		FIGURE("ssd_bytes", (double)options->ssd_bytes, "of each file"),
		FIGURE("dram_bytes", (double)options->dram_bytes, "of the pool"),
		FIGURE("read_depth", read_depth(bench), "blocks asked for at a time, by both"),
		FIGURE("write_depth", write_depth(options), "blocks under way at a time, at most"),
		FIGURE("sessions", (double)options->sessions, "that load"),
		FIGURE("rounds", (double)options->rounds, "of the passes"),
		FIGURE("wrong_blocks", wrong, "whose bytes were not what was put"),
		FIGURE("", 0, ""),
	};
	status = figures_print(figures, options->json);
	return !status && wrong > 0 ? EXIT_NEGATIVE : status;
}

int bench_ssd(const struct bench_options *options)
{
	struct bench *bench = memory_zalloc(sizeof(*bench));
	char why[512];
	int status;

	if (!bench)
		return bench_complain(EXIT_DAEMON, "out of memory");
	bench->run.options = options;
	status = bench_create(bench);
	if (!status && fio_find(why, sizeof(why)))
		status = bench_complain(EXIT_DAEMON, "%s", why);
	if (!status)
		status = files_make(bench);
	if (!status)
		status = rounds_run(bench);
	if (!status)
		status = report(bench);
	bench_destroy(bench);
	memory_free(bench);
	return status;
}
