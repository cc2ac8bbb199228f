/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state that one daemon hands to the next, damaged on its way: cut off anywhere, or with bytes
 * changed. A successor that reads it says no, or finds it sound and is sent away; it never crashes,
 * and the daemon that the state was taken from serves on.
 *
 *	takeover_state_test [STATES] [--seed N]
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/log.h"
#include "store/hand_priv.h"
#include "tests/node/user.h"
#include "transport/local/server_hand.h"

enum {
	DRAM_BYTES = 4 << 20,
	PART_BYTES = 64 << 10,
	BLOCKS = 4,
	STORIES = 20, /* more than there is room for */
	FDS_MAX = 400,
};

static const struct shape shape = {
	.space = "state", .block_tokens = 16, .parts = 2, .ranges = 2, .part_bytes = PART_BYTES};

enum { TOLD_READY = 1, TOLD_STOP };

static struct daemon serving;

/* A client with a bit of everything: blocks, a pin, a reservation, a session. */
static void client_body(int line, const void *arg)
{
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve), .count = BLOCKS};
	struct skep_frame frames[BLOCKS];
	struct skep_ref refs[BLOCKS];
	struct skep_match match;
	struct story story;
	struct user user;

	user_open(&user, arg, &shape);
	for (uint64_t i = 0; i < STORIES; i++) {
		story = story_open(&user, i * USER_FAMILY, BLOCKS);
		story_put_all(&user, &story);
		story_close(&story);
	}
	story = story_open(&user, (STORIES - 1) * USER_FAMILY, BLOCKS);
	match = story_match(&user, &story, SKEP_MATCH_PIN, refs);
	REQUIRE_EQ(match.matched, BLOCKS);
	story_close(&story);
	story = story_open(&user, 999, BLOCKS);
	reserve.chain = story.chain;
	reserve.deadline_ns = skep_deadline_ms(1000);
	REQUIRE_EQ(skep_reserve(user.session, &reserve, frames), BLOCKS);
	note_tell(line, (struct note){.what = TOLD_READY});
	while (!line_told(line))
		sleep_ms(5);
	skep_release(user.session, &match.pin);
	story_close(&story);
	user_close(&user);
}

/* ---------------------------------------------------------------------------- the state, stolen */

struct stolen {
	uint8_t *bytes;
	size_t count;
	int fds[FDS_MAX];
	unsigned fd_count;
};

