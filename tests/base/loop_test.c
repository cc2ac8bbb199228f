/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: the same promises over both back ends. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "base/loop/loop.h"
#include "base/memory.h"
#include "tests/base/backend.h"

enum { MANY = 300 }; /* more than one batch of requests or events */

static enum loop_backend backend;

static struct loop *loop_make(uint32_t watches, uint32_t timers)
{
	struct loop_options options = {
		.backend = backend,
		.watches_max = watches,
		.timers_max = timers,
	};
	struct loop *loop;

	REQUIRE_EQ(loop_create(&options, &loop), 0);
	return loop;
}

/* Turns until @turns in a row found nothing. */
static void settle(struct loop *loop)
{
	for (int idle = 0; idle < 3;) {
		int count = loop_run_once(loop, clock_ns() + NS_PER_MS);

		REQUIRE(count >= 0);
		idle = count ? 0 : idle + 1;
	}
}

/* One end of a socket pair under watch, the other in the test's hand. */
struct end {
	struct loop_watch watch;
	struct loop *loop;
	int other;
	int calls;
	uint32_t told;
	/* What a call does: */
	bool drains, removes_itself;
	struct end *removes, *adds;
	int again; /* how many times it asks to be called again */
};

static void end_ready(struct loop_watch *watch, uint32_t events)
{
	struct end *end = list_item(watch, struct end, watch);
	char byte;

	end->calls++;
	end->told |= events;
	if (end->drains)
		while (recv(watch->fd, &byte, 1, MSG_DONTWAIT) == 1)
			;
	if (end->removes) {
		loop_watch_remove(end->loop, &end->removes->watch);
		/* Whatever the loop still reads of it is found out. */
		memset(&end->removes->watch, 0xa5, sizeof(end->removes->watch));
		end->removes->watch.slot = 0;
		end->removes = NULL;
	}
	if (end->adds) {
		REQUIRE_EQ(loop_watch_add(end->loop, &end->adds->watch, end->adds->watch.fd,
				   LOOP_READABLE),
			0);
		end->adds = NULL;
	}
	if (end->again && end->again--)
		loop_watch_again(end->loop, watch, LOOP_READABLE);
	if (end->removes_itself)
		loop_watch_remove(end->loop, watch);
}

static void end_pair(struct loop *loop, struct end *end)
{
	int pair[2];

	REQUIRE_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	*end = (struct end){
		.watch = {.ready = end_ready, .fd = pair[0]},
		.loop = loop,
		.other = pair[1],
	};
}

static void end_open(struct loop *loop, struct end *end, uint32_t events)
{
	end_pair(loop, end);
	REQUIRE_EQ(loop_watch_add(loop, &end->watch, end->watch.fd, events), 0);
}

static void end_close(struct end *end)
{
	loop_watch_remove(end->loop, &end->watch);
	close(end->watch.fd);
	if (end->other >= 0)
		close(end->other);
}

static void end_poke(struct end *end)
{
	REQUIRE_EQ(send(end->other, "x", 1, MSG_NOSIGNAL), 1);
}

static void each_news_is_told_once(void)
{
	struct loop *loop = loop_make(1, 0);
	struct end end;

	end_open(loop, &end, LOOP_READABLE);
	settle(loop);
	REQUIRE_EQ(end.calls, 0);
	end_poke(&end);
	settle(loop);
	REQUIRE_EQ(end.calls, 1); /* though the byte is still there */
	REQUIRE_EQ(end.told, LOOP_READABLE);
	end_poke(&end);
	settle(loop);
	REQUIRE_EQ(end.calls, 2);
	end.drains = true;
	end_poke(&end);
	settle(loop);
	REQUIRE_EQ(end.calls, 3);
	end_close(&end);
	loop_destroy(loop);
}

