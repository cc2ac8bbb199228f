/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_COMMANDS_H
#define SKEP_TOOLS_SKEP_COMMANDS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * What `skep` can be told: commands and their options, one table each. Help, completion and the
 * test that holds the man page to them print from here.
 */

/* X(name, usage, summary); the function is command_NAME(). Those of BENCH_ parse for themselves. */
#define SKEP_COMMAND_TABLE(X)                                                                      \
	X(status, "", "what the daemon holds and how it does, in short")                           \
	X(top, "[--interval S] [--once]", "rates of every realm, refreshed")                       \
	X(realms, "", "every realm in full")                                                       \
	X(spaces, "", "spaces and what their blocks must agree in")                                \
	X(sessions, "", "who is connected")                                                        \
	X(show, "blocks|roots|pins|counters|misses|latencies", "one thing in full")                \
	X(tree, "[--space NAME] [--depth N]", "the chains as a tree")                              \
	X(where, "ID", "the block of an id: state, tier, parent, pins")                            \
	X(explain, "--space NAME (--tokens FILE | --token-ids LIST)",                              \
		"how far a prompt matches, and why no further")                                    \
	X(pin, "ID", "hold a block and its ancestors in DRAM")                                     \
	X(unpin, "ID", "take such a pin back")                                                     \
	X(evict, "(--block ID | --bytes SIZE)", "remove a block and all below it, or the coldest") \
	X(purge, "(--space NAME | --all) [--yes]", "remove the blocks of a space, or of all")      \
	X(verify, "[--rate SIZE]", "read every block of the ssd again and verify it")              \
	X(fsck, "[--ssd LIST] [--manifest DIR] [--payloads] [--rebuild]",                          \
		"look at the ssds and their manifest without a daemon, or make it anew")           \
	X(unfence, "DEVICE", "take a fenced device of the ssd tier into use again")                \
	X(selftest, "", "put, match, get, verify and remove a few blocks")                         \
	X(config, "", "the daemon's settings in force")                                            \
	X(check, "", "what is wrong with the daemon's host")                                       \
	X(metrics, "", "the metrics page")                                                         \
	X(completion, "bash|zsh|fish", "print a completion script for a shell")                    \
	X(version, "", "print the versions of tool and daemon")                                    \
	X(help, "[COMMAND]", "print this text, or a command's options")

/* Commands with a main of their own, int NAME_main(int argc, char **argv), where they are built. */
#define SKEP_PROGRAM_TABLE(X)                                                                      \
	X(replay, "[TRACE] [--help]", "replay a trace of chats and compare with what is possible") \
	X(bench, "match|local|ssd [--help]", "measure beside the machine's own ceiling")           \
	X(doctor, "[--engine NAME] [--help]", "look from an engine's side: what is in its way")

/* X(command, name, argument, help): `any` stands for every command; an argument of "" takes none.
 */
