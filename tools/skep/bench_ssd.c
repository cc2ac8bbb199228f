/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/bench_ssd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "base/memory.h"
#include "base/status.h"

extern char **environ;

enum {
	FIO_TEXT_BYTES = 1 << 20, /* of a run: some 10 KiB */
	FIO_WORDS = 16,
	FIO_WORD_BYTES = 64,
	FIO_SETTINGS = 1024, /* of the environment */
};

#define GIB (double)(1ull << 30)

/* ------------------------------------------------------------------------------- what it says */

static uint64_t percentile(const json_t *side, const char *which)
{
	const json_t *times = json_object_get(json_object_get(side, "clat_ns"), "percentile");
	const json_t *value = json_object_get(times, which);

	return json_is_integer(value) ? (uint64_t)json_integer_value(value) : 0;
}

static int job_read(
	const json_t *job, bool write, struct fio_result *result, char *why, size_t why_bytes)
{
	const json_t *side = json_object_get(job, write ? "write" : "read");
	const json_t *bytes = json_object_get(side, "bw_bytes");
	const json_t *iops = json_object_get(side, "iops");
	json_int_t error = json_integer_value(json_object_get(job, "error"));

	if (error) {
		snprintf(why, why_bytes, "fio failed: %s", status_text(-(int)error));
		return -EIO;
	}
	if (!json_is_number(bytes) || !json_is_number(iops) || json_number_value(bytes) <= 0) {
		snprintf(why, why_bytes, "fio gave no bandwidth: another version? 3.x is known");
		return -EPROTO;
	}
	*result = (struct fio_result){
		.gib_s = json_number_value(bytes) / GIB,
		.iops = json_number_value(iops),
		.p50_ns = percentile(side, "50.000000"),
		.p99_ns = percentile(side, "99.000000"),
	};
	return 0;
}

int fio_parse(const char *text, bool write, struct fio_result *result, char *why, size_t why_bytes)
{
	const char *brace = strchr(text, '{');
	json_error_t error;
	json_t *root, *jobs;
	int status;

	/* Warnings come before it, on the same stream. */
	root = brace ? json_loads(brace, JSON_DISABLE_EOF_CHECK, &error) : NULL;
	jobs = json_object_get(root, "jobs");
	if (json_array_size(jobs) != 1) {
		snprintf(why, why_bytes, "fio did not answer in JSON: '%.80s'", text);
		status = -EPROTO;
	} else {
		status = job_read(json_array_get(jobs, 0), write, result, why, why_bytes);
	}
	json_decref(root);
	return status;
}

/* ------------------------------------------------------------------------------ how it is run */

/* The words of its command line. */
struct fio_words {
	char numbers[6][FIO_WORD_BYTES];
	char file[4200];
	char *argv[FIO_WORDS];
};

static int words_make(const struct fio_run *run, struct fio_words *words)
{
	char *fixed[] = {"fio", "--name=ceiling", "--output-format=json", "--direct=1",
		"--randrepeat=0", "--end_fsync=1"};
	unsigned count = 0;

	for (; count < sizeof(fixed) / sizeof(*fixed); count++)
		words->argv[count] = fixed[count];
	snprintf(words->numbers[0], FIO_WORD_BYTES, "--ioengine=%s",
		run->engine ? run->engine : "io_uring");
	snprintf(words->numbers[1], FIO_WORD_BYTES, "--rw=%s", run->write ? "write" : "randread");
	snprintf(words->numbers[2], FIO_WORD_BYTES, "--bs=%" PRIu64, run->block_bytes);
	snprintf(words->numbers[3], FIO_WORD_BYTES, "--iodepth=%u", run->depth);
	snprintf(words->numbers[4], FIO_WORD_BYTES, "--runtime=%u", run->seconds);
	snprintf(words->numbers[5], FIO_WORD_BYTES, "--size=%" PRIu64, run->file_bytes);
	for (unsigned i = 0; i < 6; i++)
		words->argv[count++] = words->numbers[i];
	if (run->seconds)
		words->argv[count++] = "--time_based";
	words->argv[count++] = words->file;
	words->argv[count] = NULL;
	/* fio takes ':' for the end of a file's name. */
	if (strchr(run->path, ':') || snprintf(words->file, sizeof(words->file), "--filename=%s",
					      run->path) >= (int)sizeof(words->file))
		return -EINVAL;
	return 0;
}

/*
 * The environment of this process, and that fio's buffers lie on huge pages where the system gives
 * them on advice: the pool does too, and a device may be twice as fast with them.
 */
