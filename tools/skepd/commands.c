/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skepd/commands.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"

/*
 * The way from the keeper to the worker: one producer, one consumer, no lock that could hold the
 * keeper up. A session has one command under way, so a full ring means a crowd of sessions.
 */
enum { RING_COMMANDS = 256 };

struct commands {
	struct daemon *daemon;
	pthread_t thread;
	int wake; /* eventfd: counts what was pushed */
	_Atomic bool stopping;
	_Atomic uint32_t head, tail; /* worker takes at head, keeper pushes at tail */
	/* NULL: empty. Whoever exchanges a command out of its cell has it. */
	struct node_command *_Atomic ring[RING_COMMANDS];
};

int commands_take(void *arg, struct node_command *command)
{
	struct commands *commands = arg;
	uint32_t tail = atomic_load_explicit(&commands->tail, memory_order_relaxed);
	/* Acquire: pairs with the worker's release of the cell it has emptied. */
	uint32_t head = atomic_load_explicit(&commands->head, memory_order_acquire);
	uint64_t one = 1;

	if (atomic_load_explicit(&commands->stopping, memory_order_relaxed))
		return -ESHUTDOWN;
	if (tail - head == RING_COMMANDS)
		return -EAGAIN;
	atomic_store_explicit(&commands->ring[tail % RING_COMMANDS], command, memory_order_relaxed);
	/*
	 * S1. The worker that sees the tail sees the cell. Before S2 in the one order of all four
	 * S: if S2 finds no stop, S3 comes after it, and the worker's S4 sees this command.
	 */
	atomic_store_explicit(&commands->tail, tail + 1, memory_order_seq_cst);
	/* S2. After a stop nobody may come by any more: what is still in its cell is taken back. */
	if (atomic_load_explicit(&commands->stopping, memory_order_seq_cst) &&
		atomic_exchange_explicit(
			&commands->ring[tail % RING_COMMANDS], NULL, memory_order_relaxed))
		return -ESHUTDOWN;
	/* Cannot block: the counter would have to reach 2^64 - 1. */
	if (write(commands->wake, &one, sizeof(one)) < 0)
		log_error("commands", "the worker cannot be woken: %m");
	return 0;
}

static void command_run(struct commands *commands, struct node_command *command)
{
	static const char no_memory[] = "{\"error\": \"out of memory\", \"code\": \"ENOMEM\"}";
	const char *realm = NULL, *text;
	char *answer_text = NULL;
	size_t bytes;
	json_t *answer;

	text = node_command_text(command, &bytes);
	if (node_command_operator(command, &realm))
		realm = NULL;
	answer = command_answer(commands->daemon, realm, text, bytes);
	if (answer)
		answer_text = json_dumps(answer, JSON_COMPACT);
	json_decref(answer);
	if (answer_text)
		node_command_answer(command, answer_text, strlen(answer_text));
	else
		node_command_answer(command, no_memory, sizeof(no_memory) - 1);
	memory_free(answer_text);
}

static void command_refuse(struct node_command *command)
{
	static const char text[] =
		"{\"error\": \"the daemon is stopping\", \"code\": \"ESHUTDOWN\"}";

	node_command_answer(command, text, sizeof(text) - 1);
}

static void *commands_main(void *arg)
{
	struct commands *commands = arg;
	uint64_t count;

	for (;;) {
		/* Before S4: what was pushed before the stop is seen. */
		bool stopping = atomic_load_explicit(&commands->stopping, memory_order_seq_cst);
		uint32_t head = atomic_load_explicit(&commands->head, memory_order_relaxed);
		/* S4. Pairs with S1 in commands_take(). */
		uint32_t tail = atomic_load_explicit(&commands->tail, memory_order_seq_cst);
		struct node_command *command;

		if (head == tail) {
			if (stopping)
				return NULL;
			if (read(commands->wake, &count, sizeof(count)) < 0 && errno != EINTR)
				log_error("commands", "the worker cannot wait: %m");
			continue;
		}
		command = atomic_exchange_explicit(
			&commands->ring[head % RING_COMMANDS], NULL, memory_order_relaxed);
		/* Release: the keeper may fill the cell again. */
		atomic_store_explicit(&commands->head, head + 1, memory_order_release);
		if (command && stopping)
			command_refuse(command);
		else if (command)
			command_run(commands, command);
	}
}

int commands_create(struct daemon *daemon, struct commands **out)
{
	struct commands *commands = memory_zalloc(sizeof(*commands));
	int status;

	if (!commands)
		return -ENOMEM;
	commands->daemon = daemon;
	commands->wake = eventfd(0, EFD_CLOEXEC);
	if (commands->wake < 0) {
		status = -errno;
		goto free_commands;
	}
	status = -pthread_create(&commands->thread, NULL, commands_main, commands);
	if (status)
		goto close_wake;
	pthread_setname_np(commands->thread, "skep-commands");
	*out = commands;
	return 0;
close_wake:
	close(commands->wake);
free_commands:
	memory_free(commands);
	return status;
}

void commands_stop(struct commands *commands)
{
	uint64_t one = 1;

	/* S3, of commands_take(). */
	atomic_store_explicit(&commands->stopping, true, memory_order_seq_cst);
	if (write(commands->wake, &one, sizeof(one)) < 0)
		log_error("commands", "the worker cannot be woken: %m");
	pthread_join(commands->thread, NULL);
}

void commands_destroy(struct commands *commands)
{
	if (!commands)
		return;
	close(commands->wake);
	memory_free(commands);
}
