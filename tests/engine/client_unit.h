/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_ENGINE_CLIENT_UNIT_H
#define SKEP_TESTS_ENGINE_CLIENT_UNIT_H

#include <dirent.h>
#include <errno.h>
#include <skep/skep.h>

#include "tests/base/unit.h"

/* What a leak shows in: descriptors, mappings of a daemon's memory, threads. */
struct resources {
	unsigned descriptors, mappings, threads;
};

static inline unsigned folder_entries(const char *path)
{
	DIR *folder = opendir(path);
	unsigned count = 0;

	REQUIRE(folder != NULL);
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

/* @words: part of the name of the memory files to count. */
static inline struct resources resources_now(const char *words)
{
	struct resources now = {.descriptors = folder_entries("/proc/self/fd"),
		.threads = folder_entries("/proc/self/task")};
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];

	REQUIRE(maps != NULL);
	while (fgets(line, sizeof(line), maps))
		now.mappings += strstr(line, words) != NULL;
	fclose(maps);
	return now;
}

/* As things stand when nothing changes any more. */
static inline struct resources resources_settled(const char *words)
{
	struct resources now = resources_now(words), next;

	for (unsigned same = 0; same < 8; same++) {
		usleep(10000);
		next = resources_now(words);
		if (memcmp(&now, &next, sizeof(now)))
			same = 0;
		now = next;
	}
	return now;
}

/* The other side lets go in its own time: that much is waited for. */
static inline void resources_require(const struct resources *before, const char *words)
{
	struct resources now;

	for (unsigned tries = 0; tries < 500; tries++) {
		now = resources_now(words);
		if (!memcmp(&now, before, sizeof(now)))
			return;
		usleep(5000);
	}
	REQUIRE_EQ(now.descriptors, before->descriptors);
	REQUIRE_EQ(now.mappings, before->mappings);
	REQUIRE_EQ(now.threads, before->threads);
}

enum {
	UNIT_BLOCK_TOKENS = 16,
	UNIT_PART_BYTES = 4096,
	UNIT_LAYERS = 4,
	UNIT_LAYERED_BYTES = UNIT_LAYERS * 16 * 1024,
};

/* A space of blocks of 16 tokens and one part of 4 KiB. */
static inline int unit_space_open(struct skep *session, uint32_t flags, struct skep_space **space)
{
	static const struct skep_part_layout part = {.bytes = UNIT_PART_BYTES};
	struct skep_space_options options = {.struct_bytes = sizeof(options),
		.name = flags ? "opaque" : "unit",
		.model = "model",
		.block_tokens = UNIT_BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part,
		.flags = flags};

	return skep_space_open(session, &options, space);
}

static inline struct skep_space *unit_space(struct skep *session, uint32_t flags)
{
	struct skep_space *space;

	REQUIRE_EQ(unit_space_open(session, flags, &space), 0);
	return space;
}

/* A space of parts of four layers, which are verified alone. */
static inline struct skep_space *unit_layered_space(
	struct skep *session, const char *name, uint32_t flags)
{
	static const struct skep_part_layout part = {
		.bytes = UNIT_LAYERED_BYTES, .ranges = UNIT_LAYERS};
	struct skep_space_options options = {.struct_bytes = sizeof(options),
		.name = name,
		.block_tokens = UNIT_BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part,
		.flags = flags};
	struct skep_space *space;

	REQUIRE_EQ(skep_space_open(session, &options, &space), 0);
	return space;
}

/* A chain of so many blocks, its tokens a function of the seed. */
static inline struct skep_chain *unit_chain(
	struct skep_space *space, uint32_t blocks, uint64_t seed)
{
	struct skep_chain *chain;

	REQUIRE_EQ(skep_chain_create(space, &chain), 0);
	for (uint32_t i = 0; i < blocks * UNIT_BLOCK_TOKENS; i++) {
		uint32_t token = (uint32_t)mix64(seed * 1000003 + i) & 0xffff;

		REQUIRE(skep_chain_append(chain, &token, 1) >= 0);
	}
	REQUIRE_EQ(skep_chain_blocks(chain), blocks);
	return chain;
}

static inline struct skep *unit_open(const char *path, uint32_t flags)
{
	struct skep_open_options options = {
		.struct_bytes = sizeof(options), .flags = flags, .name = "unit"};
	struct skep *session;

	REQUIRE_EQ(skep_open(path, &options, &session), 0);
	return session;
}

/* Waits until skep_attached() says so; returns how long it took, in nanoseconds. */
static inline uint64_t unit_await_attached(struct skep *session, int wanted)
{
	uint64_t began = clock_ns();

	while (skep_attached(session) != wanted) {
		REQUIRE(clock_ns() - began < 10 * NS_PER_S);
		usleep(500);
	}
	return clock_ns() - began;
}

#endif
