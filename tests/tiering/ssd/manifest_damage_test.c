/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each file of a manifest deleted, emptied, cut, changed: damage is said, never met with a crash.
 */
#include "tests/tiering/ssd/manifest_scene.h"

static void file_copy(const char *from, const char *to)
{
	char buffer[65536];
	FILE *in = fopen(from, "r"), *out = fopen(to, "w");
	size_t got;

	REQUIRE(in && out);
	while ((got = fread(buffer, 1, sizeof(buffer), in)) > 0)
		REQUIRE_EQ(fwrite(buffer, 1, got, out), got);
	fclose(in);
	REQUIRE_EQ(fclose(out), 0);
}

static void folder_copy(const char *from, const char *to)
{
	DIR *directory = opendir(from);
	struct dirent *entry;
	char one[512], other[512];

	REQUIRE(directory && mkdir(to, 0700) == 0);
	while ((entry = readdir(directory))) {
		snprintf(one, sizeof(one), "%.200s/%.255s", from, entry->d_name);
		snprintf(other, sizeof(other), "%.200s/%.255s", to, entry->d_name);
		if (entry->d_type == DT_REG)
			file_copy(one, other);
	}
	closedir(directory);
}

enum { DAMAGE_ROWS = 20000 };

/* Tables, and rows in the log behind them. */
static void damage_prepare(const char *path)
{
	struct manifest_options options = {.path = path, .memory_bytes = 4 << 20};
	struct scene scene = {0};
	static char value[100];

	scene_loop(&scene, 64);
	options.mailbox = scene.mailbox;
	REQUIRE_EQ(manifest_open(&options, &scene.manifest, why, sizeof(why)), 0);
	for (uint64_t i = 0; i < DAMAGE_ROWS; i++) {
		numbered_put(&scene, i, value, sizeof(value));
		if (i % 100 == 99)
			REQUIRE_EQ(commit_wait(&scene, false), 0);
	}
	REQUIRE_EQ(commit_wait(&scene, true), 0);
	scene_close(&scene);
}

enum damage { DELETED, EMPTIED, HALVED, FLIPPED, DAMAGES };

/* What a damaged file led to. */
struct outcome {
	const char *name;
	enum damage damage;
	bool sealed;
	int status;
	uint64_t rows;
	bool hole; /* a row is missing before one that is there */
};

static unsigned tables_told; /* damage of a table that was seen */

static void file_damage(const char *path, enum damage damage)
{
	struct stat found;
	unsigned char byte;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	REQUIRE(fd >= 0 && fstat(fd, &found) == 0);
	if (damage == DELETED)
		REQUIRE_EQ(unlink(path), 0);
	else if (damage == EMPTIED)
		REQUIRE_EQ(ftruncate(fd, 0), 0);
	else if (damage == HALVED)
		REQUIRE_EQ(ftruncate(fd, found.st_size / 2), 0);
	else if (found.st_size) {
		REQUIRE_EQ(pread(fd, &byte, 1, found.st_size / 2), 1);
		byte ^= 0xff;
		REQUIRE_EQ(pwrite(fd, &byte, 1, found.st_size / 2), 1);
	}
	close(fd);
}

static bool ends(const char *name, const char *ending)
{
	size_t length = strlen(name), part = strlen(ending);

	return length >= part && !strcmp(name + length - part, ending);
}

/*
 * All rows, a beginning of them, or a refusal. After a crash (no seal) RocksDB cannot tell a
 * MANIFEST that was cut short from an older one, nor what is gone of several logs.
 */
static void damage_judge(const struct outcome *of)
{
	static const char *const words[] = {"deleted", "emptied", "halved", "flipped"};
	bool named = !strcmp(of->name, "CURRENT") || !strncmp(of->name, "MANIFEST-", 9);
	bool log = ends(of->name, ".log"), table = ends(of->name, ".sst");

	printf("%s%s %s: %d, %llu rows%s%s\n", of->sealed ? "sealed " : "", of->name,
		words[of->damage], of->status, (unsigned long long)of->rows, *why ? ": " : "", why);
	REQUIRE(of->status == 0 || of->status == -EBADMSG || of->status == -EIO);
	if (of->sealed && (named || log))
		REQUIRE_EQ(of->status, -EBADMSG);
	/* A table that a compaction has replaced may lie there until the next start. */
	if (table)
		REQUIRE(of->status == -EBADMSG || of->rows == DAMAGE_ROWS);
	tables_told += table && of->status == -EBADMSG;
	if (!of->sealed && named && of->damage != HALVED)
		REQUIRE_EQ(of->status, -EBADMSG);
	if (of->status == -EBADMSG && *why)
		REQUIRE(strstr(why, "skep fsck --rebuild"));
	if (of->status == 0 && !log && !named)
		REQUIRE_EQ(of->rows, DAMAGE_ROWS);
	REQUIRE(!of->hole || (!of->sealed && (named || log)));
}

