/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/store/sim_ssd.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "tests/base/unit.h"
#include "tiering/ssd/format.h"

/* ---------------------------------------------------------------------------------- ledger */

static void ledger_dead(void *arg, uint64_t sequence, uint32_t unit)
{
	struct sim *sim = arg;

	if (sim->off)
		return;
	if (sim->dead_count == sim->dead_room) {
		sim->dead_room = sim->dead_room ? sim->dead_room * 2 : 1024;
		sim->dead = realloc(sim->dead, sim->dead_room * sizeof(sim->dead[0]));
		REQUIRE(sim->dead != NULL);
	}
	sim->dead[sim->dead_count++] = (struct sim_dead){sequence, unit};
}

static void ledger_freed(void *arg, uint64_t sequence)
{
	struct sim *sim = arg;
	size_t kept = 0;

	if (sim->off)
		return;
	for (size_t i = 0; i < sim->dead_count; i++)
		if (sim->dead[i].sequence != sequence)
			sim->dead[kept++] = sim->dead[i];
	sim->dead_count = kept;
}

static bool ledger_is_dead(void *arg, uint64_t sequence, uint32_t unit)
{
	const struct sim *sim = arg;

	for (size_t i = 0; i < sim->dead_count; i++)
		if (sim->dead[i].sequence == sequence && sim->dead[i].unit == unit)
			return true;
	return false;
}

/* --------------------------------------------------------------------------------- devices */

void sim_ssd_create(struct sim *sim)
{
	const struct sim_ssd_options *ssd = &sim->options.ssd;
	unsigned realms = sim->options.realms ? sim->options.realms : 1;
	uint64_t segment = ssd->segment_bytes ? ssd->segment_bytes : 1 << 20;
	struct memory_options options = {
		.device_count = ssd->devices ? ssd->devices : 1,
		.seed = mix64(ssd->seed + 1),
		.depth = ssd->depth,
	};

	if (!ssd->bytes)
		return;
	for (unsigned d = 0; d < options.device_count; d++)
		options.device_bytes[d] =
			SSD_SEGMENTS_AT +
			align_up(divide_up(ssd->bytes * realms, options.device_count), segment);
	sim->devices = memory_devices_create(&options);
}

void sim_ssd_destroy(struct sim *sim)
{
	if (sim->devices)
		memory_devices_destroy(sim->devices);
	free(sim->dead);
	sim->devices = NULL;
	sim->dead = NULL;
}

int sim_ssd_open(struct sim *sim)
{
	const struct sim_ssd_options *ssd = &sim->options.ssd;
	const struct ssd_ledger ledger = {
		.arg = sim, .dead = ledger_dead, .freed = ledger_freed, .is_dead = ledger_is_dead};
	struct ssd_options options = {
		.segment_bytes = ssd->segment_bytes ? ssd->segment_bytes : 1 << 20,
		.ledger = ssd->ledger ? &ledger : NULL,
		.errors_max = ssd->errors_max,
	};
	char why[256];

	if (!sim->devices)
		return 0;
	options.io = memory_devices_io(sim->devices);
	return ssd_create(&options, &sim->keeper->ssd, why, sizeof(why));
}

int sim_ssd_recover(struct sim *sim)
{
	const struct ssd_found *found;
	int64_t count;
	int status = 0;

	if (!sim->devices)
		return 0;
	count = ssd_recover(sim->keeper->ssd, &found);
	if (count < 0)
		return (int)count;
	for (unsigned i = 0; i < sim->keeper->realm_count && status == 0; i++)
		status = ssd_realm_recover(sim->realms[i], found, count);
	ssd_recover_end(sim->keeper->ssd);
	for (unsigned i = 0; i < sim->keeper->realm_count && status == 0; i++)
		ssd_realm_fit(sim->realms[i]);
	return status;
}

void sim_ssd_dry(struct sim *sim)
{
	do {
		ssd_kick(sim->keeper->ssd);
	} while (memory_devices_run(sim->devices, UINT32_MAX));
	REQUIRE(ssd_idle(sim->keeper->ssd));
}

unsigned sim_devices_run(struct sim *sim, unsigned most)
{
	return sim->devices ? memory_devices_run(sim->devices, most) : 0;
}

void sim_settle(struct sim *sim)
{
	/* What a failing device is asked for again at each turn does not end. */
	for (unsigned turn = 0; turn < 500; turn++) {
		sim_run(sim);
		if (!sim_devices_run(sim, 1 << 16))
			return;
	}
}
