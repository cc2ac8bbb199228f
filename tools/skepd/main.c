/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/status.h"
#include "tools/skepd/admin.h"
#include "tools/skepd/check.h"
#include "tools/skepd/commands.h"
#include "tools/skepd/notify.h"
#include "tools/skepd/secret.h"

/*
 * skepd: starts a node and its two helpers (commands, HTTP page), then waits for signals. SIGHUP
 * reloads, SIGTERM and SIGINT stop; a second one ends the process at once. It ends as well when
 * another daemon has taken its place.
 */

/* How skepd ends; docs/man/skepd.8. With --check: 0, 1, 2 as the verdict is. */
enum daemon_exit { DAEMON_OK = 0, DAEMON_FAILED = 1, DAEMON_USAGE = 2, DAEMON_TAKEN = 3 };

/* How often the pools are looked at while somebody waits for them (--ready-fd). */
#define READY_LOOK_NS (5 * NS_PER_MS)

/* How long a successor waits for the address of the HTTP page. */
#define ADMIN_NS (5 * NS_PER_S)
enum { ADMIN_STEP_US = 20000 };

#define EVICT_STEP_BYTES (64ull << 20)

struct program {
	int argc;
	char **argv;
	struct daemon daemon;
	struct actions actions;
	struct commands *commands;
	struct admin *admin;
	int signals; /* signalfd */
	int handed;  /* eventfd: counts 1 more than the pid of the daemon that took our place */
};

/* ---------------------------------------------------------------------------------- start */

static void descriptors_raise(void)
{
	struct rlimit limit;

	/* select() with descriptors past 1023 would be the reason not to: nobody here uses it. */
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &limit))
			log_warn("skepd", "the limit on descriptors cannot be raised: %m");
	}
}

static int signals_open(struct program *program)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	/* Blocked before any thread starts, so that all inherit it. */
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return -errno;
	signal(SIGPIPE, SIG_IGN);
	program->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (program->signals >= 0)
		program->handed = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return program->handed < 0 ? -errno : 0;
}

/* Makes the folder of a socket where it is missing; its own folder must be there. */
static void socket_folder_make(const char *path)
{
	char folder[NODE_PATH_MAX];

	if (!*path)
		return;
	path_folder(path, folder, sizeof(folder));
	/* A failure shows when the socket is made, with its cause. */
	if (mkdir(folder, 0755) == 0)
		log_info("skepd", "%s was made", folder);
}

/* On a thread of the node. */
static void node_handed(void *arg, pid_t successor)
{
	const struct program *program = arg;
	uint64_t count = (uint64_t)successor + 1;

	if (write(program->handed, &count, sizeof(count)) < 0)
		log_error("skepd", "the end cannot be told: %m");
}

static int node_open(struct program *program)
{
	const struct settings *settings = program->daemon.settings;
	struct realm_config *realms = memory_calloc(settings->realm_count, sizeof(*realms));
	char why[SETTINGS_WHY_MAX] = "out of memory";
	struct node_config config;
	int status = -ENOMEM;

	if (realms) {
		settings_node(settings, &config, realms);
		config.command = commands_take;
		config.command_arg = program->commands;
		config.takeover = program->actions.takeover;
		config.handed = node_handed;
		config.handed_arg = program;
		status = node_create(&config, &program->daemon.node, why, sizeof(why));
		explicit_bzero(realms, settings->realm_count * sizeof(*realms));
	}
	memory_free(realms);
	if (status)
		log_error("skepd", "%s", why);
	return status;
}

/* The daemon whose place was taken lets go of the page's address in a moment. Without the page it
 * is still better to serve. */
static int admin_open(struct program *program, char *why)
{
	const char *address = program->daemon.settings->admin;
	bool taken = program->actions.takeover;
	uint64_t until = clock_ns() + (taken ? ADMIN_NS : 0);
	int status;

	while ((status = admin_create(&program->daemon, address, &program->admin, why)) ==
			-EADDRINUSE &&
		clock_ns() < until)
		usleep(ADMIN_STEP_US);
	if (status)
		log_error("skepd", "%s", why);
	return taken ? 0 : status;
}

static int program_start(struct program *program)
{
	struct settings *settings = program->daemon.settings;
	char why[SETTINGS_WHY_MAX];
	int status = settings_load(settings, NULL, why);

	if (status) {
		log_error("skepd", "%s", why);
		return status;
	}
	socket_folder_make(settings->socket);
	for (unsigned i = 0; i < settings->realm_count; i++)
		socket_folder_make(settings->realms[i].socket);
	status = commands_create(&program->daemon, &program->commands);
	if (status) {
		log_error("skepd", "no thread for commands: %s", status_text(status));
		return status;
	}
	status = node_open(program);
	if (status)
		return status;
	status = node_start(program->daemon.node);
	if (status) {
		log_error("skepd", "the node's threads cannot start: %s", status_text(status));
		return status;
	}
	return strcmp(settings->admin, "off") ? admin_open(program, why) : 0;
}

