/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening sessions and spaces: against a daemon that is not there or says nonsense, with too few
 * descriptors, with memory that runs out, in a child of fork(). Each error has its name, nothing
 * leaks.
 */
#include <fcntl.h>
#include <sys/resource.h>

#include "base/memory.h"
#include "base/status.h"
#include "engine/client/client_priv.h"
#include "tests/engine/client_unit.h"
#include "tests/engine/fake.h"

static struct fake fake = {.secret = 3};

/* ---------------------------------------------------------------------------------- opening */

static int open_status(const char *where, uint32_t flags, uint64_t deadline_ns)
{
	struct skep_open_options options = {
		.struct_bytes = sizeof(options), .flags = flags, .deadline_ns = deadline_ns};
	struct skep *session = NULL;
	int status = skep_open(where, &options, &session);

	REQUIRE_EQ(status == 0, session != NULL);
	skep_close(session);
	return status;
}

static void opening_without_a_daemon_says_so(void)
{
	char long_path[200];

	memset(long_path, 'a', sizeof(long_path));
	long_path[sizeof(long_path) - 1] = 0;
	REQUIRE_EQ(open_status("/tmp/skep-nobody-here.sock", 0, 0), -ENOENT);
	REQUIRE_EQ(open_status("unix:/tmp/skep-nobody-here.sock", 0, 0), -ENOENT);
	REQUIRE_EQ(open_status(long_path, 0, 0), -ENAMETOOLONG);
	REQUIRE_EQ(open_status("embedded:dram=1GiB", 0, 0), -ENOTSUP);
	REQUIRE_EQ(open_status("/tmp/skep-nobody-here.sock", 4, 0), -EINVAL);
	REQUIRE_EQ(open_status("/tmp/skep-nobody-here.sock", SKEP_OPEN_NO_WAIT, 0), 0);
	REQUIRE_EQ(setenv("SKEP_SOCKET", "/tmp/skep-nobody-here.sock", 1), 0);
	REQUIRE_EQ(open_status(NULL, 0, 0), -ENOENT);
	REQUIRE_EQ(skep_open(NULL, NULL, NULL), -EINVAL);
	skep_close(NULL);
}

static void options_are_read_by_their_size(void)
{
	struct {
		struct skep_open_options options;
		uint64_t unknown;
	} later = {.options = {.struct_bytes = sizeof(later), .flags = SKEP_OPEN_NO_WAIT}};
	struct skep *session = NULL;

	REQUIRE_EQ(skep_open(fake.path, &later.options, &session), 0);
	skep_close(session);
	later.unknown = 1; /* says something that this library does not know */
	REQUIRE_EQ(skep_open(fake.path, &later.options, &session), -E2BIG);
	later.options.struct_bytes = sizeof(later.options) - 1;
	REQUIRE_EQ(skep_open(fake.path, &later.options, &session), -EINVAL);
}

static void wrong_answers_are_refused_by_name(void)
{
	static const int wanted[] = {
#define X(name, status) status,
		FAKE_FAULT_TABLE(X)
#undef X
	};
	struct resources before;

	REQUIRE_EQ(open_status(fake.path, 0, 0), 0);
	before = resources_settled("fake-");
	for (int fault = 1; fault < FAKE_FAULT_COUNT; fault++) {
		fake.fault = fault;
		printf("fault %d\n", fault);
		REQUIRE_EQ(
			open_status(fake.path, 0, fault == FAKE_SILENT ? skep_deadline_ms(50) : 0),
			wanted[fault]);
		resources_require(&before, "fake-");
	}
	fake.fault = FAKE_NONE;
	REQUIRE_EQ(open_status(fake.path, 0, 0), 0);
	resources_require(&before, "fake-");
}

