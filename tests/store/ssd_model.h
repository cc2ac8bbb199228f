/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_STORE_SSD_MODEL_H
#define SKEP_TESTS_STORE_SSD_MODEL_H

/*
 * What must be true of a realm's names in both tiers, kept beside the keeper by brute force: every
 * name that ever was, looked for slot by slot. A name that is gone was counted as evicted, removed
 * or given up. What a sync called durable is found after a cut, unless it has left since or the
 * devices did something that excuses it.
 */

#include "tests/base/unit.h"
#include "tests/store/sim.h"

enum { MODEL_NAMES_MAX = 1 << 14, MODEL_SPACES = 3 };

struct model_name {
	struct block_id id;  /* 0, 0: free */
	uint64_t generation; /* name generation at the last look; 0: it did not stand */
	uint64_t since;	     /* the look that found it present first under it; 0: it was not */
	uint64_t seen;	     /* the last look that found it */
	uint32_t at;	     /* its record then */
	bool durable;
};

struct model_space {
	uint64_t version, durable_version;
	uint32_t at;
};

struct model {
	struct model_name names[MODEL_NAMES_MAX];
	uint32_t count;
	struct model_space spaces[MODEL_SPACES];
	uint64_t look;
	uint64_t left;	     /* names that may have gone, as counted */
	uint64_t lost;	     /* blocks_lost at the last look */
	uint64_t excused_at; /* the last look that found that a device took something */
	bool has_lied;	     /* the devices: nothing can be promised of what they hold */
	bool has_failed;     /* and said so: of what was moved or lost since, nothing */
	uint64_t durables;   /* that were found again */
};

/* The spaces, each of which stands wherever there is a place. */
extern const struct sim_space model_kinds[MODEL_SPACES];

void model_begin(struct model *model);

/* A name that may come to stand. */
void model_know(struct model *model, struct block_id id);

/* Looks at all slots. Return: the look's number. */
uint64_t model_look(struct model *model, struct realm *realm);

/* A sync that was asked for right after look @look has answered 0. @versions of the spaces then. */
void model_durable(struct model *model, struct realm *realm, uint64_t look,
	const uint64_t versions[MODEL_SPACES]);

/* A device was given up: what lay there may be gone, or stand at the same place again, not durable
 * yet. */
void model_fenced(struct model *model);

/* Memory and live bytes are within what they may be. */
void model_limits(const struct model *model, const struct realm *realm, bool ledger);

/* After a restart; model_look() was called right before the cut. @ledger: nothing that had died
 * may come back. */
void model_restarted(struct model *model, struct realm *realm, bool ledger);

#endif
