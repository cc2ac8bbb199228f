/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The manifest: rows come back in order, batches are written in order and told on the loop's
 * thread, what was durable outlives a killed process, and memory stays within its bound.
 */
#include <sys/resource.h>

#include "tests/tiering/ssd/manifest_scene.h"

static const char *program;

/* --- rows ------------------------------------------------------------------------------------- */

static void rows_come_back_in_order_by_prefix(void)
{
	struct scene scene = opened("rows");
	struct seen seen = {.end_after = 2};

	require_rows(&scene, "", "");
	put(&scene, "b/2", "two");
	put(&scene, "a/9", "nine");
	put(&scene, "b/1", "one");
	put(&scene, "b", "short");
	put(&scene, "c/1", "");
	put(&scene, "b\xff", "high");
	/* What is gathered is not there before it is committed. */
	require_rows(&scene, "", "");
	REQUIRE_EQ(commit_wait(&scene, false), 0);
	require_rows(&scene, "b/", "b/1=one b/2=two ");
	require_rows(&scene, "b", "b=short b/1=one b/2=two b\xff=high ");
	require_rows(&scene, "d", "");
	REQUIRE_EQ(manifest_each(scene.manifest, "", 0, see, &seen), -ECANCELED);
	REQUIRE_TEXT(seen.text, "a/9=nine b=short ");
	scene_close(&scene);
	/* And after a close that followed a commit without durable. */
	scene = opened("rows");
	require_rows(&scene, "", "a/9=nine b=short b/1=one b/2=two b\xff=high c/1= ");
	scene_close(&scene);
}

static void rows_are_deleted_one_by_one_and_by_range(void)
{
	struct scene scene = opened("deleted");

	for (char key[2] = "a"; *key <= 'h'; ++*key)
		put(&scene, key, key);
	REQUIRE_EQ(commit_wait(&scene, false), 0);
	REQUIRE_EQ(manifest_delete(scene.manifest, "a", 1), 0);
	REQUIRE_EQ(manifest_delete(scene.manifest, "nothing", 7), 0);
	REQUIRE_EQ(manifest_delete_range(scene.manifest, "c", "f", 1), 0);
	put(&scene, "d", "again"); /* rows of a batch count in the order given */
	REQUIRE_EQ(commit_wait(&scene, true), 0);
	require_rows(&scene, "", "b=b d=again f=f g=g h=h ");
	scene_close(&scene);
	scene = opened("deleted");
	require_rows(&scene, "", "b=b d=again f=f g=g h=h ");
	scene_close(&scene);
}

/* --- batches ---------------------------------------------------------------------------------- */

static void batches_are_written_in_order_and_told_once(void)
{
	enum { BATCHES = 300 };
	struct scene scene = opened("order");
	struct commit commits[BATCHES] = {0};
	unsigned turn = 0, refused = 0;
	struct manifest_status status;
	char value[16];

	for (unsigned i = 0; i < BATCHES; i++) {
		snprintf(value, sizeof(value), "%u", i);
		put(&scene, "last", value);
		put(&scene, value, "");
		commits[i].turn = &turn;
		commits[i].number = i;
		while (commit_begin(&scene, &commits[i], i % 50 == 0) == -EAGAIN) {
			refused++;
			REQUIRE(loop_run_once(scene.loop, CLOCK_NEVER) >= 0);
		}
	}
	while (turn < BATCHES)
		REQUIRE(loop_run_once(scene.loop, CLOCK_NEVER) >= 0);
	for (unsigned i = 0; i < BATCHES; i++)
		REQUIRE(commits[i].calls == 1 && commits[i].status == 0);
	require_rows(&scene, "last", "last=299 ");
	manifest_status_get(scene.manifest, &status);
	REQUIRE_EQ(status.batches, BATCHES);
	REQUIRE_EQ(status.rows_waiting, 0);
	REQUIRE_EQ(status.errors, 0);
	REQUIRE(status.memory_bytes > 0);
	printf("%d batches, %u were asked again\n", BATCHES, refused);
	scene_close(&scene);
}

