/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_TIERING_SSD_MANIFEST_SCENE_H
#define SKEP_TESTS_TIERING_SSD_MANIFEST_SCENE_H

/* A manifest with the loop it tells on, in a directory of the test. */

#include "tiering/ssd/manifest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "tests/base/unit.h"

static char root[64];
static char why[512];

struct scene {
	struct loop *loop;
	struct mailbox *mailbox;
	struct manifest *manifest;
	pthread_t thread;
};

static inline const char *in_root(const char *name)
{
	static char paths[4][512];
	static unsigned turn;
	char *path = paths[turn++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", root, name);
	return path;
}

/* --- files ------------------------------------------------------------------------------------ */

static inline void folder_remove(const char *path)
{
	DIR *directory = opendir(path);
	struct dirent *entry;
	char full[512];

	while (directory && (entry = readdir(directory))) {
		snprintf(full, sizeof(full), "%.200s/%.255s", path, entry->d_name);
		if (entry->d_name[0] != '.' && unlink(full) && (errno == EISDIR || errno == EPERM))
			folder_remove(full);
	}
	if (directory)
		closedir(directory);
	rmdir(path);
}

/* --- a manifest with its loop ----------------------------------------------------------------- */

static inline void scene_loop(struct scene *scene, uint32_t capacity)
{
	struct loop_options options = {.backend = LOOP_BACKEND_EPOLL};

	scene->thread = pthread_self();
	REQUIRE_EQ(loop_create(&options, &scene->loop), 0);
	REQUIRE_EQ(mailbox_create(scene->loop, capacity, &scene->mailbox), 0);
}

static inline int scene_open(struct scene *scene, const char *path, bool repair)
{
	struct manifest_options options = {.path = path, .repair = repair};
	int status;

	if (!scene->loop)
		scene_loop(scene, 64);
	options.mailbox = scene->mailbox;
	*why = 0;
	status = manifest_open(&options, &scene->manifest, why, sizeof(why));
	/* Whatever is refused comes with a text. */
	REQUIRE(!status || *why);
	if (status)
		scene->manifest = NULL;
	return status;
}

static inline struct scene opened(const char *name)
{
	struct scene scene = {0};
	int status = scene_open(&scene, in_root(name), false);

	if (status)
		fprintf(stderr, "%s\n", why);
	REQUIRE_EQ(status, 0);
	return scene;
}

static inline void scene_close(struct scene *scene)
{
	manifest_close(scene->manifest);
	mailbox_destroy(scene->mailbox);
	loop_destroy(scene->loop);
	*scene = (struct scene){0};
}

/* One commit: told when it is done. */
struct commit {
	struct manifest_done done;
	struct scene *scene;
	unsigned *turn;	 /* shared by those whose order counts */
	unsigned number; /* its own place in that order */
	unsigned calls;
	int status;
};

static inline void commit_done(struct manifest_done *done, int status)
{
	struct commit *commit = (struct commit *)done;

	REQUIRE(pthread_equal(pthread_self(), commit->scene->thread));
	commit->calls++;
	commit->status = status;
	if (commit->turn)
		REQUIRE_EQ(commit->number, (*commit->turn)++);
}

static inline int commit_begin(struct scene *scene, struct commit *commit, bool durable)
{
	commit->done.done = commit_done;
	commit->scene = scene;
	return manifest_commit(scene->manifest, durable, &commit->done);
}

static inline int commit_wait(struct scene *scene, bool durable)
{
	struct commit commit = {0};

	REQUIRE_EQ(commit_begin(scene, &commit, durable), 0);
	while (!commit.calls)
		REQUIRE(loop_run_once(scene->loop, CLOCK_NEVER) >= 0);
	REQUIRE_EQ(commit.calls, 1);
	return commit.status;
}

static inline void put(struct scene *scene, const char *key, const char *value)
{
	REQUIRE_EQ(manifest_put(scene->manifest, key, strlen(key), value, strlen(value)), 0);
}

/* "key=value key=value " of what was visited. */
struct seen {
	char text[512];
	unsigned count, end_after;
};

static inline int see(
	void *arg, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
	struct seen *seen = arg;
	size_t length = strlen(seen->text);

	snprintf(seen->text + length, sizeof(seen->text) - length, "%.*s=%.*s ", (int)key_bytes,
		(const char *)key, (int)value_bytes, (const char *)value);
	return ++seen->count == seen->end_after ? -ECANCELED : 0;
}

static inline void require_rows(struct scene *scene, const char *prefix, const char *wanted)
{
	struct seen seen = {0};

	REQUIRE_EQ(manifest_each(scene->manifest, prefix, strlen(prefix), see, &seen), 0);
	REQUIRE_TEXT(seen.text, wanted);
}

/* --- numbered rows ---------------------------------------------------------------------------- */

static inline int count(
	void *arg, const void *key, size_t key_bytes, const void *value, size_t bytes)
{
	uint64_t *next = arg, number;

	(void)value, (void)bytes;
	/* Rows are numbered: what is read is a beginning of them, without a hole. */
	REQUIRE_EQ(key_bytes, 8);
	memcpy(&number, key, sizeof(number));
	REQUIRE_EQ(__builtin_bswap64(number), *next);
	++*next;
	return 0;
}

static inline void numbered_put(
	struct scene *scene, uint64_t number, const void *value, size_t bytes)
{
	uint64_t key = __builtin_bswap64(number);

	REQUIRE_EQ(manifest_put(scene->manifest, &key, sizeof(key), value, bytes), 0);
}

static inline void scene_begin(void)
{
	snprintf(root, sizeof(root), "/tmp/skep-manifest-XXXXXX");
	REQUIRE(mkdtemp(root));
}

static inline void scene_end(void)
{
	folder_remove(root);
}

#endif