/* Descriptors run out at each place in turn. */
static void few_descriptors_are_an_error_and_no_leak(void)
{
	struct resources before;
	struct rlimit limit, small;
	bool opened = false;

	before = resources_settled("fake-");
	REQUIRE_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
	/* The daemon needs some too: it is of this process. So all but the first few are taken. */
	for (unsigned room = 0; !opened; room++) {
		unsigned top = 0;
		int status;

		for (int fd = 0; fd < 1024; fd++)
			if (fcntl(fd, F_GETFD) >= 0)
				top = (unsigned)fd;
		small = limit;
		small.rlim_cur = top + 1 + room;
		REQUIRE_EQ(setrlimit(RLIMIT_NOFILE, &small), 0);
		status = open_status(fake.path, 0, skep_deadline_ms(100));
		REQUIRE_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
		opened = status == 0;
		REQUIRE(room < 64);
		if (!opened)
			REQUIRE(status == -EMFILE || status == -ETIMEDOUT || status == SKEP_EDOWN ||
				status == -EPROTO);
		resources_require(&before, "fake-");
	}
}

static void space_options_are_checked_by_name(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_part_layout parts[2] = {{.bytes = 8192, .ranges = 2}, {.bytes = 4096}};
	struct skep_space_options good = {.struct_bytes = sizeof(good),
		.name = "space",
		.block_tokens = 16,
		.part_count = 2,
		.parts = parts};
	struct skep_space_options bad;
	struct skep_space *space;
	char long_text[300];

	memset(long_text, 'm', sizeof(long_text));
	long_text[sizeof(long_text) - 1] = 0;
#define REFUSED(change, status, field)                                                             \
	do {                                                                                       \
		bad = good;                                                                        \
		change;                                                                            \
		REQUIRE_EQ(skep_space_open(session, &bad, &space), status);                        \
		REQUIRE_TEXT(skep_space_field(session), field);                                    \
	} while (0)
	REFUSED(bad.name = NULL, -EINVAL, "name");
	REFUSED(bad.name = "", -EINVAL, "name");
	REFUSED(bad.name = long_text, -EINVAL, "name");
	REFUSED(bad.model = long_text, -EINVAL, "model");
	REFUSED(bad.engine = long_text, -EINVAL, "engine");
	REFUSED(bad.block_tokens = 0, -EINVAL, "block_tokens");
	REFUSED(bad.block_tokens = 16385, -EINVAL, "block_tokens");
	REFUSED(bad.groups = 2, -ENOTSUP, "groups");
	REFUSED(bad.part_count = 0, -EINVAL, "part_count");
	REFUSED(bad.part_count = 65, -EINVAL, "part_count");
	REFUSED(bad.parts = NULL, -EINVAL, "parts");
	REFUSED(bad.flags = 2, -EINVAL, "flags");
	REFUSED(parts[1].bytes = 0, -EINVAL, "parts[1].bytes");
	parts[1].bytes = 4096;
	REFUSED(parts[1].ranges = 2, -EINVAL, "parts[1].ranges");
	parts[1].ranges = 3;
	REFUSED((void)0, -EINVAL, "parts[1].ranges");
	parts[1].ranges = 0;
	REFUSED(parts[1].rank = 1, -EINVAL, "parts[1].rank");
	parts[1].rank = 0;
	REFUSED(parts[0].group = 1, -EINVAL, "parts[0].group");
	parts[0].group = 0;
	REFUSED(bad.name = "differs", SKEP_EDIFFERS, "model");
#undef REFUSED
	REQUIRE_EQ(skep_space_open(session, NULL, &space), -EINVAL);
	REQUIRE_EQ(skep_space_open(session, &good, &space), 0);
	REQUIRE_TEXT(skep_space_field(session), "");
	skep_space_close(space);
	for (unsigned i = 0; i < 64; i++)
		REQUIRE_EQ(skep_space_open(session, &good, &space), 0);
	REQUIRE_EQ(skep_space_open(session, &good, &space), -ENOSPC);
	skep_space_close(space);
	REQUIRE_EQ(skep_space_open(session, &good, &space), 0);
	REQUIRE_EQ(skep_sync(space, skep_deadline_ms(1000)), -ENOTSUP);
	REQUIRE_EQ(skep_space_purge(space, skep_deadline_ms(1000)), 7);
	/* What may come undone by a crash is no success. */
	fake.sync_failure = -EIO;
	REQUIRE_EQ(skep_sync(space, skep_deadline_ms(1000)), -EIO);
	REQUIRE_EQ(skep_space_purge(space, skep_deadline_ms(1000)), -EIO);
	fake.sync_failure = 0;
	skep_close(session);
}