static void too_many_batches_are_refused_and_lose_nothing(void)
{
	struct scene scene = opened("full");
	struct commit commits[16] = {0}, last = {0};
	struct manifest_status status;
	char key[16];
	unsigned taken = 0;

	/* Slots come back when the loop has run: until then eight are taken and no more. */
	for (;; taken++) {
		snprintf(key, sizeof(key), "k%02u", taken);
		put(&scene, key, "v");
		if (commit_begin(&scene, &commits[taken], false))
			break;
	}
	REQUIRE_EQ(taken, 8);
	REQUIRE_EQ(commit_begin(&scene, &last, true), -EAGAIN);
	put(&scene, "k09", "v");
	manifest_status_get(scene.manifest, &status);
	REQUIRE_EQ(status.rows_waiting, 10);
	while (!commits[0].calls)
		REQUIRE(loop_run_once(scene.loop, CLOCK_NEVER) >= 0);
	REQUIRE_EQ(commit_begin(&scene, &last, true), 0);
	while (!last.calls)
		REQUIRE(loop_run_once(scene.loop, CLOCK_NEVER) >= 0);
	require_rows(&scene, "k", "k00=v k01=v k02=v k03=v k04=v k05=v k06=v k07=v k08=v k09=v ");
	/* One without rows, and nobody to tell. */
	REQUIRE_EQ(manifest_commit(scene.manifest, true, NULL), 0);
	REQUIRE_EQ(commit_wait(&scene, true), 0);
	scene_close(&scene);
}

struct again {
	struct commit commit;
	int status; /* of a commit made from within done() */
};

static void again_done(struct manifest_done *done, int status)
{
	struct again *again = (struct again *)done;

	REQUIRE_EQ(status, 0);
	again->commit.calls++;
	again->status = manifest_commit(again->commit.scene->manifest, false, NULL);
}

static void nothing(void *argument)
{
	(void)argument;
}

/* The keeper is in the close itself: its mailbox is full and nobody empties it. */
static void a_close_tells_what_is_under_way(void)
{
	struct scene scene = {0};
	struct commit commits[6] = {0};
	struct again again = {.commit = {.scene = &scene, .done = {again_done}}, .status = 1};

	for (int full = 0; full < 2; full++) {
		scene_loop(&scene, 2);
		REQUIRE_EQ(scene_open(&scene, in_root("close"), false), 0);
		while (full && mailbox_post(scene.mailbox, nothing, NULL, 0) == 0)
			;
		for (size_t i = 0; i < ARRAY_COUNT(commits); i++) {
			put(&scene, "row", full ? "second" : "first");
			commits[i].calls = 0;
			REQUIRE_EQ(commit_begin(&scene, &commits[i], false), 0);
		}
		again.commit.calls = 0;
		REQUIRE_EQ(manifest_commit(scene.manifest, false, &again.commit.done), 0);
		put(&scene, "row", "never committed");
		manifest_close(scene.manifest);
		for (size_t i = 0; i < ARRAY_COUNT(commits); i++)
			REQUIRE(commits[i].calls == 1 && commits[i].status == 0);
		REQUIRE(again.commit.calls == 1 && again.status == -ESHUTDOWN);
		scene.manifest = NULL;
		scene_close(&scene);
		scene = opened("close");
		require_rows(&scene, "", full ? "row=second " : "row=first ");
		scene_close(&scene);
	}
	manifest_close(NULL);
}