static char **environment(char *settings[FIO_SETTINGS])
{
	static char huge_pages[] = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1";
	static const char name[] = "GLIBC_TUNABLES=";
	unsigned count = 0;

	settings[count++] = huge_pages;
	for (char **at = environ; *at && count < FIO_SETTINGS - 1; at++)
		if (strncmp(*at, name, sizeof(name) - 1) != 0)
			settings[count++] = *at;
	settings[count] = NULL;
	return settings;
}

/* Starts it with both of its streams into one pipe. Return: its process, or a negative errno. */
static pid_t fio_start(struct fio_words *words, int *from)
{
	posix_spawn_file_actions_t actions;
	char *settings[FIO_SETTINGS];
	int pipes[2], status;
	pid_t child = 0;

	if (pipe2(pipes, O_CLOEXEC))
		return -errno;
	status = posix_spawn_file_actions_init(&actions);
	if (status)
		goto close_pipes;
	status = posix_spawn_file_actions_adddup2(&actions, pipes[1], STDOUT_FILENO);
	if (!status)
		status = posix_spawn_file_actions_adddup2(&actions, pipes[1], STDERR_FILENO);
	if (!status)
		status = posix_spawnp(
			&child, words->argv[0], &actions, NULL, words->argv, environment(settings));
	posix_spawn_file_actions_destroy(&actions);
close_pipes:
	close(pipes[1]);
	if (status) {
		close(pipes[0]);
		return -status;
	}
	*from = pipes[0];
	return child;
}

/* Reads to the end; what does not fit is passed over. */
static void text_take(int from, char *text, size_t room)
{
	char rest[4096];
	size_t used = 0;
	ssize_t got;

	for (;;) {
		bool full = used == room - 1;

		got = full ? read(from, rest, sizeof(rest))
			   : read(from, text + used, room - 1 - used);
		if (got == 0 || (got < 0 && errno != EINTR))
			break;
		if (got > 0 && !full)
			used += (size_t)got;
	}
	text[used] = 0;
}

/* The first line that says something, for a complaint: the cause comes before the JSON. */
static const char *first_line(char *text)
{
	text += strspn(text, "\n ");
	text[strcspn(text, "\n")] = 0;
	return text;
}

/* Runs it to its end. @what: for a complaint, what it was to be run on. */
static int fio_wait(
	const char *what, struct fio_words *words, char *text, char *why, size_t why_bytes)
{
	int from = -1, ended = 0;
	pid_t child = fio_start(words, &from);

	if (child == -ENOENT) {
		snprintf(why, why_bytes,
			"fio is not installed, and it measures the ceiling: apt-get install fio");
		return -ENOENT;
	}
	if (child < 0) {
		snprintf(why, why_bytes, "fio cannot be started: %s", status_text((int)child));
		return (int)child;
	}
	text_take(from, text, FIO_TEXT_BYTES);
	close(from);
	while (waitpid(child, &ended, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (WIFSIGNALED(ended)) {
		snprintf(why, why_bytes, "fio was ended by signal %d", WTERMSIG(ended));
		return -EINTR;
	}
	if (WEXITSTATUS(ended)) {
		snprintf(why, why_bytes, "fio failed on %.200s: %.200s", what, first_line(text));
		return -EIO;
	}
	return 0;
}

int fio_find(char *why, size_t why_bytes)
{
	struct fio_words *words = memory_zalloc(sizeof(*words));
	char *text = memory_zalloc(FIO_TEXT_BYTES);
	int status = -ENOMEM;

	snprintf(why, why_bytes, "%s", status_text(status));
	if (words && text) {
		words->argv[0] = "fio";
		words->argv[1] = "--version";
		status = fio_wait("--version", words, text, why, why_bytes);
	}
	memory_free(words);
	memory_free(text);
	return status;
}

int fio_measure(const struct fio_run *run, struct fio_result *result, char *why, size_t why_bytes)
{
	struct fio_words *words = memory_zalloc(sizeof(*words));
	char *text = memory_zalloc(FIO_TEXT_BYTES);
	int status = words && text ? words_make(run, words) : -ENOMEM;

	if (status)
		snprintf(why, why_bytes, "%s: %s", run->path,
			status == -EINVAL ? "too long, or a ':' in it, which fio cannot take"
					  : status_text(status));
	else
		status = fio_wait(run->path, words, text, why, why_bytes);
	if (!status)
		status = fio_parse(text, run->write, result, why, why_bytes);
	memory_free(words);
	memory_free(text);
	return status;
}
