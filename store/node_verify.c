/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scrub: blocks are read from the ssd again and verified, in steps that a caller paces. A step
 * begins on the keeper's thread, its reads and sums run on the I/O thread, and what is wrong is
 * quarantined by the keeper.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/memory.h"
#include "store/node_priv.h"

enum { STEP_BLOCKS_MAX = 64 };

#define STEP_BYTES_MAX (64ull << 20)

struct step;

/* The read of one block. */
struct verify_job {
	struct ssd_job job;
	struct step *step;
	uint64_t name_generation;
};

/* One step; lives until its last read has ended. */
struct step {
	struct node *node;
	struct node_verify *verify;
	struct realm *realm;
	struct verify_job *jobs; /* STEP_BLOCKS_MAX */
	uint8_t *bytes, *room;	 /* bytes: aligned in room */
	uint64_t bytes_room;
	uint32_t count, left;
	int status;
	bool ended;
	pthread_mutex_t lock;
	pthread_cond_t changed;
};

#define LOAD(field) atomic_load_explicit(&(field), RELAXED)

static void step_end(struct step *step)
{
	pthread_mutex_lock(&step->lock);
	step->ended = true;
	pthread_cond_signal(&step->changed);
	pthread_mutex_unlock(&step->lock);
}

static void block_verified(struct ssd_get *get, int status)
{
	struct verify_job *own = list_item(get, struct verify_job, job.get);
	struct step *step = own->step;
	struct realm *realm = step->realm;
	uint32_t slot = own->job.slot;
	bool stands = LOAD(realm->index.entries[slot].name_generation) == own->name_generation;

	if (stands)
		realm->index.slots[slot].holds--;
	step->verify->bad += status == SKEP_STATUS_ECHECKSUM;
	step->verify->unreadable += status < 0 && status != SKEP_STATUS_ECHECKSUM;
	if (status < 0)
		realm->counters[REALM_COUNTER_ssd_read_errors]++;
	/* A good copy in DRAM is written again; else the block goes, and what is below it. */
	if (stands && status == SKEP_STATUS_ECHECKSUM)
		ssd_record_bad(realm, slot, get->at);
	if (--step->left == 0)
		step_end(step);
}

/* Begins to read one block. Return: 0, or why it cannot be read now. */
static int block_begin(struct step *step, uint32_t slot, uint64_t at)
{
	struct realm *realm = step->realm;
	struct verify_job *own = &step->jobs[step->count];
	struct ssd_job *job = &own->job;
	int status;

	job->realm = realm;
	job->slot = slot;
	own->step = step;
	own->name_generation = LOAD(realm->index.entries[slot].name_generation);
	load_expect(realm, slot, step->bytes + at, job);
	job->get = (struct ssd_get){.at = realm->index.ssd_at[slot],
		.piece_count = job->part_count,
		.pieces = job->pieces,
		.check = load_check,
		.done = block_verified};
	status = ssd_get(realm->ssd.log, &job->get);
	if (status < 0)
		return status;
	step->count++;
	realm->index.slots[slot].holds++;
	step->left++;
	return 0;
}

static void step_begin(void *argument)
{
	struct step *step = argument;
	struct node_verify *verify = step->verify;
	struct realm *realm = keeper_realm(step->node->keeper, verify->realm);
	uint32_t slot = verify->cursor;
	uint64_t at = 0;

	if (!realm || !realm->ssd.log) {
		step->status = -ENOENT;
		return;
	}
	step->realm = realm;
	verify->slots = realm->index.head->slot_count;
	for (; slot < verify->slots && step->count < STEP_BLOCKS_MAX; slot++) {
		uint64_t bytes;

		if (!slot_on_ssd(realm, slot) || realm->index.slots[slot].flags & SLOT_WRITING)
			continue;
		bytes = (uint64_t)ssd_block_units(realm, slot) * SSD_UNIT_BYTES;
		if (bytes > step->bytes_room) { /* larger than any step: it is verified by loads */
			verify->unreadable++;
			continue;
		}
		if (at + bytes > step->bytes_room)
			break;
		step->status = block_begin(step, slot, at);
		if (step->status < 0)
			break; /* tried again by the next step */
		at += bytes;
	}
	if (step->status == -EAGAIN)
		step->status = 0;
	verify->cursor = slot < verify->slots ? slot : UINT32_MAX;
	verify->blocks = step->count;
	verify->bytes = at;
	ssd_kick(step->node->keeper->ssd);
}

int node_verify(struct node *node, struct node_verify *verify)
{
	struct step *step = memory_zalloc(sizeof(*step));
	int status;

	verify->blocks = verify->bytes = verify->bad = verify->unreadable = 0;
	if (!step)
		return -ENOMEM;
	step->node = node;
	step->verify = verify;
	step->bytes_room = MIN_OF(MAX_OF(verify->bytes_max, 1ull << 20), STEP_BYTES_MAX);
	step->room = memory_zalloc(step->bytes_room + SSD_UNIT_BYTES);
	step->jobs = memory_calloc(STEP_BLOCKS_MAX, sizeof(*step->jobs));
	pthread_mutex_init(&step->lock, NULL);
	pthread_cond_init(&step->changed, NULL);
	status = step->room && step->jobs ? 0 : -ENOMEM;
	if (status == 0) {
		step->bytes = (uint8_t *)align_up((uintptr_t)step->room, SSD_UNIT_BYTES);
		status = mailbox_call(node->mailbox, step_begin, step) < 0 ? -ETIMEDOUT
									   : step->status;
	}
	/* Reads end: by their bytes or by the device's errors. */
	pthread_mutex_lock(&step->lock);
	while (step->count && !step->ended)
		pthread_cond_wait(&step->changed, &step->lock);
	pthread_mutex_unlock(&step->lock);
	pthread_cond_destroy(&step->changed);
	pthread_mutex_destroy(&step->lock);
	memory_free(step->jobs);
	memory_free(step->room);
	memory_free(step);
	return status;
}

struct unfence {
	struct node *node;
	unsigned device;
	int status;
};

static void unfence_run(void *argument)
{
	struct unfence *unfence = argument;
	struct keeper *keeper = unfence->node->keeper;

	unfence->status = -ENODEV;
	if (!keeper->ssd)
		return;
	unfence->status = ssd_device_unfence(keeper->ssd, unfence->device);
	/* Realms see by themselves that they have room again (ssd_pump). */
}

int node_unfence(struct node *node, unsigned device)
{
	struct unfence unfence = {.node = node, .device = device};
	int status = mailbox_call(node->mailbox, unfence_run, &unfence);

	return status < 0 ? -ETIMEDOUT : unfence.status;
}