/* ------------------------------------------------------------------------ fork, threads, memory */

static int in_child(struct skep *session, struct skep_space *space, struct skep_chain *chain,
	struct skep_queue *queue)
{
	struct skep_match match = {
		.struct_bytes = sizeof(match), .chain = chain, .flags = SKEP_MATCH_PIN};
	struct skep_reserve reserve = {.struct_bytes = sizeof(reserve), .chain = chain, .count = 1};
	struct skep_wait wait = {.struct_bytes = sizeof(wait), .chain = chain};
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};
	struct skep_explanation why = {.struct_bytes = sizeof(why)};
	struct skep_copy copy = {.struct_bytes = sizeof(copy), .space = space};
	struct skep_space_options options = {.struct_bytes = sizeof(options)};
	struct skep_pin pin = {.cell = 1, .epoch = 1};
	struct skep_ref ref = {0};
	struct skep_view view;
	struct skep_frame frame = {0};
	struct skep_event event;
	struct skep_space *new_space;
	struct skep_chain *new_chain;
	struct skep_queue *new_queue;
	struct skep *own;
	uint32_t token = 1, block;
	uint8_t id[16];

#define DEAD(call)                                                                                 \
	do {                                                                                       \
		if ((call) != -EOWNERDEAD)                                                         \
			return __LINE__;                                                           \
	} while (0)
	DEAD(skep_attached(session));
	DEAD(skep_match(session, &match, 1));
	DEAD(skep_pin_refs(session, &ref, 1, &pin));
	DEAD(skep_view(session, &ref, 0, &view));
	DEAD(skep_copy(session, &copy));
	DEAD(skep_reserve(session, &reserve, &frame));
	DEAD(skep_commit(session, &frame, 1, NULL));
	DEAD(skep_abort(session, &frame, 1));
	DEAD(skep_missing(session, chain, 0, 0, &block, 1));
	DEAD(skep_wait(session, &wait));
	DEAD(skep_hint(session, chain, 0, 1));
	DEAD(skep_explain(session, chain, 0, &why));
	DEAD(skep_stats(session, 0, &stats));
	DEAD(skep_space_open(session, &options, &new_space));
	DEAD(skep_space_purge(space, 0));
	DEAD(skep_space_step(space, 0));
	DEAD(skep_chain_create(space, &new_chain));
	DEAD(skep_chain_append(chain, &token, 1));
	DEAD(skep_chain_extra(chain, "a", 1));
	DEAD(skep_chain_id(chain, 0, id));
	DEAD(skep_queue_create(session, &new_queue));
	DEAD(skep_queue_fd(queue));
	DEAD(skep_queue_take(queue, &event, 1));
#undef DEAD
	if (skep_chain_blocks(chain) != 0)
		return __LINE__;
	skep_release(session, &pin);
	skep_chain_truncate(chain, 0);
	skep_chain_destroy(chain);
	skep_queue_destroy(queue);
	skep_space_close(space);
	skep_close(session);
#if defined(__SANITIZE_THREAD__)
	puts("TSan takes no threads in a child of fork(): a session of its own is not tried");
	return 0;
#endif
	/* A session of its own works. */
	if (skep_open(fake.path, NULL, &own) || skep_attached(own) != 1)
		return __LINE__;
	match.chain = unit_chain(unit_space(own, 0), 1, 20);
	if (skep_match(own, &match, 1) || match.matched != 1)
		return __LINE__;
	skep_release(own, &match.pin);
	skep_close(own);
	return 0;
}

static struct skep_match match_all(struct skep *session, struct skep_chain *chain)
{
	struct skep_match match = {
		.struct_bytes = sizeof(match), .chain = chain, .flags = SKEP_MATCH_PIN};

	REQUIRE_EQ(skep_match(session, &match, 1), 0);
	return match;
}

