/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/hbm/hbm.h"

#include <errno.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/memory.h"

/* A leaf stands on the list; a block with children does not. */
struct block {
	struct hbm_label label;
	uint64_t stamp; /* of the clock of touches */
	uint32_t page;
	uint32_t parent; /* or HBM_NONE */
	uint32_t children;
	uint32_t hot, cold; /* neighbours on the list; free blocks: @hot is the next free one */
	bool used;
};

struct hbm_tier {
	struct hbm_options options;
	struct block *blocks;
	uint32_t count, free;
	uint32_t hottest, coldest;
	uint64_t clock;
};

int hbm_tier_create(const struct hbm_options *options, struct hbm_tier **out)
{
	struct hbm_tier *hbm;

	if (!options->blocks_max || options->blocks_max == HBM_NONE)
		return -EINVAL;
	hbm = memory_zalloc(sizeof(*hbm));
	if (!hbm)
		return -ENOMEM;
	hbm->blocks = memory_calloc(options->blocks_max, sizeof(*hbm->blocks));
	if (!hbm->blocks) {
		memory_free(hbm);
		return -ENOMEM;
	}
	hbm->options = *options;
	for (uint32_t i = 0; i < options->blocks_max; i++)
		hbm->blocks[i].hot = i + 1 < options->blocks_max ? i + 1 : HBM_NONE;
	hbm->hottest = hbm->coldest = HBM_NONE;
	*out = hbm;
	return 0;
}

static struct block *block_at(const struct hbm_tier *hbm, uint32_t number)
{
	SKEP_CHECK(number < hbm->options.blocks_max && hbm->blocks[number].used);
	return &hbm->blocks[number];
}

/* ------------------------------------------------------------------------------------- list */

/* Puts a leaf on the hot side of @below (HBM_NONE: at the cold end). */
static void list_put(struct hbm_tier *hbm, uint32_t number, uint32_t below)
{
	struct block *block = block_at(hbm, number);

	block->cold = below;
	block->hot = below == HBM_NONE ? hbm->coldest : hbm->blocks[below].hot;
	if (block->cold == HBM_NONE)
		hbm->coldest = number;
	else
		hbm->blocks[block->cold].hot = number;
	if (block->hot == HBM_NONE)
		hbm->hottest = number;
	else
		hbm->blocks[block->hot].cold = number;
}

static void list_take(struct hbm_tier *hbm, uint32_t number)
{
	const struct block *block = block_at(hbm, number);

	if (block->cold == HBM_NONE)
		hbm->coldest = block->hot;
	else
		hbm->blocks[block->cold].hot = block->hot;
	if (block->hot == HBM_NONE)
		hbm->hottest = block->cold;
	else
		hbm->blocks[block->hot].cold = block->cold;
}

/* A parent that became a leaf is about as old as the child that left: near the cold end. */
static void list_put_ordered(struct hbm_tier *hbm, uint32_t number)
{
	uint64_t stamp = block_at(hbm, number)->stamp;
	uint32_t below = HBM_NONE, at = hbm->coldest;

	for (; at != HBM_NONE && hbm->blocks[at].stamp < stamp; at = hbm->blocks[at].hot)
		below = at;
	list_put(hbm, number, below);
}

/* ----------------------------------------------------------------------------------- blocks */

int64_t hbm_tier_add(struct hbm_tier *hbm, uint32_t parent, uint32_t page)
{
	uint32_t number = hbm->free;
	struct block *block;

	if (hbm->count == hbm->options.blocks_max)
		return -ENOSPC;
	block = &hbm->blocks[number];
	hbm->free = block->hot;
	hbm->count++;
	*block =
		(struct block){.page = page, .parent = parent, .stamp = ++hbm->clock, .used = true};
	if (parent != HBM_NONE && block_at(hbm, parent)->children++ == 0)
		list_take(hbm, parent);
	list_put(hbm, number, hbm->hottest);
	return number;
}