#define SKEP_OPTION_TABLE(X)                                                                       \
	X(any, socket, "PATH", "the daemon's socket; else $SKEP_SOCKET or /run/skep/skepd.sock")   \
	X(any, realm, "NAME", "the realm the command is about")                                    \
	X(any, token_file, "FILE", "file with the token that opens the realm")                     \
	X(any, json, "", "print JSON")                                                             \
	X(any, help, "", "print what the command takes")                                           \
	X(top, interval, "S", "seconds between two looks (1)")                                     \
	X(top, once, "", "look twice, print once, end")                                            \
	X(show, space, "NAME", "only blocks of this space")                                        \
	X(show, below, "ID", "only children of this block")                                        \
	X(show, limit, "N", "at most so many blocks (100)")                                        \
	X(tree, space, "NAME", "only this space")                                                  \
	X(tree, depth, "N", "no deeper than this many forks (8)")                                  \
	X(tree, limit, "N", "read at most so many blocks (20000)")                                 \
	X(explain, space, "NAME", "the space the prompt belongs to")                               \
	X(explain, tokens, "FILE", "token ids of the prompt, as numbers; - reads standard input")  \
	X(explain, token_ids, "LIST", "token ids of the prompt: 1,2,3")                            \
	X(evict, block, "ID", "the block to remove, with all below it")                            \
	X(evict, bytes, "SIZE", "evict the coldest blocks until so much is free (64MiB)")          \
	X(purge, space, "NAME", "the space whose blocks are removed")                              \
	X(purge, all, "", "blocks of all spaces of the realm are removed")                         \
	X(purge, yes, "", "do not ask")                                                            \
	X(verify, rate, "SIZE", "bytes a second at most (256MiB); 0 = as fast as it goes")         \
	X(fsck, ssd, "LIST", "the ssds as skepd has them: PATH:SIZE, with commas between them")    \
	X(fsck, manifest, "DIR", "the manifest; else where skepd would look for it")               \
	X(fsck, config, "FILE", "skepd's configuration; /etc/skep/skepd.yaml where it exists")     \
	X(fsck, payloads, "", "read the bytes of every block, too, and verify them")               \
	X(fsck, rate, "SIZE", "bytes a second at most (256MiB); 0 = as fast as it goes")           \
	X(fsck, rebuild, "", "make the manifest anew; the old one is kept beside it")              \
	X(selftest, blocks, "N", "blocks to put (8)")                                              \
	X(selftest, bytes, "SIZE", "bytes of a block (256KiB)")

enum skep_option {
#define X(command, name, argument, help) OPTION_##command##_##name,
	SKEP_OPTION_TABLE(X)
#undef X
		OPTION_COUNT
};

/* How skep ends; docs/man/skep.1. */
enum skep_exit {
	EXIT_OK = 0,
	EXIT_NEGATIVE = 1, /* asked and answered: no such block, a miss, a warning */
	EXIT_USAGE = 2,
	EXIT_UNREACHABLE = 3,
	EXIT_REFUSED = 4,
	EXIT_DAEMON = 5, /* the daemon failed at it */
};

enum { ARGUMENTS_MAX = 8 };

/* A command line, read. */
struct arguments {
	const char *command;		  /* "" none */
	const char *option[OPTION_COUNT]; /* NULL: not given; "" for one without an argument */
	const char *word[ARGUMENTS_MAX];
	unsigned words;
	int rest; /* of a program: index of its name in argv */
};

/*
 * Reads the command line; options may stand before and after the command. Prints what is wrong to
 * standard error. Return: 0, or EXIT_USAGE.
 */
int arguments_read(int argc, char **argv, struct arguments *out);

/* Prints help on everything ("") or on one command. Return: 0, or EXIT_USAGE for an unknown one. */
int help_print(const char *command);

/* Prints a usage error that points at the command's help. Return: EXIT_USAGE. */
int usage_error(const struct arguments *arguments, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Where the daemon is: the option, $SKEP_SOCKET, or the standard path. */
const char *arguments_socket(const struct arguments *arguments);

/* A whole number of an option, within bounds; false after a usage error was printed. */
struct number_bounds {
	uint64_t least, most;
};
bool arguments_number(const struct arguments *arguments, enum skep_option option,
	struct number_bounds bounds, uint64_t *out);

/* The same for bytes: 4096, 64KiB, 2GiB. */
bool arguments_size(const struct arguments *arguments, enum skep_option option,
	struct number_bounds bounds, uint64_t *out);

/*
 * The token of --token-file: its first line, in @token. "" where none was given; false after an
 * error was printed.
 */
bool arguments_token(const struct arguments *arguments, char token[256]);

#define X(name, usage, summary) int command_##name(const struct arguments *arguments);
SKEP_COMMAND_TABLE(X)
#undef X
#define X(name, usage, summary) int name##_main(int argc, char **argv);
SKEP_PROGRAM_TABLE(X)
#undef X

#endif
