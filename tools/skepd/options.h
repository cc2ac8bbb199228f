/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEPD_OPTIONS_H
#define SKEP_TOOLS_SKEPD_OPTIONS_H

#include "base/clock.h"

/*
 * Every setting of skepd, one row each. From these tables come the keys of the configuration file,
 * the flags, `skepd --help`, `skepd --help-config`, the effective configuration that `skep config`
 * shows, and the tests that hold the man page and the example to them.
 *
 * X(key, flag, kind, least, most, argument, standard, reload, help)
 *
 * - kind: TEXT; SIZE, in bytes (4096, 64KiB, 2GiB); COUNT; SPAN, of time (50us, 30s, never); FLAG;
 *   MODE, octal; WORD, one of the words of `argument`; BLOCKS, bytes:count; TEXTS; UIDS;
 *   DEVICES, path:size
 * - least, most: bounds of SIZE (bytes), COUNT, SPAN (ns), MODE and the sizes of DEVICES
 * - standard: what holds when it is set nowhere, in the form of the file
 * - reload: LIVE takes effect at SIGHUP; START needs a restart
 */
#define NODE_OPTION_TABLE(X)                                                                       \
	X(socket, "socket", TEXT, 0, 0, "PATH", "/run/skep/skepd.sock", START,                     \
		"socket where clients and operators connect; $SKEP_SOCKET where it is set "        \
		"nowhere else")                                                                    \
	X(socket_mode, "socket-mode", MODE, 0, 0777, "OCTAL", "0660", START,                       \
		"permissions of the sockets")                                                      \
	X(state_dir, "state-dir", TEXT, 0, 0, "DIR", "", START,                                    \
		"where secrets are kept that no file was named for; $STATE_DIRECTORY, "            \
		"/var/lib/skep, or $XDG_STATE_HOME/skep for users other than root")                \
	X(admin, "admin", TEXT, 0, 0, "HOST:PORT|off", "127.0.0.1:7420", START,                    \
		"address of the HTTP page with /metrics and /healthz")                             \
	X(admin_token_file, "admin-token-file", TEXT, 0, 0, "FILE", "", LIVE,                      \
		"who sends a token of this file to the HTTP page sees each realm, not totals "     \
		"alone")                                                                           \
	X(log_level, "log-level", WORD, 0, 0, "error|warn|info|debug", "info", LIVE,               \
		"lines up to this level are written to standard error")                            \
	X(log_format, "log-format", WORD, 0, 0, "text|json", "text", START,                        \
		"form of the log lines")                                                           \
	X(memory_max, "memory-max", SIZE, 0, 1ull << 50, "SIZE", "0", START,                       \
		"limit of all pools together with what clients of dead daemons still hold; 0: "    \
		"the limit of the memory cgroup")                                                  \
	X(chunk, "chunk", SIZE, 0, 1ull << 30, "SIZE", "0", START,                                 \
		"size of the memory files a pool is made of; 0: 1GiB, or less so that a pool has " \
		"eight")                                                                           \
	X(movers, "movers", COUNT, 1, 64, "N", "1", START, "threads that move and check bytes")    \
	X(spin, "spin", SPAN, 0, NS_PER_S, "TIME", "50us", START,                                  \
		"how long the keeper polls after work, then it sleeps")                            \
	X(loop, "loop", WORD, 0, 0, "auto|io_uring|epoll", "auto", START,                          \
		"event loop; auto: io_uring where it is allowed")                                  \
	X(volatile_secret, "volatile-secret", FLAG, 0, 0, "", "false", START,                      \
		"draw fresh secrets at each start and keep them nowhere: for private daemons")     \
	X(private, "private", FLAG, 0, 0, "", "false", START,                                      \
		"take only sessions of the daemon's own uid")                                      \
	X(ssd, "ssd", DEVICES, 16u << 20, 1ull << 50, "PATH[:SIZE]", "", START,                    \
		"file or block device of the ssd tier, up to 16; a file is made at start; a "      \
		"block device needs no size")                                                      \
	X(manifest, "manifest", TEXT, 0, 0, "DIR", "", START,                                      \
		"directory of the ssds' manifest; the first ssd's path with .manifest behind it, " \
		"or ssd.manifest in state_dir where that is a device")                             \
	X(manifest_memory, "manifest-memory", SIZE, 4u << 20, 1u << 30, "SIZE", "16MiB", START,    \
		"memory of the manifest")                                                          \
	X(ssd_wear, "ssd-wear", SIZE, 0, 1ull << 50, "SIZE", "0", START,                           \
		"bytes a day that may be written to the ssds on average; 0: any amount")           \
	X(stop_seconds, "stop-seconds", COUNT, 0, 3600, "N", "5", START,                           \
		"how long a stop may go on writing what no ssd holds yet")                         \
	X(id_bits, "id-bits", COUNT, 1, 128, "N", "128", START,                                    \
		"bits of an id that count: fewer only to test collisions")

