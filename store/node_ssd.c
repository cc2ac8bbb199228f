/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's ssd tier: its devices and their I/O thread, what is found on them at the start, and
 * what a clean stop still writes.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/label.h"
#include "store/node_priv.h"
#include "tiering/ssd/disk.h"

#define FILL_STEP_BYTES (16ull << 20)
#define STOP_DEFAULT_NS (5 * NS_PER_S)
#define STOP_LOOK_US	2000

/* Reads of tables under way at once, at the start. */
enum { RECOVER_THREADS = 4 };

int node_ssd_create(
	struct node *node, const struct node_config *config, char *why, size_t why_bytes)
{
	struct disk_path paths[NODE_SSDS_MAX];
	struct disks_options disks = {.paths = paths,
		.count = config->ssd_count,
		.backend = (enum loop_backend)config->loop_backend,
		.mailbox = node->mailbox};
	struct ssd_options ssd = {0};
	int status;

	if (!config->ssd_count)
		return 0;
	if (config->ssd_count > NODE_SSDS_MAX) {
		snprintf(why, why_bytes, "%u ssd paths: at most %d can be served",
			config->ssd_count, NODE_SSDS_MAX);
		return -EINVAL;
	}
	for (unsigned i = 0; i < config->ssd_count; i++)
		paths[i] = (struct disk_path){config->ssds[i].path, config->ssds[i].bytes};
	status = disks_create(&disks, &node->disks, why, why_bytes);
	if (status < 0)
		return status;
	ssd.io = node->disks;
	status = node_ledger_open(node, config, &ssd.ledger, why, why_bytes);
	if (status < 0)
		return status;
	ssd.recover_threads = RECOVER_THREADS;
	ssd.wear_bytes_per_day = config->ssd_wear_bytes_per_day;
	return ssd_create(&ssd, &node->keeper->ssd, why, why_bytes);
}

/*
 * The memory of the names that are about to be made: clearing its pages takes as long as making the
 * names, so another thread has the system do that ahead of us.
 */
struct populating {
	const struct index *index;
	uint32_t slots;
	uint64_t record_bytes;
	pthread_t thread;
	bool runs;
};

static void *populate_main(void *arg)
{
	const struct populating *populating = arg;

	index_populate(populating->index, populating->slots, populating->record_bytes);
	return NULL;
}

static void populate_begin(struct populating *populating, const struct realm *realm,
	const struct ssd_found *found, int64_t count)
{
	*populating = (struct populating){.index = &realm->index};
	for (int64_t i = 0; i < count; i++)
		if (found[i].log == realm->ssd.log) {
			populating->slots++;
			populating->record_bytes += label_record_bytes(found[i].label_bytes);
		}
	/* What cannot be had is touched when it is needed. */
	populating->runs = populating->slots && thread_start(&populating->thread, populate_main,
							populating, "skep-populate") == 0;
}

static int realm_recover(struct realm *realm, const struct ssd_found *found, int64_t count)
{
	struct populating populating;
	int status;

	if (!realm->ssd.log)
		return 0;
	populate_begin(&populating, realm, found, count);
	status = ssd_realm_recover(realm, found, count);
	if (populating.runs)
		pthread_join(populating.thread, NULL);
	return status;
}

int node_ssd_recover(struct node *node, char *why, size_t why_bytes)
{
	struct keeper *keeper = node->keeper;
	const struct ssd_found *found;
	int64_t count;
	int status = 0;

	if (!keeper->ssd)
		return 0;
	keeper->now_ns = clock_ns();
	count = ssd_recover(keeper->ssd, &found);
	if (count < 0) {
		snprintf(why, why_bytes, "the tables of the ssd tier cannot be read: %s",
			status_text((int)count));
		return (int)count;
	}
	for (unsigned i = 0; i < keeper->realm_count && status == 0; i++)
		status = realm_recover(keeper->realms[i], found, count);
	ssd_recover_end(keeper->ssd);
	for (unsigned i = 0; i < keeper->realm_count && status == 0; i++)
		ssd_realm_fit(keeper->realms[i]);
	node_ledger_recovered(node, (uint64_t)count);
	memory_trim();
	if (status < 0)
		snprintf(why, why_bytes, "what the ssd tier holds cannot be taken in: %s",
			status_text(status));
	return status;
}

/* ------------------------------------------------------------------------ one after the other */