static void program_end(struct program *program)
{
	admin_destroy(program->admin);
	if (program->commands)
		commands_stop(program->commands);
	node_destroy(program->daemon.node);
	commands_destroy(program->commands);
	settings_destroy(program->daemon.settings);
	pthread_mutex_destroy(&program->daemon.lock);
	if (program->signals >= 0)
		close(program->signals);
	if (program->handed >= 0)
		close(program->handed);
}

/* ----------------------------------------------------------------------------------- ready */

/*
 * Tells the one behind --ready-fd that the pools stand, once they do. Return: 0, also while they
 * are still populated; -EPIPE: nobody waits any more.
 */
static int ready_tell(struct program *program)
{
	int fd = program->actions.ready_fd;
	ssize_t wrote;

	if (node_wait_ready(program->daemon.node, clock_ns()) == -ETIMEDOUT)
		return 0;
	wrote = write(fd, "", 1);
	if (wrote < 0)
		log_error("skepd", "--ready-fd %d: %m", fd);
	close(fd);
	program->actions.ready_fd = -1;
	return wrote < 0 ? -EPIPE : 0;
}

static void serving_log(const struct program *program)
{
	const struct settings *settings = program->daemon.settings;
	struct settings_memory memory = settings_memory(settings);
	struct node_status status;

	if (node_status(program->daemon.node, &status))
		return;
	log_info("skepd",
		"version " SKEP_VERSION " serves %u realm%s with %llu MiB on %s (loop %s%s, HTTP "
		"page %s)",
		settings->realm_count, settings->realm_count == 1 ? "" : "s",
		(unsigned long long)(memory.pool_bytes >> 20), settings->socket,
		status.loop_backend,
		status.loop_fallback ? ": io_uring was refused, see skepd --check" : "",
		settings->admin);
}

/* --------------------------------------------------------------------------------- signals */

static int reload_apply(struct program *program, struct settings *fresh, char *why)
{
	struct daemon *daemon = &program->daemon;
	struct realm_config *realms;
	struct node_config config;
	int status = settings_reloadable(fresh, daemon->settings, why);

	if (!status)
		status = settings_load(fresh, daemon->settings, why);
	if (status)
		return status;
	realms = memory_calloc(fresh->realm_count, sizeof(*realms));
	if (!realms) {
		snprintf(why, SETTINGS_WHY_MAX, "out of memory");
		return -ENOMEM;
	}
	settings_node(fresh, &config, realms);
	snprintf(why, SETTINGS_WHY_MAX, "the keeper did not answer");
	status = node_reload(daemon->node, &config, why, SETTINGS_WHY_MAX);
	explicit_bzero(realms, fresh->realm_count * sizeof(*realms));
	memory_free(realms);
	return status;
}

/*
 * A quota that became smaller than what is in use is evicted down to now, in steps between which
 * the keeper serves. What is pinned stays; later puts make room as it is released.
 */
static void quotas_enforce(struct node *node)
{
	struct realm_status *realm = memory_zalloc(sizeof(*realm));

	for (unsigned i = 0; realm && node_realm(node, i, realm) == 0; i++)
		while (realm->dram_used_bytes > realm->dram_use_max) {
			uint64_t over = realm->dram_used_bytes - realm->dram_use_max;

			if (node_evict_coldest(node, realm->name, MIN_OF(over, EVICT_STEP_BYTES)) <=
					0 ||
				node_realm(node, i, realm))
				break;
		}
	memory_free(realm);
}

/* Reads flags and file again. All of it takes effect, or nothing does. */
static void reload(struct program *program)
{
	struct daemon *daemon = &program->daemon;
	struct settings *fresh = NULL, *before;
	char why[SETTINGS_WHY_MAX] = "";
	struct actions actions;
	int status;

	notify_reloading();
	status = settings_create(program->argc, program->argv, &fresh, &actions, why);
	if (!status)
		status = reload_apply(program, fresh, why);
	if (status) {
		log_error("skepd", "not reloaded, the old settings stand: %s", why);
		settings_destroy(fresh);
	} else {
		pthread_mutex_lock(&daemon->lock);
		before = daemon->settings;
		daemon->settings = fresh;
		pthread_mutex_unlock(&daemon->lock);
		settings_destroy(before);
		log_set_level((enum log_level)fresh->log_level);
		quotas_enforce(daemon->node);
		log_info("skepd", "settings were reloaded");
	}
	notify_send("READY=1");
}

/* Takes one signal. Return: 1 stop, 0 go on. */
static int signal_take(struct program *program)
{
	struct signalfd_siginfo info;
	sigset_t set;

	if (read(program->signals, &info, sizeof(info)) != sizeof(info))
		return 0;
	if (info.ssi_signo == SIGHUP) {
		reload(program);
		return 0;
	}
	log_info("skepd", "signal %u: stopping; a second one ends at once", info.ssi_signo);
	/* From here on the system's own answer to a second signal holds: the end. */
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	return 1;
}