static void child_of_fork_touches_nothing(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_space *space = unit_space(session, 0);
	struct skep_chain *chain = unit_chain(space, 1, 20);
	struct skep_queue *queue;
	struct skep_match match;
	int status;
	pid_t child;

	fake_block(&fake, chain, 0, ENTRY_PRESENT, UNIT_PART_BYTES);
	REQUIRE_EQ(skep_queue_create(session, &queue), 0);
	match = match_all(session, chain);
	REQUIRE_EQ(match.matched, 1);
	child = fork();
	if (child == 0) {
		int line = in_child(session, space, chain, queue);

		if (line)
			fprintf(stderr, "in the child: line %d\n", line);
		_exit(line != 0);
	}
	REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
	REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	/* The parent's pin stands as it stood. */
	REQUIRE(session->current->pins[match.pin.cell].generation >= 2000);
	skep_release(session, &match.pin);
	skep_close(session);
}

static void second_thread_in_a_session_is_told(void)
{
	struct skep *session = unit_open(fake.path, 0);
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};

	atomic_store(&session->busy, 1); /* as if another thread were inside */
	REQUIRE_EQ(skep_stats(session, 0, &stats), -EBUSY);
	REQUIRE_EQ(skep_match(session, NULL, 0), -EBUSY);
	atomic_store(&session->busy, 0);
	skep_close(session);
}

/* A count is no error. */
static int failing(int status)
{
	return status < 0 ? status : 0;
}

/* One of everything; the first error ends it. */
static int use_everything(void)
{
	struct skep_part_layout part = {.bytes = 4096};
	struct skep_space_options options = {.struct_bytes = sizeof(options),
		.name = "space",
		.block_tokens = 16,
		.part_count = 1,
		.parts = &part};
	struct skep_space_options opaque = options;
	uint32_t tokens[1000] = {0};
	struct skep_space *space;
	struct skep_chain *chain, *keys;
	struct skep_queue *queue;
	struct skep_ref refs[4] = {0};
	struct skep_pin pin;
	struct skep *session;
	int status = skep_open(fake.path, NULL, &session);

	if (status)
		return status;
	opaque.name = "opaque";
	opaque.flags = SKEP_SPACE_OPAQUE;
	status = skep_space_open(session, &options, &space);
	if (!status)
		status = skep_chain_create(space, &chain);
	if (!status)
		status = failing(skep_chain_append(chain, tokens, 500));
	if (!status)
		status = skep_chain_extra(chain, "extra", 5);
	if (!status)
		status = failing(skep_chain_append(chain, tokens, 1000));
	if (!status)
		status = failing(skep_chain_append(chain, tokens, 1000));
	if (!status)
		status = skep_space_open(session, &opaque, &space);
	if (!status)
		status = skep_chain_create(space, &keys);
	if (!status)
		status = failing(skep_chain_append_key(keys, tokens, 64, tokens, 16));
	if (!status)
		status = skep_queue_create(session, &queue);
	if (!status)
		status = skep_pin_refs(session, refs, 4, &pin);
	skep_close(session);
	return status;
}

static void every_allocation_may_fail(void)
{
	struct resources before;
	unsigned failed = 0;

	REQUIRE_EQ(use_everything(), 0);
	before = resources_settled("fake-");
	for (unsigned long nth = 1;; nth++) {
		int status;

		memory_fail_after(nth, 0);
		status = use_everything();
		memory_fail_after(0, 0);
		if (status == 0)
			break;
		REQUIRE_EQ(status == -EAGAIN ? -ENOMEM : status, -ENOMEM);
		failed++;
		resources_require(&before, "fake-");
	}
	printf("%u allocations failed in turn\n", failed);
	REQUIRE(failed > 20);
}

int main(int argc, char **argv)
{
	unit_seed(argc, argv);
	fake_start(&fake);
	opening_without_a_daemon_says_so();
	options_are_read_by_their_size();
	wrong_answers_are_refused_by_name();
	few_descriptors_are_an_error_and_no_leak();
	space_options_are_checked_by_name();
	child_of_fork_touches_nothing();
	second_thread_in_a_session_is_told();
	every_allocation_may_fail();
	fake_end(&fake);
	return 0;
}