uint64_t node_ssd_set(const struct node_config *config)
{
	uint64_t set = config->ssd_count;

	for (unsigned i = 0; i < config->ssd_count; i++) {
		const char *path = config->ssds[i].path;

		set = XXH3_64bits_withSeed(path, strlen(path), set);
	}
	if (config->ssd_count && config->manifest_path)
		set = XXH3_64bits_withSeed(
			config->manifest_path, strlen(config->manifest_path), set);
	return set;
}

void node_ssd_leave(struct node *node)
{
	struct keeper *keeper = node->keeper;

	if (!keeper->ssd)
		return;
	node_ssd_settle(node);
	for (unsigned i = 0; i < keeper->realm_count; i++)
		ssd_realm_leave(keeper->realms[i]);
	node_ssd_destroy(node);
	ssd_destroy(keeper->ssd);
	keeper->ssd = NULL;
}

int node_ssd_rejoin(
	struct node *node, const struct node_config *config, char *why, size_t why_bytes)
{
	struct keeper *keeper = node->keeper;
	const struct ssd_found *found;
	int64_t count;
	int status = node_ssd_create(node, config, why, why_bytes);

	if (status < 0 || !keeper->ssd)
		return status;
	keeper->now_ns = clock_ns();
	snprintf(why, why_bytes, "the ssd tier cannot be opened again");
	for (unsigned i = 0; i < keeper->realm_count && status == 0; i++)
		status = ssd_realm_reopen(keeper->realms[i]);
	if (status < 0)
		return status;
	count = ssd_recover(keeper->ssd, &found);
	if (count < 0)
		return (int)count;
	for (unsigned i = 0; i < keeper->realm_count && status == 0; i++)
		status = ssd_realm_rejoin(keeper->realms[i], found, count);
	ssd_recover_end(keeper->ssd);
	node_ledger_recovered(node, (uint64_t)count);
	for (unsigned i = 0; i < keeper->realm_count && status == 0; i++)
		ssd_realm_rejoin_end(keeper->realms[i]);
	return status;
}

/* --------------------------------------------------------------------------- beside the keeper */

/*
 * Extents that were never written are slow at their first writing, so new files are written through
 * once: in steps, and while others transfer for half of the time at most.
 */
static void *fill_main(void *arg)
{
	struct node *node = arg;

	for (unsigned i = 0; i < node->disks->device_count; i++) {
		int64_t done = 0;

		while (!atomic_load(&node->stopping) && !atomic_load(&node->fill_ends) &&
			done >= 0 && (uint64_t)done < node->disks->device_bytes[i]) {
			uint64_t began = clock_ns(), took;
			struct disks_status status;

			done = disks_write_through(node->disks, i, FILL_STEP_BYTES);
			took = MIN_OF(clock_ns() - began, NS_PER_S / 10);
			disks_status_get(node->disks, &status);
			if (status.in_flight)
				nanosleep(&(struct timespec){.tv_nsec = (long)took}, NULL);
		}
		if (done < 0)
			log_warn("ssd", "device %u is not written through: %s", i,
				status_text((int)done));
	}
	return NULL;
}

int node_ssd_start(struct node *node)
{
	bool all = true;
	int status;

	for (unsigned i = 0; node->disks && i < node->disks->device_count; i++)
		all &= disks_written_through(node->disks, i) == node->disks->device_bytes[i];
	if (!node->disks || all)
		return 0;
	status = thread_start(&node->fill_thread, fill_main, node, "skep-fill");
	node->fill_runs = status == 0;
	return status;
}

void node_ssd_register(struct node *node, const struct realm *realm)
{
	int status;

	if (!node->disks || !realm->ssd.log)
		return;
	status = disks_register(node->disks, dram_at(realm->dram, 0), dram_bytes(realm->dram));
	if (status < 0 && status != -ENOTSUP)
		log_warn("ssd",
			"realm %s: its pool is not registered for transfers (%s): they go on "
			"without, at some cost; see the memlock limit in skepd --check",
			realm->name, status_text(status));
}

/* ------------------------------------------------------------------------------------- stop */

struct drain {
	struct node *node;
	bool empty;
};

static void drain_look(void *argument)
{
	struct drain *drain = argument;
	struct keeper *keeper = drain->node->keeper;

	drain->empty = true;
	for (unsigned i = 0; i < keeper->realm_count; i++) {
		const struct realm *realm = keeper->realms[i];

		if (realm->ssd.log && !realm->ssd.down)
			drain->empty &=
				!realm->ssd.dirty.count && list_empty(&realm->ssd.jobs_busy);
	}
}

struct stop_sync {
	struct ssd_sync sync;
	struct realm *realm;
	struct node_kept kept;
	_Atomic bool done;
};