static void what_is_ready_when_added_or_changed_is_told(void)
{
	struct loop *loop = loop_make(1, 0);
	struct end end;

	end_pair(loop, &end);
	end_poke(&end);
	REQUIRE_EQ(loop_watch_add(loop, &end.watch, end.watch.fd, LOOP_READABLE), 0);
	settle(loop);
	REQUIRE_EQ(end.calls, 1);
	REQUIRE_EQ(end.told, LOOP_READABLE);
	REQUIRE_EQ(loop_watch_change(loop, &end.watch, LOOP_WRITABLE), 0);
	settle(loop);
	REQUIRE_EQ(end.calls, 2);
	REQUIRE_EQ(end.told, LOOP_READABLE | LOOP_WRITABLE);
	end.told = 0;
	REQUIRE_EQ(loop_watch_change(loop, &end.watch, LOOP_READABLE), 0);
	REQUIRE_EQ(loop_watch_change(loop, &end.watch, 0), 0);
	end_poke(&end);
	settle(loop);
	REQUIRE_EQ(end.told, 0);
	REQUIRE_EQ(loop_watch_change(loop, &end.watch, LOOP_READABLE | LOOP_WRITABLE), 0);
	settle(loop);
	REQUIRE_EQ(end.told, LOOP_READABLE | LOOP_WRITABLE);
	end_close(&end);
	loop_destroy(loop);
}

