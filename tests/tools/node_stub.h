/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_TOOLS_NODE_STUB_H
#define SKEP_TESTS_TOOLS_NODE_STUB_H

#include <pthread.h>

#include "store/node.h"

/*
 * A node for the tests of the daemon's outer parts: realms "a" and "b" with numbers of the test's
 * choice, one block (id {1, 2}) in "a". What was asked last is kept here.
 */
struct node_stub {
	struct realm_status realms[NODE_REALMS_MAX];
	unsigned realm_count;
	int status; /* of every question, where it is not 0 */
	uint64_t bytes;
	char purged[2 * NODE_NAME_MAX]; /* "realm/space" */
	unsigned pins, answers;
	char answer[1 << 16]; /* the last one */
	pthread_mutex_t lock; /* of answers and answer */
};

extern struct node_stub stub;

/* Clears it and makes the realms "a" and "b". */
void stub_reset(void);

/* The node's handle; it has nothing inside. */
struct node *stub_node(void);

/* A command as the node hands it on; freed by its answer. */
struct node_command *stub_command(const char *text, bool trusted, const char *realm);
void stub_command_free(struct node_command *command);

#endif