/* A limit on the size of files stands for a full file system. */
static void after_a_failed_write_nothing_is_written(void)
{
	struct scene scene = opened("failing");
	struct rlimit before, small;
	struct manifest_status status;
	static char large[300000];

	put(&scene, "before", "");
	REQUIRE_EQ(commit_wait(&scene, true), 0);
	REQUIRE_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
	signal(SIGXFSZ, SIG_IGN);
	small = (struct rlimit){65536, before.rlim_max};
	REQUIRE_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
	REQUIRE_EQ(manifest_put(scene.manifest, "large", 5, large, sizeof(large)), 0);
	REQUIRE_EQ(commit_wait(&scene, true), -ENOSPC);
	REQUIRE_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
	put(&scene, "after", "");
	REQUIRE_EQ(commit_wait(&scene, true), -ENOSPC);
	manifest_status_get(scene.manifest, &status);
	REQUIRE_EQ(status.batches, 1);
	REQUIRE_EQ(status.errors, 2);
	REQUIRE_EQ(status.rows_waiting, 0);
	scene_close(&scene);
	scene = opened("failing");
	require_rows(&scene, "", "before= ");
	scene_close(&scene);
}

/* --- other processes -------------------------------------------------------------------------- */

/* Runs this program again with two words. Return: as waitpid tells. */
static int again_run(const char *what, const char *path)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		execl(program, program, what, path, (char *)NULL);
		_exit(127);
	}
	REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
	return status;
}

/* The child: durable rows, then rows that are not, then the end without a close. */
static int child_killed(const char *path)
{
	struct scene scene = {0};
	char key[16];

	REQUIRE_EQ(scene_open(&scene, path, false), 0);
	for (unsigned i = 0; i < 100; i++) {
		snprintf(key, sizeof(key), "d%02u", i);
		put(&scene, key, "");
		if (i % 10 == 9)
			REQUIRE_EQ(commit_wait(&scene, i == 99), 0);
	}
	put(&scene, "gathered", "");
	raise(SIGKILL);
	return 1;
}

static int child_open(const char *path)
{
	struct scene scene = {0};
	int status = scene_open(&scene, path, false);

	scene_close(&scene);
	return -status;
}

static void durable_rows_outlive_a_kill(void)
{
	struct scene scene;
	struct seen seen = {0};
	int status = again_run("killed", in_root("killed"));

	REQUIRE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	scene = opened("killed");
	REQUIRE_EQ(manifest_each(scene.manifest, "d", 1, see, &seen), 0);
	REQUIRE_EQ(seen.count, 100);
	require_rows(&scene, "g", "");
	scene_close(&scene);
}