static void a_full_socket_is_writable_once_emptied(void)
{
	struct loop *loop = loop_make(1, 0);
	struct end end;
	static char bytes[65536];

	end_pair(loop, &end);
	while (send(end.watch.fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
	REQUIRE_EQ(errno, EAGAIN);
	REQUIRE_EQ(loop_watch_add(loop, &end.watch, end.watch.fd, LOOP_WRITABLE), 0);
	settle(loop);
	REQUIRE_EQ(end.told, 0);
	while (recv(end.other, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
	settle(loop);
	REQUIRE_EQ(end.told, LOOP_WRITABLE);
	end_close(&end);
	loop_destroy(loop);
}

static void a_hang_up_is_told_unasked(void)
{
	struct loop *loop = loop_make(2, 0);
	struct end gone, shut;

	end_open(loop, &gone, 0);
	end_open(loop, &shut, LOOP_READABLE);
	settle(loop);
	close(gone.other);
	gone.other = -1;
	REQUIRE_EQ(shutdown(shut.other, SHUT_WR), 0);
	settle(loop);
	REQUIRE(gone.calls >= 1);
	REQUIRE_EQ(gone.told, LOOP_HANGUP);
	REQUIRE_EQ(shut.told, LOOP_HANGUP | LOOP_READABLE);
	end_close(&gone);
	end_close(&shut);
	loop_destroy(loop);
}

static void the_end_of_a_process_is_told(void)
{
	struct loop *loop = loop_make(1, 0);
	struct end end = {.watch = {.ready = end_ready}, .loop = loop, .other = -1};
	int gate[2], pidfd;
	char byte;
	pid_t child;

	REQUIRE_EQ(pipe(gate), 0);
	child = fork();
	REQUIRE(child >= 0);
	if (!child) {
		close(gate[1]);
		_exit(read(gate[0], &byte, 1) != 0);
	}
	close(gate[0]);
	pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	REQUIRE(pidfd >= 0);
	REQUIRE_EQ(loop_watch_add(loop, &end.watch, pidfd, LOOP_READABLE), 0);
	settle(loop);
	REQUIRE_EQ(end.calls, 0);
	close(gate[1]);
	while (!end.calls)
		REQUIRE(loop_run_once(loop, CLOCK_NEVER) >= 0);
	REQUIRE(end.told & LOOP_READABLE);
	REQUIRE(waitpid(child, NULL, 0) == child);
	end_close(&end);
	loop_destroy(loop);
}

static void a_removed_watch_is_not_called_for_what_was_collected(void)
{
	struct loop *loop = loop_make(2, 0);
	struct end ends[2];

	for (int i = 0; i < 2; i++)
		end_open(loop, &ends[i], LOOP_READABLE);
	settle(loop);
	/* Both events lie in one batch; whichever is called first removes the other. */
	ends[0].removes = &ends[1];
	ends[1].removes = &ends[0];
	end_poke(&ends[0]);
	end_poke(&ends[1]);
	settle(loop);
	REQUIRE_EQ(ends[0].calls + ends[1].calls, 1);
	for (int i = 0; i < 2; i++) {
		if (!ends[i].watch.slot)
			continue;
		end_poke(&ends[i]);
		settle(loop);
		REQUIRE_EQ(ends[i].calls, 2);
	}
	for (int i = 0; i < 2; i++) {
		if (ends[i].watch.slot)
			end_close(&ends[i]);
		else
			close(ends[i].other);
	}
	loop_destroy(loop);
}

static void a_slot_used_anew_gets_no_old_events(void)
{
	struct loop *loop = loop_make(2, 0);
	struct end ends[2], late;
	int fds[2];

	for (int i = 0; i < 2; i++) {
		end_open(loop, &ends[i], LOOP_READABLE);
		fds[i] = ends[i].watch.fd;
	}
	end_pair(loop, &late); /* silent */
	settle(loop);
	/* The first called removes the other, whose slot the late one gets within the same batch.
	 */
	for (int i = 0; i < 2; i++) {
		ends[i].removes = &ends[1 - i];
		ends[i].adds = &late;
		end_poke(&ends[i]);
	}
	settle(loop);
	REQUIRE_EQ(ends[0].calls + ends[1].calls, 1);
	REQUIRE_EQ(late.calls, 0);
	end_poke(&late);
	settle(loop);
	REQUIRE_EQ(late.calls, 1);
	end_close(&late);
	for (int i = 0; i < 2; i++) {
		loop_watch_remove(loop, &ends[i].watch);
		close(fds[i]);
		close(ends[i].other);
	}
	loop_destroy(loop);
}

static void a_watch_can_remove_itself(void)
{
	struct loop *loop = loop_make(1, 0);
	struct end end;

	end_open(loop, &end, LOOP_READABLE);
	end.removes_itself = true;
	end_poke(&end);
	settle(loop);
	end_poke(&end);
	settle(loop);
	REQUIRE_EQ(end.calls, 1);
	loop_watch_remove(loop, &end.watch); /* harmless twice */
	REQUIRE_EQ(loop_watch_add(loop, &end.watch, end.watch.fd, LOOP_READABLE), 0);
	settle(loop);
	REQUIRE_EQ(end.calls, 2);
	end_close(&end);
	loop_destroy(loop);
}

static void a_removed_descriptor_can_be_closed_and_its_number_used_anew(void)
{
	struct loop *loop = loop_make(1, 0);
	struct end end, next;
	char byte;

	end_open(loop, &end, LOOP_READABLE);
	settle(loop);
	loop_watch_remove(loop, &end.watch);
	close(end.watch.fd);
	end_pair(loop, &next);
	REQUIRE(next.watch.fd == end.watch.fd || next.other == end.watch.fd);
	if (next.other == end.watch.fd) {
		next.other = next.watch.fd;
		next.watch.fd = end.watch.fd;
	}
	REQUIRE_EQ(loop_watch_add(loop, &next.watch, next.watch.fd, LOOP_READABLE), 0);
	settle(loop);
	REQUIRE_EQ(recv(end.other, &byte, 1, MSG_DONTWAIT), 0); /* the end of the old one */
	end_poke(&next);
	settle(loop);
	REQUIRE_EQ(next.calls, 1);
	close(end.other);
	end_close(&next);
	loop_destroy(loop);
}

static void who_asks_is_called_again_in_the_next_turn(void)
{
	struct loop *loop = loop_make(2, 0);
	struct end end, other;

	end_open(loop, &end, LOOP_READABLE);
	end_open(loop, &other, LOOP_READABLE);
	settle(loop);
	end.again = 3;
	end_poke(&end);
	for (int turn = 1; turn <= 4; turn++) {
		REQUIRE_EQ(loop_run_once(loop, CLOCK_NEVER), 1);
		REQUIRE_EQ(end.calls, turn);
	}
	settle(loop);
	REQUIRE_EQ(end.calls, 4);
	/* Asked for and then removed: no call. */
	loop_watch_again(loop, &other.watch, LOOP_READABLE);
	loop_watch_again(loop, &end.watch, LOOP_READABLE);
	loop_watch_remove(loop, &other.watch);
	settle(loop);
	REQUIRE_EQ(other.calls, 0);
	REQUIRE_EQ(end.calls, 5);
	end_close(&end);
	end_close(&other);
	loop_destroy(loop);
}

static void bad_descriptors_and_too_many_are_refused(void)
{
	struct loop *loop = loop_make(1, 0);
	struct loop_watch watch = {.ready = end_ready};
	char path[] = "/tmp/skep-loop-XXXXXX";
	struct end end, more;
	int file = mkstemp(path);

	REQUIRE(file >= 0);
	unlink(path);
	REQUIRE_EQ(loop_watch_add(loop, &watch, file, LOOP_READABLE), -EPERM);
	close(file);
	REQUIRE_EQ(loop_watch_add(loop, &watch, file, LOOP_READABLE), -EBADF);
	REQUIRE_EQ(watch.slot, 0);
	end_open(loop, &end, LOOP_READABLE);
	end_pair(loop, &more);
	REQUIRE_EQ(loop_watch_add(loop, &more.watch, more.watch.fd, LOOP_READABLE), -ENOSPC);
	end_close(&end);
	REQUIRE_EQ(loop_watch_add(loop, &more.watch, more.watch.fd, LOOP_READABLE), 0);
	end_close(&more);
	loop_destroy(loop);
}

static void many_at_once_are_all_told(void)
{
	struct loop *loop = loop_make(MANY, 0);
	static struct end ends[MANY];

	for (int i = 0; i < MANY; i++)
		end_open(loop, &ends[i], LOOP_READABLE);
	settle(loop);
	/* More events than the completion queue holds: no watch may be lost by that. */
	for (int round = 0; round < 6; round++)
		for (int i = 0; i < MANY; i++)
			end_poke(&ends[i]);
	settle(loop);
	for (int i = 0; i < MANY; i++) {
		REQUIRE(ends[i].calls >= 1);
		ends[i].calls = 0;
		ends[i].drains = true;
		end_poke(&ends[i]);
	}
	settle(loop);
	for (int i = 0; i < MANY; i++)
		REQUIRE(ends[i].calls >= 1);
	for (int i = 0; i < MANY; i++)
		end_close(&ends[i]);
	settle(loop);
	loop_destroy(loop);
}

/* --- timers ----------------------------------------------------------------------------------- */

struct tick {
	struct loop_timer timer;
	struct loop *loop;
	uint64_t wanted_ns;
	int calls;
	bool sets_itself;
	struct tick *cancels;
};

static uint64_t tick_last_ns;

static void tick_due(struct loop_timer *timer)
{
	struct tick *tick = list_item(timer, struct tick, timer);

	tick->calls++;
	REQUIRE(clock_ns() >= tick->wanted_ns);
	REQUIRE(tick->wanted_ns >= tick_last_ns);
	tick_last_ns = tick->wanted_ns;
	if (tick->cancels)
		loop_timer_cancel(tick->loop, &tick->cancels->timer);
	if (tick->sets_itself)
		REQUIRE_EQ(loop_timer_set(tick->loop, timer, 0), 0);
}

static void timers_come_in_order_and_never_early(uint64_t *random)
{
	enum { TICKS = 500 };
	static struct tick ticks[TICKS];
	struct loop *loop = loop_make(0, TICKS);
	uint64_t start = clock_ns();
	int set = 0, called = 0;

	tick_last_ns = 0;
	for (int i = 0; i < TICKS; i++)
		ticks[i] = (struct tick){.timer = {.due = tick_due}, .loop = loop};
	for (int i = 0; i < 5 * TICKS; i++) {
		struct tick *tick = &ticks[unit_random(random, TICKS)];

		tick->wanted_ns = start + unit_random(random, 30) * NS_PER_MS;
		if (unit_random(random, 4))
			REQUIRE_EQ(loop_timer_set(loop, &tick->timer, tick->wanted_ns), 0);
		else
			loop_timer_cancel(loop, &tick->timer);
	}
	for (int i = 0; i < TICKS; i++)
		set += ticks[i].timer.place != 0;
	REQUIRE(set > TICKS / 2);
	while (called < set)
		called += loop_run_once(loop, CLOCK_NEVER);
	REQUIRE_EQ(called, set);
	for (int i = 0; i < TICKS; i++)
		REQUIRE(ticks[i].calls <= 1 && !ticks[i].timer.place);
	REQUIRE(clock_ns() - start >= 20 * NS_PER_MS);
	loop_destroy(loop);
}

static void timers_do_not_hold_the_loop_up(void)
{
	struct loop *loop = loop_make(0, 2);
	struct tick restless = {.timer = {.due = tick_due}, .loop = loop, .sets_itself = true};
	struct tick victim = {.timer = {.due = tick_due}, .loop = loop};
	struct tick more = {.timer = {.due = tick_due}, .loop = loop};

	tick_last_ns = 0;
	REQUIRE_EQ(loop_timer_set(loop, &restless.timer, 0), 0);
	REQUIRE_EQ(loop_timer_set(loop, &victim.timer, 1), 0);
	REQUIRE_EQ(loop_timer_set(loop, &more.timer, 1), -ENOSPC);
	restless.cancels = &victim;			 /* due in the same turn */
	REQUIRE_EQ(loop_run_once(loop, CLOCK_NEVER), 2); /* as many as were set */
	REQUIRE_EQ(victim.calls, 0);
	REQUIRE_EQ(loop_run_once(loop, CLOCK_NEVER), 1);
	REQUIRE_EQ(restless.calls, 3);
	loop_timer_cancel(loop, &restless.timer);
	loop_timer_cancel(loop, &restless.timer);
	REQUIRE_EQ(loop_run_once(loop, 0), 0);
	loop_destroy(loop);
}

/* --- turns and wake-ups ----------------------------------------------------------------------- */

static void a_turn_sleeps_until_then(void)
{
	struct loop *loop = loop_make(0, 0);
	uint64_t start = clock_ns();

	REQUIRE_EQ(loop_run_once(loop, start + 20 * NS_PER_MS), 0);
	REQUIRE(clock_ns() >= start + 20 * NS_PER_MS);
	start = clock_ns();
	REQUIRE_EQ(loop_run_once(loop, 0), 0);
	REQUIRE_EQ(loop_run_once(loop, start - 1), 0);
	REQUIRE(clock_ns() < start + NS_PER_S);
	loop_destroy(loop);
}

static void on_alarm(int number)
{
	(void)number;
}

static void a_signal_ends_the_sleep(void)
{
	struct loop *loop = loop_make(0, 0);
	struct sigaction action = {.sa_handler = on_alarm}, old;
	/* Again and again: the first may come before the sleep. */
	struct itimerval soon = {.it_value = {.tv_usec = 10000}, .it_interval = {.tv_usec = 10000}};
	struct itimerval never = {0};

	REQUIRE_EQ(loop_run_once(loop, 0), 0); /* nothing else is left to do */
	REQUIRE_EQ(sigaction(SIGALRM, &action, &old), 0);
	REQUIRE_EQ(setitimer(ITIMER_REAL, &soon, NULL), 0);
	REQUIRE_EQ(loop_run_once(loop, CLOCK_NEVER), 0);
	REQUIRE_EQ(setitimer(ITIMER_REAL, &never, NULL), 0);
	sigaction(SIGALRM, &old, NULL);
	loop_destroy(loop);
}

struct ball {
	struct loop *loops[2];
	_Atomic uint32_t turn; /* whose */
	uint32_t rounds;
};

static void *ball_return(void *argument)
{
	struct ball *ball = argument;

	for (uint32_t i = 0; i < ball->rounds; i++) {
		while (atomic_load(&ball->turn) != 1)
			REQUIRE(loop_run_once(ball->loops[1], CLOCK_NEVER) >= 0);
		atomic_store(&ball->turn, 0);
		loop_wake(ball->loops[0]);
	}
	return NULL;
}

/* A wake-up that is lost leaves both asleep, and the test runs out of time. */
static void no_wake_up_is_lost(void)
{
	struct ball ball = {.loops = {loop_make(0, 0), loop_make(0, 0)}, .rounds = 20000};
	pthread_t thread;

	loop_wake(ball.loops[0]);
	REQUIRE_EQ(loop_run_once(ball.loops[0], CLOCK_NEVER), 0); /* kept for the next turn */
	REQUIRE_EQ(pthread_create(&thread, NULL, ball_return, &ball), 0);
	for (uint32_t i = 0; i < ball.rounds; i++) {
		atomic_store(&ball.turn, 1);
		loop_wake(ball.loops[1]);
		while (atomic_load(&ball.turn) != 0)
			REQUIRE(loop_run_once(ball.loops[0], CLOCK_NEVER) >= 0);
	}
	pthread_join(thread, NULL);
	loop_destroy(ball.loops[0]);
	loop_destroy(ball.loops[1]);
}

struct setting {
	struct loop *loop;
	struct end end;
};

static void *set_up(void *argument)
{
	struct setting *setting = argument;

	setting->loop = loop_make(1, 0);
	end_open(setting->loop, &setting->end, LOOP_READABLE);
	return NULL;
}

static void *run_for_a_while(void *argument)
{
	struct setting *setting = argument;

	settle(setting->loop);
	return NULL;
}

static void in_a_thread(void *(*act)(void *), void *argument)
{
	pthread_t thread;

	REQUIRE_EQ(pthread_create(&thread, NULL, act, argument), 0);
	pthread_join(thread, NULL);
}

static void a_loop_outlives_the_thread_that_set_it_up(void)
{
	struct setting setting;

	in_a_thread(set_up, &setting);
	/* Its first turn settles what was set up, in a thread that ends too. */
	in_a_thread(run_for_a_while, &setting);
	for (int i = 0; i < 3; i++) {
		setting.end.calls = 0;
		setting.end.told = 0;
		end_poke(&setting.end);
		while (!setting.end.calls)
			REQUIRE(loop_run_once(setting.loop, CLOCK_NEVER) >= 0);
		settle(setting.loop);
		REQUIRE_EQ(setting.end.calls, 1);
		REQUIRE_EQ(setting.end.told, LOOP_READABLE);
	}
	end_close(&setting.end);
	loop_destroy(setting.loop);
}

/* --- making a loop ---------------------------------------------------------------------------- */

static int descriptors_open(void)
{
	int count = 0;

	for (int fd = 0; fd < 200; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void failed_creates_leave_nothing(void)
{
	struct loop_options options = {.backend = backend, .watches_max = 10, .timers_max = 10};
	int before = descriptors_open();
	struct loop *loop = NULL;
	struct rlimit limit, tight;
	unsigned long nth = 1;
	int rc, lowest;

	for (;; nth++) {
		memory_fail_after(nth, 0);
		rc = loop_create(&options, &loop);
		memory_fail_after(0, 0);
		if (!rc)
			break;
		REQUIRE_EQ(rc, -ENOMEM);
		REQUIRE_EQ(descriptors_open(), before);
	}
	REQUIRE(nth > 3);
	loop_destroy(loop);
	loop_destroy(NULL);
	REQUIRE_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
	lowest = dup(0);
	close(lowest);
	for (int room = 0; room < 2; room++) {
		tight = (struct rlimit){
			.rlim_cur = (rlim_t)(lowest + room),
			.rlim_max = limit.rlim_max,
		};
		REQUIRE_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
		REQUIRE_EQ(loop_create(&options, &loop), -EMFILE);
		REQUIRE_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
		REQUIRE_EQ(descriptors_open(), before);
	}
	options.watches_max = UINT32_MAX;
	REQUIRE_EQ(loop_create(&options, &loop), -EINVAL);
}

/* As the usual container profiles do. */
static void forbid_io_uring(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = ARRAY_COUNT(code), .filter = code};

	REQUIRE_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	REQUIRE_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* The last of all: it cannot be taken back. */
static void forbidden_io_uring_is_said_and_epoll_serves(void)
{
	struct loop_options options = {.backend = LOOP_BACKEND_AUTO};
	struct loop *loop;
	int refused;

	REQUIRE_EQ(loop_create(&options, &loop), 0);
	if (backend == LOOP_BACKEND_URING) {
		REQUIRE_TEXT(loop_backend_name(loop), "io_uring");
		REQUIRE_EQ(loop_uring_error(loop), 0);
	}
	loop_destroy(loop);
	forbid_io_uring();
	REQUIRE_EQ(loop_create(&options, &loop), 0);
	REQUIRE_TEXT(loop_backend_name(loop), "epoll");
	refused = loop_uring_error(loop);
	REQUIRE(refused == -EPERM || refused == -ENOSYS); /* the latter: built without liburing */
	loop_destroy(loop);
	options.backend = LOOP_BACKEND_URING;
	REQUIRE_EQ(loop_create(&options, &loop), refused);
}

int main(int argc, char **argv)
{
	uint64_t random;

	backend = backend_chosen(argc, argv);
	random = unit_seed(argc - 1, argv + 1);
	each_news_is_told_once();
	what_is_ready_when_added_or_changed_is_told();
	a_full_socket_is_writable_once_emptied();
	a_hang_up_is_told_unasked();
	the_end_of_a_process_is_told();
	a_removed_watch_is_not_called_for_what_was_collected();
	a_slot_used_anew_gets_no_old_events();
	a_watch_can_remove_itself();
	a_removed_descriptor_can_be_closed_and_its_number_used_anew();
	who_asks_is_called_again_in_the_next_turn();
	bad_descriptors_and_too_many_are_refused();
	many_at_once_are_all_told();
	timers_come_in_order_and_never_early(&random);
	timers_do_not_hold_the_loop_up();
	a_turn_sleeps_until_then();
	a_signal_ends_the_sleep();
	no_wake_up_is_lost();
	a_loop_outlives_the_thread_that_set_it_up();
	failed_creates_leave_nothing();
	forbidden_io_uring_is_said_and_epoll_serves();
	return 0;
}
