/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_ENGINE_CLIENT_AREA_PRIV_H
#define SKEP_ENGINE_CLIENT_AREA_PRIV_H

#include "engine/client/client_priv.h"

/*
 * Blocks of a chain as RESERVE and EXPLAIN name them in the scratch (transport/local/page.h): an
 * array of struct reserve_block, then tokens, keys and extra keys.
 */
struct area_blocks {
	const struct skep_chain *chain;
	uint32_t first, count;
};

/* Lowers @count to what fits one submission, at least 1. Return: the bytes it takes. */
uint32_t area_blocks_fit(struct area_blocks *blocks);

/* Writes them. @area has the bytes that area_blocks_fit() said. */
void area_blocks_write(const struct area_blocks *blocks, uint8_t *area);

#endif