static void a_second_opening_is_refused(void)
{
	struct scene scene = opened("shared"), second = {0};
	int status = again_run("open", in_root("shared"));

	REQUIRE(WIFEXITED(status));
	REQUIRE_EQ(WEXITSTATUS(status), EBUSY);
	REQUIRE_EQ(scene_open(&second, in_root("shared"), false), -EBUSY);
	REQUIRE(strstr(why, "another process"));
	scene_close(&second);
	/* The first is none the worse. */
	put(&scene, "row", "v");
	REQUIRE_EQ(commit_wait(&scene, true), 0);
	scene_close(&scene);
	status = again_run("open", in_root("shared"));
	REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* What lies in a directory: a sum over names, sizes, inodes and times. */
static uint64_t folder_state(const char *path)
{
	DIR *directory = opendir(path);
	struct dirent *entry;
	uint64_t sum = 0;

	REQUIRE(directory);
	while ((entry = readdir(directory))) {
		struct stat file;

		REQUIRE_EQ(fstatat(dirfd(directory), entry->d_name, &file, 0), 0);
		if (strcmp(entry->d_name, ".."))
			sum += (uint64_t)file.st_ino * 31 + (uint64_t)file.st_size * 7 +
			       (uint64_t)file.st_mtim.tv_sec * 1000000007 +
			       (uint64_t)file.st_mtim.tv_nsec + strlen(entry->d_name);
	}
	closedir(directory);
	return sum;
}

static int look_open(const char *path, struct manifest **manifest)
{
	struct manifest_options options = {.path = path, .read_only = true};

	return manifest_open(&options, manifest, why, sizeof(why));
}

static int child_look(const char *path)
{
	struct manifest *manifest = NULL;
	int status = look_open(path, &manifest);

	manifest_close(manifest);
	return -status;
}

static uint64_t looked_rows(const char *path)
{
	struct manifest *manifest = NULL;
	struct seen seen = {0};
	uint64_t before = folder_state(path);

	REQUIRE_EQ(look_open(path, &manifest), 0);
	REQUIRE_EQ(manifest_each(manifest, "d", 1, see, &seen), 0);
	manifest_close(manifest);
	REQUIRE_EQ(folder_state(path), before);
	return seen.count;
}

static void who_only_looks_changes_nothing(void)
{
	struct manifest *manifest = NULL;
	struct scene scene;
	FILE *file;
	int status = again_run("killed", in_root("looked"));

	REQUIRE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	REQUIRE_EQ(looked_rows(in_root("looked")), 100); /* in logs alone */
	scene = opened("looked");
	status = again_run("look", in_root("looked"));
	REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == EBUSY);
	scene_close(&scene);
	REQUIRE_EQ(access(in_root("looked/SEAL"), F_OK), 0);
	REQUIRE_EQ(looked_rows(in_root("looked")), 100);
	REQUIRE_EQ(access(in_root("looked/SEAL"), F_OK), 0);
	file = fopen(in_root("looked/CURRENT"), "a");
	REQUIRE(file && fputc('x', file) == 'x' && fclose(file) == 0);
	REQUIRE_EQ(look_open(in_root("looked"), &manifest), -EBADMSG);
	REQUIRE_EQ(look_open(in_root("nothing"), &manifest), -ENOENT);
	REQUIRE(strstr(why, "not there"));
	REQUIRE(access(in_root("nothing"), F_OK) < 0);
}

static void a_path_that_cannot_be_is_said(void)
{
	struct scene scene = {0};
	FILE *file = fopen(in_root("file"), "w");

	REQUIRE(file && fclose(file) == 0);
	REQUIRE_EQ(scene_open(&scene, in_root("no/where"), false), -ENOENT);
	REQUIRE(strstr(why, "directory above"));
	REQUIRE_EQ(scene_open(&scene, in_root("file"), false), -ENOTDIR);
	REQUIRE_EQ(scene_open(&scene, root, false), -ENOTEMPTY);
	REQUIRE(strstr(why, "other files"));
	REQUIRE_EQ(unlink(in_root("file")), 0);
	scene_close(&scene);
}

/* --- memory ----------------------------------------------------------------------------------- */

static uint64_t resident_bytes(void)
{
	unsigned long long size = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "r");

	REQUIRE(file && fscanf(file, "%llu %llu", &size, &resident) == 2);
	fclose(file);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void memory_stays_within_its_bound(void)
{
	enum { ROWS = 200000, BOUND = 16 << 20 };
	uint64_t before, most = 0, grown = 0, state = 7;
	struct scene scene = opened("bound");
	struct manifest_status status;
	unsigned char value[100];
	uint64_t rows = 0;

	before = resident_bytes();
	for (uint64_t i = 0; i < ROWS; i++) {
		for (size_t at = 0; at < sizeof(value); at++)
			value[at] = (unsigned char)unit_random(&state, 256);
		numbered_put(&scene, i, value, sizeof(value));
		if (i % 1000 != 999)
			continue;
		REQUIRE_EQ(commit_wait(&scene, i % 50000 == 49999), 0);
		manifest_status_get(scene.manifest, &status);
		most = MAX_OF(most, status.memory_bytes);
		grown = MAX_OF(grown, resident_bytes() - MIN_OF(before, resident_bytes()));
	}
	REQUIRE_EQ(manifest_each(scene.manifest, "", 0, count, &rows), 0);
	REQUIRE_EQ(rows, ROWS);
	/* The second asking tells what the first one had counted. */
	for (int i = 0; i < 2; i++) {
		manifest_status_get(scene.manifest, &status);
		usleep(50000);
	}
	most = MAX_OF(most, status.memory_bytes);
	printf("%d rows: RocksDB says %llu KiB at most, the process grew by %llu KiB\n", ROWS,
		(unsigned long long)most >> 10, (unsigned long long)grown >> 10);
	REQUIRE(most > 0 && most <= BOUND);
#ifndef UNIT_SANITIZED
	/* Besides what it counts: its code, threads, files being written. */
	REQUIRE(grown <= 2 * BOUND);
#endif
	scene_close(&scene);
}

