/* SPDX-License-Identifier: Apache-2.0 */
/* The way from the keeper to the command worker: every command is answered exactly once. */
#include "tools/skepd/commands.c"

#include "tests/base/unit.h"
#include "tests/tools/node_stub.h"

static struct daemon the_daemon = {.lock = PTHREAD_MUTEX_INITIALIZER};

static unsigned answers_now(void)
{
	unsigned count;

	pthread_mutex_lock(&stub.lock);
	count = stub.answers;
	pthread_mutex_unlock(&stub.lock);
	return count;
}

static void answers_wait(unsigned wanted)
{
	uint64_t until = clock_after(clock_ns(), 30 * NS_PER_S);

	while (answers_now() < wanted && clock_ns() < until)
		usleep(1000);
	REQUIRE_EQ(answers_now(), wanted);
}

/* With the worker busy the ring fills, the next one is not taken, and all taken are answered. */
static void a_full_ring_refuses(struct commands *commands)
{
	unsigned before = answers_now(), taken = 0;
	int status = 0;

	pthread_mutex_lock(&stub.lock); /* the stub's answer waits here */
	while (status == 0) {
		struct node_command *command = stub_command("{\"command\":\"spaces\"}", true, "a");

		status = commands_take(commands, command);
		if (status)
			stub_command_free(command);
		else
			taken++;
	}
	pthread_mutex_unlock(&stub.lock);
	REQUIRE_EQ(status, -EAGAIN);
	REQUIRE(taken >= RING_COMMANDS && taken <= RING_COMMANDS + 1);
	answers_wait(before + taken);
}

struct pusher {
	struct commands *commands;
	_Atomic unsigned taken, refused;
};

static void *pusher_main(void *arg)
{
	struct pusher *pusher = arg;

	/* As the keeper does: until long after the stop. */
	while (pusher->refused < 1000) {
		struct node_command *command = stub_command("{\"command\":\"spaces\"}", true, "a");
		int status = commands_take(pusher->commands, command);

		if (status) {
			REQUIRE(status == -ESHUTDOWN || status == -EAGAIN);
			pusher->refused += status == -ESHUTDOWN;
			stub_command_free(command);
		} else {
			pusher->taken++;
		}
	}
	return NULL;
}

/* A stop in the midst of pushing: each command is answered or was not taken, none is lost. */
static void a_stop_answers_all(struct commands *commands)
{
	struct pusher pusher = {.commands = commands};
	unsigned before = answers_now();
	pthread_t thread;

	REQUIRE_EQ(pthread_create(&thread, NULL, pusher_main, &pusher), 0);
	while (pusher.taken < 2000)
		usleep(100);
	commands_stop(commands);
	pthread_join(thread, NULL);
	REQUIRE_EQ(answers_now() - before, pusher.taken);
}

int main(void)
{
	char *words[] = {"skepd", "--volatile-secret", "--realm", "a", "--realm", "b", NULL};
	char why[SETTINGS_WHY_MAX];
	struct commands *commands;
	struct actions actions;

	unsetenv("SKEP_SOCKET");
	REQUIRE_EQ(settings_create(6, words, &the_daemon.settings, &actions, why), 0);
	the_daemon.node = stub_node();
	stub_reset();
	REQUIRE_EQ(commands_create(&the_daemon, &commands), 0);
	/* Bursts, and single ones that find the worker asleep. */
	for (unsigned i = 0; i < 1000; i++) {
		REQUIRE_EQ(commands_take(
				   commands, stub_command("{\"command\":\"spaces\"}", true, "a")),
			0);
		if (i % 100 == 99)
			answers_wait(i + 1);
	}
	REQUIRE(strstr(stub.answer, "llama"));
	/* A realm's own session is answered as that realm. */
	commands_take(commands, stub_command("{\"command\":\"config\"}", false, "a"));
	answers_wait(1001);
	REQUIRE(strstr(stub.answer, "EACCES"));
	commands_take(commands, stub_command("{\"command\":\"config\"}", true, "a"));
	answers_wait(1002);
	REQUIRE(!strstr(stub.answer, "error"));
	a_full_ring_refuses(commands);
	a_stop_answers_all(commands);
	commands_destroy(commands);
	settings_destroy(the_daemon.settings);
	return 0;
}
