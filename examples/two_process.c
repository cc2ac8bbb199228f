/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines match in a scheduler process and load in worker processes. The scheduler sends the
 * references of its match to the worker as plain data; the worker pins them in its own session,
 * says so, and copies the bytes out, verified. Only then does the scheduler release.
 *
 *	two_process    the daemon is where $SKEP_SOCKET says
 */
#include <skep/skep.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCK_TOKENS = 32, BLOCKS = 8, BLOCK_BYTES = 128 * 1024, RANGES = 4 };

/* What goes from the scheduler to the worker. */
struct order {
	uint32_t count;
	struct skep_ref refs[BLOCKS];
};

static void must(int64_t status, const char *what)
{
	if (status >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, skep_status_text((int)status));
	exit(1);
}

/* Each process opens its own session: one of before fork() answers -EOWNERDEAD afterwards. */
static struct skep *session_open(const char *name, struct skep_space **space)
{
	struct skep_part_layout part = {.bytes = BLOCK_BYTES, .ranges = RANGES};
	struct skep_open_options open_options = {
		.struct_bytes = sizeof(open_options), .name = name};
	struct skep_space_options options = {
		.struct_bytes = sizeof(options),
		.name = "two-process",
		.model = "a model and its revision",
		.block_tokens = BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part,
	};
	struct skep *session;

	must(skep_open(NULL, &open_options, &session), "open");
	must(skep_space_open(session, &options, space), "space");
	return session;
}

static void put_all(struct skep *session, struct skep_chain *chain)
{
	struct skep_frame frames[BLOCKS];
	struct skep_reserve request = {
		.struct_bytes = sizeof(request),
		.chain = chain,
		.deadline_ns = skep_deadline_ms(2000),
	};

	/* Frames can come in portions. */
	while (request.first < BLOCKS) {
		int count;

		request.count = BLOCKS - request.first;
		count = skep_reserve(session, &request, frames);
		must(count, "reserve");
		for (int i = 0; i < count; i++)
			if (frames[i].status == 0)
				memset(frames[i].bytes, '0' + (int)frames[i].block,
					frames[i].length);
		must(skep_commit(session, frames, (unsigned)count, NULL), "commit");
		request.first += (uint32_t)count;
	}
}

static int scheduler(int worker)
{
	struct skep_space *space;
	struct skep *session = session_open("scheduler", &space);
	uint32_t tokens[BLOCKS * BLOCK_TOKENS];
	struct order order = {0};
	struct skep_match match = {
		.struct_bytes = sizeof(match),
		.flags = SKEP_MATCH_PIN,
		.refs = order.refs,
		.refs_max = BLOCKS,
	};
	char pinned;

	for (uint32_t i = 0; i < BLOCKS * BLOCK_TOKENS; i++)
		tokens[i] = i * 3;
	must(skep_chain_create(space, &match.chain), "chain");
	must(skep_chain_append(match.chain, tokens, BLOCKS * BLOCK_TOKENS), "append");
	put_all(session, match.chain);
	must(skep_match(session, &match, 1), "match");
	order.count = match.matched;
	if (write(worker, &order, sizeof(order)) != sizeof(order))
		return 1;
	/* While our pin holds, the worker's pinning cannot fail. */
	if (read(worker, &pinned, 1) != 1)
		return 1;
	skep_release(session, &match.pin);
	skep_close(session);
	return order.count == BLOCKS ? 0 : 1;
}

static int worker(int scheduler_fd)
{
	static char bytes[BLOCK_BYTES];
	struct iovec to = {.iov_base = bytes, .iov_len = sizeof(bytes)};
	struct skep_space *space;
	struct skep *session = session_open("worker", &space);
	struct skep_copy copy = {
		.struct_bytes = sizeof(copy), .space = space, .to = &to, .to_count = 1};
	struct order order;
	struct skep_pin pin;
	int count;

	if (read(scheduler_fd, &order, sizeof(order)) != sizeof(order))
		return 1;
	count = skep_pin_refs(session, order.refs, order.count, &pin);
	must(count, "pin");
	if (write(scheduler_fd, "p", 1) != 1)
		return 1;
	for (int i = 0; i < count; i++) {
		copy.ref = order.refs[i];
		must(skep_copy(session, &copy), "copy");
		printf("worker: block %d is %.8s…\n", i, bytes);
	}
	skep_release(session, &pin);
	skep_close(session);
	return (uint32_t)count == order.count ? 0 : 1;
}

int main(void)
{
	int pair[2], status, ended;
	pid_t child;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return 1;
	child = fork();
	if (child < 0)
		return 1;
	if (child == 0) {
		close(pair[0]);
		return worker(pair[1]);
	}
	close(pair[1]);
	status = scheduler(pair[0]);
	close(pair[0]);
	if (waitpid(child, &ended, 0) < 0)
		return 1;
	return status || !WIFEXITED(ended) || WEXITSTATUS(ended) ? 1 : 0;
}