/* A keeper that goes on gathering while nothing is taken meets a bound, not the end of memory. */
static void waiting_rows_are_bounded(void)
{
	struct scene scene = opened("waiting");
	struct manifest_status status;
	static char value[1000];
	uint64_t taken = 0;

	while (manifest_put(scene.manifest, &taken, sizeof(taken), value, sizeof(value)) == 0)
		taken++;
	REQUIRE(taken > 1000 && taken * sizeof(value) <= 2 << 20);
	manifest_status_get(scene.manifest, &status);
	REQUIRE_EQ(status.rows_waiting, taken);
	REQUIRE_EQ(status.errors, 1);
	REQUIRE_EQ(commit_wait(&scene, false), 0);
	put(&scene, "y", "z");
	REQUIRE_EQ(commit_wait(&scene, false), 0);
	manifest_status_get(scene.manifest, &status);
	REQUIRE_EQ(status.rows_waiting, 0);
	scene_close(&scene);
}

static void memory_may_fail(void)
{
	struct manifest_options options = {.path = in_root("memory")};
	struct scene scene = {0};
	struct manifest_status status;
	unsigned long nth;

	scene_loop(&scene, 64);
	options.mailbox = scene.mailbox;
	for (nth = 1;; nth++) {
		int rc;

		memory_fail_after(nth, 0);
		rc = manifest_open(&options, &scene.manifest, why, sizeof(why));
		memory_fail_after(0, 0);
		if (!rc)
			break;
		REQUIRE(rc == -ENOMEM || rc == -EAGAIN);
		REQUIRE(*why);
	}
	REQUIRE(nth > 5);
	put(&scene, "a", "1");
	memory_fail_after(1, 1);
	REQUIRE_EQ(manifest_put(scene.manifest, "b", 1, "2", 1), -ENOMEM);
	REQUIRE_EQ(manifest_delete(scene.manifest, "a", 1), -ENOMEM);
	REQUIRE_EQ(manifest_delete_range(scene.manifest, "a", "b", 1), -ENOMEM);
	memory_fail_after(0, 0);
	put(&scene, "c", "3");
	REQUIRE_EQ(commit_wait(&scene, false), 0);
	require_rows(&scene, "", "a=1 c=3 ");
	manifest_status_get(scene.manifest, &status);
	REQUIRE_EQ(status.errors, 3);
	scene_close(&scene);
}

int main(int argc, char **argv)
{
	program = argv[0];
	if (argc == 3 && !strcmp(argv[1], "killed"))
		return child_killed(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "open"))
		return child_open(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "look"))
		return child_look(argv[2]);
	scene_begin();
	rows_come_back_in_order_by_prefix();
	rows_are_deleted_one_by_one_and_by_range();
	batches_are_written_in_order_and_told_once();
	too_many_batches_are_refused_and_lose_nothing();
	a_close_tells_what_is_under_way();
	after_a_failed_write_nothing_is_written();
	durable_rows_outlive_a_kill();
	a_second_opening_is_refused();
	who_only_looks_changes_nothing();
	a_path_that_cannot_be_is_said();
	memory_stays_within_its_bound();
	waiting_rows_are_bounded();
	memory_may_fail();
	scene_end();
	return 0;
}