static int socket_at(const char *path, bool listens)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	REQUIRE(fd >= 0);
	if (listens)
		REQUIRE(bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 &&
			listen(fd, 4) == 0);
	else
		REQUIRE_EQ(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void state_steal(const char *path, struct stolen *out)
{
	struct hand_message message = hand_message(HAND_ASK);
	struct hand_line line = {
		.fd = socket_at(path, false), .deadline_ns = clock_ns() + 5 * NS_PER_S};
	int fds[WIRE_FDS_MAX];
	struct stat file;
	unsigned count;
	uint32_t want;

	message.version = HAND_VERSION;
	message.page_version = PAGE_VERSION;
	message.index_version = INDEX_LAYOUT_VERSION;
	REQUIRE_EQ(hand_send(&line, &message, NULL, 0), 0);
	REQUIRE_EQ(hand_receive(&line, &message, fds, &count), 0);
	REQUIRE(message.kind == HAND_STATE && count == 1);
	want = message.fd_count;
	REQUIRE(want <= FDS_MAX && fstat(fds[0], &file) == 0);
	out->count = (size_t)file.st_size;
	out->bytes = mmap(NULL, out->count, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[0], 0);
	REQUIRE(out->bytes != MAP_FAILED);
	close(fds[0]);
	while (out->fd_count < want) {
		REQUIRE_EQ(hand_receive(&line, &message, out->fds + out->fd_count, &count), 0);
		out->fd_count += count;
	}
	close(line.fd);
}

/* The same text of the same length elsewhere. */
static void path_replace(struct stolen *state, const char *from, const char *to)
{
	uint8_t *at = memmem(state->bytes, state->count, from, strlen(from) + 1);

	REQUIRE(at && strlen(from) == strlen(to));
	memcpy(at, to, strlen(to));
}

/* ------------------------------------------------------------------------------------- damage */

static void state_damage(uint8_t *bytes, size_t *count, uint64_t *random)
{
	switch (unit_random(random, 4)) {
	case 0: /* cut off */
		*count = 1 + unit_random(random, *count);
		break;
	case 1: /* somewhere: mostly in the large arrays */
		bytes[unit_random(random, *count)] ^= (uint8_t)(1u << unit_random(random, 8));
		break;
	default: { /* a word of the head of a section, or of one of the small ones in front */
		size_t at = 0;

		for (uint64_t skip = unit_random(random, 24); skip; skip--) {
			const struct hand_section *section = (const void *)(bytes + at);
			size_t next = at + sizeof(*section) +
				      align_up(section->count * section->each_bytes, 8);

			if (next + sizeof(*section) > *count)
				break;
			at = next;
		}
		at += unit_random(random, 48);
		if (at < *count)
			bytes[at] = (uint8_t)unit_random(random, 256);
	}
	}
}

/* Plays the predecessor to one who asks. Return: how far that one came. */
static uint32_t state_offer(int listener, const struct stolen *state, uint64_t *random)
{
	struct hand_line line = {.deadline_ns = clock_ns() + 10 * NS_PER_S * harness_slower()};
	struct hand_message message = hand_message(HAND_STATE);
	uint8_t *bytes = malloc(state->count);
	size_t count = state->count;
	unsigned got;
	int file = memfd_create("damaged", MFD_CLOEXEC), fds[WIRE_FDS_MAX], status;

	REQUIRE(bytes && file >= 0);
	memcpy(bytes, state->bytes, count);
	if (unit_random(random, 16)) /* else whole: it must be found sound */
		state_damage(bytes, &count, random);
	REQUIRE_EQ(write(file, bytes, count), (ssize_t)count);
	free(bytes);
	line.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	REQUIRE(line.fd >= 0);
	REQUIRE_EQ(hand_receive(&line, &message, fds, &got), 0);
	message = hand_message(HAND_STATE);
	message.fd_count = state->fd_count;
	REQUIRE_EQ(hand_send(&line, &message, &file, 1), 0);
	close(file);
	message.kind = HAND_FDS;
	for (unsigned at = 0; at < state->fd_count; at += WIRE_FDS_MAX)
		hand_send(&line, &message, state->fds + at,
			MIN_OF(state->fd_count - at, (unsigned)WIRE_FDS_MAX));
	/* It says READY or REFUSE, or ends; then it is sent away. */
	status = hand_receive(&line, &message, fds, &got);
	close(line.fd);
	return status < 0 ? 0 : message.kind;
}

static void successor_body(int line, const void *arg)
{
	struct daemon daemon = *(const struct daemon *)arg;
	struct node *node;
	char why[256];

	(void)line;
	log_set_level(LOG_LEVEL_ERROR);
	daemon.config.realms = daemon.realms;
	daemon.config.takeover = true;
	REQUIRE(node_create(&daemon.config, &node, why, sizeof(why)) < 0);
}

static void thief_body(int line, const void *arg)
{
	struct daemon other = serving;
	struct stolen state = {.fd_count = 0};
	uint64_t random = harness_seed;
	unsigned sound = 0;
	int listener;

	(void)arg;
	(void)line;
	other.config.socket_path[strlen(other.config.socket_path) - 1] ^= 'a' ^ 'A';
	listener = socket_at(other.config.socket_path, true);
	state_steal(serving.config.socket_path, &state);
	path_replace(&state, serving.config.socket_path, other.config.socket_path);
	for (uint64_t i = 0; i < harness_count; i++) {
		struct child successor;

		child_start(&successor, "a successor", successor_body, &other);
		sound += state_offer(listener, &state, &random) == HAND_READY;
		child_finish(&successor);
	}
	printf("%u of %llu states were found sound\n", sound, (unsigned long long)harness_count);
	REQUIRE(sound > 0 && sound < harness_count);
}

int main(int argc, char **argv)
{
	struct daemon_size size = {DRAM_BYTES, 256};
	struct child client, thief;

	harness_begin(
		&(struct harness_options){.argc = argc, .argv = argv, .seconds = 60, .count = 60});
	daemon_init(&serving, size);
	daemon_start(&serving);
	child_start(&client, "the client", client_body, serving.config.socket_path);
	REQUIRE_EQ(note_hear(client.line).what, TOLD_READY);
	child_start(&thief, "the thief", thief_body, NULL);
	while (child_runs(&thief))
		sleep_ms(20);
	child_finish(&thief);
	note_tell(client.line, (struct note){.what = TOLD_STOP});
	child_finish(&client);
	daemon_stop(&serving);
	return 0;
}