struct numbers {
	uint64_t next, rows;
};

static int number_see(
	void *arg, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
	struct numbers *numbers = arg;
	uint64_t number;

	(void)value, (void)value_bytes;
	REQUIRE_EQ(key_bytes, 8);
	memcpy(&number, key, sizeof(number));
	numbers->next = __builtin_bswap64(number) + 1;
	numbers->rows++;
	return 0;
}

static void damage_try(const char *name, enum damage damage, bool sealed)
{
	struct outcome outcome = {.name = name, .damage = damage, .sealed = sealed};
	struct numbers numbers = {0};
	struct scene scene = {0};
	char broken[512], full[800];

	snprintf(broken, sizeof(broken), "%s", in_root("broken"));
	folder_copy(in_root("whole"), broken);
	if (!sealed)
		REQUIRE_EQ(unlink(in_root("broken/SEAL")), 0);
	snprintf(full, sizeof(full), "%s/%s", broken, name);
	file_damage(full, damage);
	outcome.status = scene_open(&scene, broken, false);
	if (!outcome.status)
		outcome.status = manifest_each(scene.manifest, "", 0, number_see, &numbers);
	outcome.rows = numbers.rows;
	outcome.hole = numbers.rows != numbers.next;
	damage_judge(&outcome);
	scene_close(&scene);
	folder_remove(broken);
}

static void damage_is_said(void)
{
	struct dirent *entry;
	DIR *directory;

	damage_prepare(in_root("whole"));
	directory = opendir(in_root("whole"));
	REQUIRE(directory);
	while ((entry = readdir(directory)))
		for (int i = 0; entry->d_type == DT_REG && i < 2 * DAMAGES; i++)
			if (i < DAMAGES || strcmp(entry->d_name, "SEAL") != 0)
				damage_try(entry->d_name, (enum damage)(i % DAMAGES), i < DAMAGES);
	closedir(directory);
}

/* After a crash, the only log there is deleted: RocksDB alone would open it without its rows. */
static void a_missing_log_is_seen(void)
{
	struct scene scene = opened("unlogged");

	put(&scene, "row", "v");
	REQUIRE_EQ(commit_wait(&scene, true), 0);
	scene_close(&scene);
	REQUIRE_EQ(unlink(in_root("unlogged/SEAL")), 0);
	REQUIRE_EQ(unlink(in_root("unlogged/000004.log")), 0);
	REQUIRE_EQ(scene_open(&scene, in_root("unlogged"), false), -EBADMSG);
	scene_close(&scene);
}

/* What has lost its CURRENT or its MANIFEST can be put together again from the rest. */
static void a_repair_brings_the_rows_back(void)
{
	char broken[512], full[800];

	snprintf(broken, sizeof(broken), "%s", in_root("broken"));
	for (int round = 0; round < 2; round++) {
		struct scene scene = {0};
		struct dirent *entry;
		uint64_t rows = 0;
		DIR *directory;

		folder_copy(in_root("whole"), broken);
		directory = opendir(broken);
		while (directory && (entry = readdir(directory)))
			if (!strncmp(entry->d_name, round ? "MANIFEST-" : "CURRENT", 7)) {
				snprintf(full, sizeof(full), "%s/%s", broken, entry->d_name);
				REQUIRE_EQ(unlink(full), 0);
			}
		closedir(directory);
		REQUIRE_EQ(scene_open(&scene, broken, true), 0);
		REQUIRE_EQ(manifest_each(scene.manifest, "", 0, count, &rows), 0);
		REQUIRE_EQ(rows, DAMAGE_ROWS);
		scene_close(&scene);
		REQUIRE_EQ(scene_open(&scene, broken, false), 0);
		scene_close(&scene);
		folder_remove(broken);
	}
	/* A repair of nothing makes a new one. */
	{
		struct scene scene = {0};

		REQUIRE_EQ(scene_open(&scene, broken, true), 0);
		scene_close(&scene);
		folder_remove(broken);
	}
}

/* A making that was cut short leaves no CURRENT: it is begun again. */
static void an_unfinished_making_is_begun_again(void)
{
	struct scene scene;

	REQUIRE_EQ(mkdir(in_root("young"), 0700), 0);
	for (unsigned i = 0; i < 4; i++) {
		static const char *const names[] = {
			"young/LOCK", "young/LOG", "young/MANIFEST-000001", "young/000001.dbtmp"};
		FILE *file = fopen(in_root(names[i]), "w");

		REQUIRE(file && fclose(file) == 0);
	}
	scene = opened("young");
	put(&scene, "row", "v");
	REQUIRE_EQ(commit_wait(&scene, true), 0);
	scene_close(&scene);
}

int main(void)
{
	scene_begin();
	damage_is_said();
	REQUIRE(tables_told >= 2 * DAMAGES);
	a_missing_log_is_seen();
	a_repair_brings_the_rows_back();
	an_unfinished_making_is_begun_again();
	scene_end();
	return 0;
}