/* Off the list, a leaf. */
static void block_leave(struct hbm_tier *hbm, uint32_t number)
{
	struct block *block = block_at(hbm, number);
	uint32_t parent = block->parent;

	SKEP_CHECK(!block->children);
	hbm->options.owner.left(hbm->options.owner.arg, number);
	block->used = false;
	block->hot = hbm->free;
	hbm->free = number;
	hbm->count--;
	if (parent == HBM_NONE)
		return;
	block_at(hbm, parent)->stamp = MAX_OF(block_at(hbm, parent)->stamp, block->stamp);
	if (--block_at(hbm, parent)->children == 0)
		list_put_ordered(hbm, parent);
}

void hbm_tier_remove(struct hbm_tier *hbm, uint32_t number)
{
	SKEP_CHECK(!block_at(hbm, number)->children);
	list_take(hbm, number);
	block_leave(hbm, number);
}

void hbm_tier_destroy(struct hbm_tier *hbm)
{
	if (!hbm)
		return;
	while (hbm->coldest != HBM_NONE)
		hbm_tier_remove(hbm, hbm->coldest);
	SKEP_CHECK(!hbm->count);
	memory_free(hbm->blocks);
	memory_free(hbm);
}

void hbm_tier_label_set(struct hbm_tier *hbm, uint32_t number, struct hbm_label label)
{
	block_at(hbm, number)->label = label;
}

struct hbm_label hbm_tier_label(const struct hbm_tier *hbm, uint32_t number)
{
	return block_at(hbm, number)->label;
}

bool hbm_tier_is(const struct hbm_tier *hbm, uint32_t number, struct hbm_label label)
{
	const struct block *block = &hbm->blocks[number < hbm->options.blocks_max ? number : 0];

	return number < hbm->options.blocks_max && block->used &&
	       block->label.generation == label.generation && block->label.slot == label.slot;
}

uint32_t hbm_tier_page(const struct hbm_tier *hbm, uint32_t number)
{
	return block_at(hbm, number)->page;
}

uint32_t hbm_tier_parent(const struct hbm_tier *hbm, uint32_t number)
{
	return block_at(hbm, number)->parent;
}

uint32_t hbm_tier_blocks(const struct hbm_tier *hbm)
{
	return hbm->count;
}

void hbm_tier_touch(struct hbm_tier *hbm, uint32_t number)
{
	struct block *block = block_at(hbm, number);

	block->stamp = ++hbm->clock;
	if (block->children)
		return; /* when its last child leaves it stands where this says */
	list_take(hbm, number);
	list_put(hbm, number, hbm->hottest);
}

/* ---------------------------------------------------------------------------------- reclaim */

/* The coldest leaf, if it leaves room, and of its chain what would be the coldest one then. Return:
 * how many are picked. */
static uint32_t chain_pick(struct hbm_tier *hbm, uint32_t leaf, uint32_t *victims, uint32_t count)
{
	const struct hbm_owner *owner = &hbm->options.owner;
	uint32_t next = hbm->blocks[leaf].hot, at = leaf, found = 0;
	uint64_t stamp = hbm->blocks[leaf].stamp;

	while (found < count && owner->leaves_room(owner->arg, at)) {
		victims[found++] = at;
		at = hbm->blocks[at].parent;
		if (at == HBM_NONE || hbm->blocks[at].children > 1)
			break;
		stamp = MAX_OF(stamp, hbm->blocks[at].stamp);
		if (next != HBM_NONE && stamp > hbm->blocks[next].stamp)
			break;
	}
	return found;
}

static uint32_t victims_pick(struct hbm_tier *hbm, uint32_t *victims, uint32_t count)
{
	uint32_t found = 0;

	for (uint32_t at = hbm->coldest; at != HBM_NONE && found < count; at = hbm->blocks[at].hot)
		found += chain_pick(hbm, at, victims + found, count - found);
	return found;
}

uint32_t hbm_tier_reclaim(struct hbm_tier *hbm, uint32_t count)
{
	uint32_t victims[HBM_BATCH_MAX], left = 0;

	while (left < count) {
		uint32_t found =
			victims_pick(hbm, victims, MIN_OF(count - left, (uint32_t)HBM_BATCH_MAX));

		if (!found)
			break;
		hbm->options.owner.demote(hbm->options.owner.arg, victims, found);
		for (uint32_t i = 0; i < found; i++)
			hbm_tier_remove(hbm, victims[i]);
		left += found;
	}
	return left;
}