static void stop_synced(struct ssd_sync *sync, int status)
{
	struct stop_sync *stop = list_item(sync, struct stop_sync, sync);

	if (status < 0)
		log_error("ssd", "realm %s: what was written last may not be durable: %s",
			stop->realm->name, status_text(status));
	atomic_store(&stop->done, true);
}

static void stop_sync_run(void *argument)
{
	struct stop_sync *stop = argument;

	/* All that has a record now is durable then. What is under way may be as well. */
	stop->kept.blocks = stop->realm->ssd.blocks;
	for (unsigned i = 0; i < SYNC_EPOCHS; i++)
		stop->kept.blocks_left += stop->realm->ssd.unwritten[i];
	stop->sync.done = stop_synced;
	ssd_sync(stop->realm->ssd.log, &stop->sync);
	ssd_kick(stop->realm->keeper->ssd);
}

static void stop_said(const struct stop_sync *stop)
{
	const struct node_kept *kept = &stop->kept;

	if (kept->blocks_left)
		log_warn("ssd",
			"realm %s: %llu blocks are kept on the ssd; %llu were not written in time "
			"(stop_seconds)",
			stop->realm->name, (unsigned long long)kept->blocks,
			(unsigned long long)kept->blocks_left);
	else
		log_info("ssd", "realm %s: %llu blocks are kept on the ssd", stop->realm->name,
			(unsigned long long)kept->blocks);
}

void node_keep(struct node *node, struct node_kept *out)
{
	struct keeper *keeper = node->keeper;
	struct drain drain = {.node = node};

	*out = (struct node_kept){0};
	if (!keeper || !keeper->ssd || !node->keeper_runs)
		return;
	if (!node->stop_until_ns)
		node->stop_until_ns = clock_ns() + (node->config.stop_ns ? node->config.stop_ns
									 : STOP_DEFAULT_NS);
	while (mailbox_call(node->mailbox, drain_look, &drain) == 0 && !drain.empty &&
		clock_ns() < node->stop_until_ns)
		usleep(STOP_LOOK_US);
	for (unsigned i = 0; i < keeper->realm_count; i++) {
		struct stop_sync stop = {.realm = keeper->realms[i]};

		if (!stop.realm->ssd.log || mailbox_call(node->mailbox, stop_sync_run, &stop) < 0)
			continue;
		/* It ends: by success, or by the devices' errors. */
		while (!atomic_load(&stop.done))
			usleep(STOP_LOOK_US);
		stop_said(&stop);
		out->blocks += stop.kept.blocks;
		out->blocks_left += stop.kept.blocks_left;
	}
}

/* The keeper's thread, at its end: nothing may be under way when memory goes. */
void node_ssd_settle(struct node *node)
{
	while (node->keeper->ssd && !ssd_idle(node->keeper->ssd)) {
		ssd_kick(node->keeper->ssd);
		loop_run_once(node->loop, clock_ns() + 10 * NS_PER_MS);
	}
}

void node_ssd_destroy(struct node *node)
{
	node_ledger_close(node);
	disks_destroy(node->disks);
	node->disks = NULL;
}

void node_ssd_status(struct node *node, struct node_ssd_status *out)
{
	struct disks_status disks;
	struct ssd_status ssd;

	if (!node->disks || !node->keeper->ssd)
		return;
	disks_status_get(node->disks, &disks);
	ssd_status_get(node->keeper->ssd, &ssd);
	*out = (struct node_ssd_status){.devices = ssd.devices,
		.devices_fenced = ssd.devices_fenced,
		.in_flight = disks.in_flight,
		.uring = disks.uring,
		.uring_error = disks.uring_error,
		.io_fallback = disks.uring_error != 0,
		.segment_bytes = ssd.segment_bytes,
		.segments = ssd.segments,
		.segments_free = ssd.segments_free,
		.tables_damaged = ssd.tables_damaged,
		.moves_given_up = ssd.moves_given_up,
		.wear_bytes_per_day = node->config.ssd_wear_bytes_per_day,
		.wear_left_bytes = ssd.wear_left_bytes,
		.wear_waits = ssd.wear_waits,
		.reads = disks.reads,
		.writes = disks.writes,
		.flushes = disks.flushes,
		.read_bytes = disks.read_bytes,
		.written_bytes = disks.written_bytes,
		.errors = disks.errors,
		.read_ns = disks.read_ns,
		.write_ns = disks.write_ns};
	for (unsigned i = 0; i < node->disks->device_count; i++)
		out->unwritten_bytes +=
			node->disks->device_bytes[i] - disks_written_through(node->disks, i);
	node_ledger_status(node, out);
}
