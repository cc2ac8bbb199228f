/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_REPLAY_H
#define SKEP_TOOLS_SKEP_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * `skep replay`: requests of a trace, or made ones, through daemon and library; every byte is made
 * from the block's identity and checked.
 *
 * Requests are taken in the order of the trace by whichever client is free. With one client their
 * order is the trace's; with several, requests overlap as they would in a fleet, and one may be
 * answered before an earlier one of the same conversation has put its blocks.
 *
 * X(name, flag, argument, help): "" is no argument.
 */
#define REPLAY_OPTION_TABLE(X)                                                                     \
	X(payload_bytes, "payload-bytes", "SIZE",                                                  \
		"bytes of a block (4096, 64KiB, 2MiB); standard 16KiB")                            \
	X(dram_blocks, "dram-blocks", "N",                                                         \
		"start a private skepd whose pool has exactly N frames; standard 10000")           \
	X(ssd_blocks, "ssd-blocks", "N",                                                           \
		"give the private skepd an ssd tier with room for N live blocks")                  \
	X(ssd_path, "ssd-path", "DIR",                                                             \
		"where that tier's file lies meanwhile; standard: the current directory")          \
	X(clients, "clients", "K", "client threads, each with its own session; standard 1")        \
	X(speed, "speed", "max|real|Nx", "as fast as it goes, as it was, or N times that")         \
	X(requests, "requests", "N", "the first N requests; of made traffic, how many are made")   \
	X(socket, "socket", "PATH", "use the daemon that listens there, not a private one")        \
	X(seed, "seed", "N", "of made traffic; standard 1")                                        \
	X(json, "json", "", "print one JSON object, no progress")                                  \
	X(help, "help", "", "print this text")

struct replay_options {
	const char *trace;  /* path, or NULL: traffic is made */
	const char *socket; /* of a running daemon, or NULL: a private one is started */
	uint64_t payload_bytes;
	uint64_t dram_blocks;
	uint64_t ssd_blocks;  /* 0: no ssd tier */
	const char *ssd_path; /* directory; NULL: the current one */
	uint64_t clients;
	uint64_t requests; /* 0: all */
	uint64_t seed;
	double speed; /* times real time; 0: as fast as it goes */
	bool json;
};

enum {
	REPLAY_CLIENTS_MAX = 256,
};
#define REPLAY_PAYLOAD_BYTES_MAX ((uint64_t)1 << 30)

/* How it ends when it was interrupted; otherwise as enum skep_exit (commands.h) says. */
#define REPLAY_EXIT_INTERRUPTED 130

/*
 * The command. @argv[0] is its own name. Returns EXIT_OK; EXIT_NEGATIVE: wrong blocks, failed gets
 * or refused puts, and the report says which; EXIT_USAGE: wrong words, or a trace that cannot be
 * read; EXIT_UNREACHABLE: no daemon, or it went away; EXIT_DAEMON: it failed; or interrupted.
 */
int replay_main(int argc, char **argv);

#endif