#define REALM_OPTION_TABLE(X)                                                                      \
	X(dram, "dram", SIZE, 2u << 20, 1ull << 50, "SIZE", "1GiB", START,                         \
		"size of the realm's pool; populated at start")                                    \
	X(quota, "quota", SIZE, 0, 1ull << 50, "SIZE", "0", LIVE,                                  \
		"most bytes in frames; 0: all of dram")                                            \
	X(dram_blocks_of, "dram-blocks-of", BLOCKS, 0, 0, "BYTES:COUNT", "0:0", START,             \
		"in place of dram and quota: a pool that holds exactly COUNT parts of BYTES")      \
	X(index_blocks, "index-blocks", COUNT, 0, 1u << 31, "N", "0", START,                       \
		"blocks the index has room for; 0: one for each 32KiB of dram, at least 4096")     \
	X(ssd, "realm-ssd", SIZE, 0, 1ull << 50, "SIZE", "", START,                                \
		"the realm's share of the ssds, 0 for none; realms that do not say divide evenly " \
		"what is left")                                                                    \
	X(record_bytes, "record-bytes", SIZE, 0, 1ull << 45, "SIZE", "0", START,                   \
		"heap for tokens, keys and sums; 0: a sixteenth of dram + 64MiB")                  \
	X(sessions_max, "sessions-max", COUNT, 1, 4096, "N", "256", LIVE,                          \
		"most sessions at a time")                                                         \
	X(age_limit, "age-limit", SPAN, NS_PER_MS, CLOCK_NEVER, "TIME", "30s", LIVE,               \
		"age at which a reservation may pass to another writer; never: no limit")          \
	X(secret_file, "secret-file", TEXT, 0, 0, "FILE", "", START,                               \
		"secret that keys the ids, the same on every node; made in state_dir where none "  \
		"is named")                                                                        \
	X(socket, "realm-socket", TEXT, 0, 0, "PATH", "", START,                                   \
		"a further socket that stands for this realm alone")                               \
	X(tokens, "token", TEXTS, 0, 0, "TOKEN", "", LIVE,                                         \
		"who brings one of these may open sessions")                                       \
	X(token_files, "token-file", TEXTS, 0, 0, "FILE", "", LIVE,                                \
		"files with one such token a line")                                                \
	X(uids, "uid", UIDS, 0, 0, "UID", "", LIVE, "users who may open sessions without a token")

/*
 * What is a flag alone. X(name, flag, argument, help); an argument of "" takes none.
 */
#define ACTION_TABLE(X)                                                                            \
	X(config, "config", "FILE", "configuration to read; /etc/skep/skepd.yaml where it exists") \
	X(realm, "realm", "NAME",                                                                  \
		"settings of a realm that follow belong to this one; a new name adds it")          \
	X(check, "check", "",                                                                      \
		"look at the host and the configuration, say what to do, and end: 0 all well, 1 "  \
		"warnings, 2 faults")                                                              \
	X(json, "json", "", "with --check: print JSON")                                            \
	X(foreground, "foreground", "",                                                            \
		"stay in the foreground: always so; for scripts that say it")                      \
	X(ready_fd, "ready-fd", "N",                                                               \
		"write one byte to this descriptor when serving, then close it")                   \
	X(parent_death, "parent-death", "", "end when the parent process ends")                    \
	X(takeover, "takeover", "",                                                                \
		"take the place of the daemon that serves on the socket: sessions, memory and "    \
		"pins go on")                                                                      \
	X(help_config, "help-config", "",                                                          \
		"print every setting with its meaning, as a configuration file")                   \
	X(help, "help", "", "print this text")                                                     \
	X(version, "version", "", "print the version")

#endif
