/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a clean stop keeps: much is put and the daemon stopped at once, with no time, some, and
 * plenty. It says what the ssd holds then; the next start finds that and nothing that was not put,
 * and with plenty of time nothing is left behind.
 */
#include "tests/node/user.h"

enum {
	BLOCKS = 8,
	PART_BYTES = 64 << 10,
	DRAM_MIB = 192,
	SSD_MIB = 384,
	STORIES = 300, /* 150 MiB, less what the pool holds: nobody waits for writing */
	WRITERS = 2,
	TURNS = 3,
};

#define NO_TIME_NS (1ull) /* 0 is the standard */

static const struct shape shape = {
	.space = "stop", .block_tokens = 16, .parts = 1, .ranges = 2, .part_bytes = PART_BYTES};

struct share {
	const char *socket;
	uint64_t from, step;
	bool get;
};

static void client(int line, const void *arg)
{
	const struct share *share = arg;
	uint64_t had = 0;
	struct user user;

	user_open(&user, share->socket, &shape);
	for (uint64_t i = share->from; i < STORIES; i += share->step) {
		struct story story = story_open(&user, i * USER_FAMILY, BLOCKS);

		if (share->get)
			had += story_load(&user, &story);
		else
			story_put_all(&user, &story);
		story_close(&story);
	}
	note_tell(line, (struct note){.words = {had}});
	user_close(&user);
}

static uint64_t clients_run(const struct daemon *daemon, unsigned count, bool get)
{
	struct child clients[WRITERS];
	uint64_t had = 0;

	for (unsigned i = 0; i < count; i++) {
		struct share share = {daemon->config.socket_path, i, count, get};

		child_start(&clients[i], "a client", client, &share);
	}
	for (unsigned i = 0; i < count; i++)
		had += note_hear(clients[i].line).words[0];
	for (unsigned i = 0; i < count; i++)
		child_finish(&clients[i]);
	return had;
}

static void stop(uint64_t stop_ns, uint64_t turn)
{
	struct realm_status realm;
	struct daemon daemon;
	struct node_kept kept;
	uint64_t began, took, found, had;
	char name[32];

	daemon_init(&daemon,
		(struct daemon_size){.dram_bytes = (uint64_t)DRAM_MIB << 20, .blocks = 8192});
	daemon.realms[0].ssd_bytes = (uint64_t)SSD_MIB << 20;
	daemon.config.stop_ns = stop_ns;
	snprintf(name, sizeof(name), "ssd-%llu", (unsigned long long)turn);
	daemon_ssd_add(&daemon, name, (SSD_MIB + 16ull) << 20);
	daemon_start(&daemon);
	clients_run(&daemon, WRITERS, false);
	began = clock_ns();
	kept = daemon_keep(&daemon);
	took = clock_ns() - began;
	daemon_stop(&daemon);
	REQUIRE_EQ(kept.blocks + kept.blocks_left, STORIES * BLOCKS);
	REQUIRE(took < stop_ns + 2 * NS_PER_S * harness_slower());

	daemon_start(&daemon);
	daemon_realm(&daemon, 0, &realm);
	found = realm.counters[REALM_COUNTER_blocks_recovered];
	had = clients_run(&daemon, 1, true);
	printf("with %.3f s: %llu blocks kept and %llu left, it said after %.3f s; %llu found\n",
		(double)stop_ns / 1e9, (unsigned long long)kept.blocks,
		(unsigned long long)kept.blocks_left, (double)took / 1e9,
		(unsigned long long)found);
	REQUIRE(found >= kept.blocks && found <= STORIES * BLOCKS);
	/* A story whose beginning was not written has no later block either. */
	REQUIRE_EQ(had, found);
	daemon_stop(&daemon);
	unlink(daemon.ssds[0].path);
	if (stop_ns >= 10 * NS_PER_S) {
		REQUIRE_EQ(kept.blocks_left, 0);
		REQUIRE_EQ(found, STORIES * BLOCKS);
	}
}

int main(int argc, char **argv)
{
	static const uint64_t times_ns[TURNS] = {NO_TIME_NS, 20 * NS_PER_MS, 30 * NS_PER_S};

	harness_begin(&(struct harness_options){.argc = argc, .argv = argv, .seconds = 50});
	harness_need_disk((SSD_MIB + 256ull) << 20);
	for (uint64_t i = 0; i < TURNS; i++)
		stop(times_ns[i], i);
	return 0;
}
