/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_CLIENT_PIECES_PRIV_H
#define SKEP_ENGINE_CLIENT_PIECES_PRIV_H

/* A part's bytes in the application's memory: pieces, gone through in order. */

#include <stdint.h>
#include <sys/uio.h>

struct pieces {
	const struct iovec *next;
	unsigned left;
	size_t used; /* of the first one */
};

/* The rest of the first piece that has any. */
static inline struct iovec pieces_room(struct pieces *pieces)
{
	while (pieces->left && pieces->used == pieces->next->iov_len) {
		pieces->next++;
		pieces->left--;
		pieces->used = 0;
	}
	if (!pieces->left)
		return (struct iovec){0};
	return (struct iovec){.iov_base = (uint8_t *)pieces->next->iov_base + pieces->used,
		.iov_len = pieces->next->iov_len - pieces->used};
}

#endif
