/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_CLIENT_EMBEDDED_H
#define SKEP_ENGINE_CLIENT_EMBEDDED_H

/*
 * A node inside this process ("embedded:" of skep_open()). libskep.so links embedded_none.c, which
 * answers -ENOTSUP; libskep-node.so links engine/embedded/.
 */
struct embedded;

/*
 * Starts the node that @settings describe ("dram=2GiB,realm=chat"), or joins the one that was
 * started by the same words. Blocks while the pool is made; allocates. Any thread.
 * Return: 0; -ENOTSUP, -EINVAL (a word of the settings), -ENOMEM, ….
 */
int embedded_open(const char *settings, struct embedded **out);

/* A connected socket of a new session. Any thread. Return: a descriptor or a negative errno. */
int embedded_connect(struct embedded *node);

/* Leaves the node; the last one ends it. NULL is nothing. */
void embedded_close(struct embedded *node);

#endif