/* Another daemon serves now; the service manager shall watch that one. */
static bool handed_over(struct program *program)
{
	uint64_t count;
	char lines[32];

	if (read(program->handed, &count, sizeof(count)) != sizeof(count))
		return false;
	log_info("skepd", "pid %llu has taken over", (unsigned long long)(count - 1));
	snprintf(lines, sizeof(lines), "MAINPID=%llu", (unsigned long long)(count - 1));
	if (count > 1)
		notify_send(lines);
	return true;
}

/* Return: false: another daemon has the place now, and the end is no stop. */
static bool serve(struct program *program)
{
	uint64_t watchdog_ns = notify_watchdog_ns(), alive_ns = 0;
	struct pollfd waited[] = {{.fd = program->signals, .events = POLLIN},
		{.fd = program->handed, .events = POLLIN}};
	struct node_status status;

	for (;;) {
		/* Twice as often as asked, so that one late turn is no alarm. */
		uint64_t wait_ns = watchdog_ns ? watchdog_ns / 2 : CLOCK_NEVER;
		int ready;

		if (program->actions.ready_fd >= 0)
			wait_ns = MIN_OF(wait_ns, READY_LOOK_NS);
		ready = poll(waited, ARRAY_COUNT(waited),
			wait_ns == CLOCK_NEVER ? -1 : (int)MAX_OF(wait_ns / NS_PER_MS, 1u));
		if (ready > 0 && handed_over(program))
			return false;
		if (ready > 0 && signal_take(program))
			return true;
		if (program->actions.ready_fd >= 0 && ready_tell(program))
			return true;
		/* Only a keeper that answers is a sign of life. */
		if (!watchdog_ns || clock_ns() - alive_ns < watchdog_ns / 4)
			continue;
		if (node_status(program->daemon.node, &status) == 0) {
			alive_ns = clock_ns();
			notify_send("WATCHDOG=1");
		}
	}
}

/* ------------------------------------------------------------------------------------ main */

/* The parent's end ends this process: SIGTERM, as if it had asked for it. */
static int parent_follow(void)
{
	pid_t parent = getppid();

	if (prctl(PR_SET_PDEATHSIG, SIGTERM))
		return -errno;
	/* It may have ended before the call. */
	return getppid() == parent ? 0 : -ESRCH;
}

static int run(struct program *program)
{
	struct settings *settings = program->daemon.settings;
	int status;

	log_set_level((enum log_level)settings->log_level);
	log_set_json(settings->log_format != 0);
	descriptors_raise();
	status = signals_open(program);
	if (!status && program->actions.parent_death)
		status = parent_follow();
	if (status) {
		log_error("skepd", "signals cannot be set up: %s", status_text(status));
		return DAEMON_FAILED;
	}
	status = program_start(program);
	if (status)
		return status == -EADDRINUSE ? DAEMON_TAKEN : DAEMON_FAILED;
	serving_log(program);
	/* Clients may come: the pools grow under them until they are whole. */
	notify_send("READY=1\nSTATUS=serving");
	if (serve(program))
		notify_send("STOPPING=1\nSTATUS=stopping");
	return DAEMON_OK;
}

static int check_run(const struct settings *settings, bool json)
{
	json_t *checks = check_json(settings, false);
	int status;

	if (!checks) {
		fprintf(stderr, "skepd: out of memory\n");
		return DAEMON_USAGE;
	}
	if (json) {
		json_dumpf(checks, stdout, JSON_INDENT(1));
		putchar('\n');
	} else {
		check_print(checks, stdout);
	}
	status = check_status(checks);
	json_decref(checks);
	return status;
}

int main(int argc, char **argv)
{
	struct program program = {.argc = argc, .argv = argv, .signals = -1, .handed = -1};
	char why[SETTINGS_WHY_MAX];
	int status;

	json_set_alloc_funcs(memory_zalloc, memory_free);
	pthread_mutex_init(&program.daemon.lock, NULL);
	status = settings_create(argc, argv, &program.daemon.settings, &program.actions, why);
	if (status) {
		fprintf(stderr, "skepd: %s\n", why);
		return status == -EINVAL ? DAEMON_USAGE : DAEMON_FAILED;
	}
	if (program.actions.help) {
		settings_help(stdout);
	} else if (program.actions.version) {
		printf("skepd " SKEP_VERSION "\n");
	} else if (program.actions.help_config) {
		settings_help_config(stdout);
	} else if (program.actions.check) {
		status = check_run(program.daemon.settings, program.actions.json);
	} else {
		status = run(&program);
	}
	program_end(&program);
	return status;
}
