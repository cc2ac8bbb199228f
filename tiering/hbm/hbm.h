/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TIERING_HBM_HBM_H
#define SKEP_TIERING_HBM_HBM_H

/*
 * Blocks at rest in GPU memory of this process: which page holds which block, how blocks follow
 * each other in chains, and in which order they leave. It knows no names, tokens or devices: pages
 * are numbers, a label is whatever the owner goes by, and moving bytes is the owner's (struct
 * hbm_owner).
 *
 * By chain, least recently used, as the store evicts (DESIGN section 7): a block may leave when
 * none of its children is here; the deepest block of a match is touched, and a parent takes over
 * the stamp of a child that leaves.
 *
 * One thread. Memory is taken by hbm_tier_create() alone.
 */

#include <stdbool.h>
#include <stdint.h>

#define HBM_NONE UINT32_MAX

enum { HBM_BATCH_MAX = 64 };

struct hbm_label {
	uint64_t generation;
	uint32_t slot;
};

struct hbm_owner {
	void *arg;
	/* Would its page be free if it left? False: somebody else holds it, and it stays. */
	bool (*leaves_room)(void *arg, uint32_t number);
	/* These are about to leave, children before their parents: the last chance to have their
	 * bytes elsewhere. What cannot be saved is lost; it leaves all the same. At most
	 * HBM_BATCH_MAX. */
	void (*demote)(void *arg, const uint32_t *numbers, uint32_t count);
	/* It is here no more: its page is the owner's again. The number may be another's next. */
	void (*left)(void *arg, uint32_t number);
};

struct hbm_options {
	uint32_t blocks_max;
	struct hbm_owner owner;
};

struct hbm_tier;

int hbm_tier_create(const struct hbm_options *options, struct hbm_tier **out);
/* Everything leaves, and nothing is demoted. NULL is nothing. */
void hbm_tier_destroy(struct hbm_tier *hbm);

/* A block below @parent (a number, or HBM_NONE). Return: its number below blocks_max, or -ENOSPC:
 * hbm_tier_reclaim() makes room. */
int64_t hbm_tier_add(struct hbm_tier *hbm, uint32_t parent, uint32_t page);

/* What the owner calls it from now on. */
void hbm_tier_label_set(struct hbm_tier *hbm, uint32_t number, struct hbm_label label);
struct hbm_label hbm_tier_label(const struct hbm_tier *hbm, uint32_t number);

/* Is there a block of this number, under this label? */
bool hbm_tier_is(const struct hbm_tier *hbm, uint32_t number, struct hbm_label label);

uint32_t hbm_tier_page(const struct hbm_tier *hbm, uint32_t number);
uint32_t hbm_tier_parent(const struct hbm_tier *hbm, uint32_t number);
uint32_t hbm_tier_blocks(const struct hbm_tier *hbm);

/* It was of use, and all above it. */
void hbm_tier_touch(struct hbm_tier *hbm, uint32_t number);

/* Makes up to @count blocks leave whose pages are free then, the coldest leaves first. Return: how
 * many left. */
uint32_t hbm_tier_reclaim(struct hbm_tier *hbm, uint32_t count);

/* It leaves without being demoted; nothing may be below it. */
void hbm_tier_remove(struct hbm_tier *hbm, uint32_t number);

#endif
