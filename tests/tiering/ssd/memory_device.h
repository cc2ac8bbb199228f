/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TESTS_TIERING_SSD_MEMORY_DEVICE_H
#define SKEP_TESTS_TIERING_SSD_MEMORY_DEVICE_H

/*
 * Devices in memory behind struct ssd_io, for one thread. A request waits until the test runs it;
 * which of those that wait comes next is drawn from the seed. What was written lies in a volatile
 * cache until a flush; a power cut keeps, drops or tears each write of that cache as the seed says.
 * Memory is taken for the units that were ever written alone, so that devices may be large.
 *
 * Every allocation here is plain malloc(): memory_fail_after() counts those of the code under test.
 */

#include <stdbool.h>
#include <stdint.h>

#include "tiering/ssd/io.h"

struct memory_devices;

enum memory_fault {
	MEMORY_FAULT_NONE,
	MEMORY_FAULT_ERROR,	  /* nothing is moved; -EIO */
	MEMORY_FAULT_PARTIAL,	  /* some units are moved; -EIO */
	MEMORY_FAULT_LOST,	  /* a write does nothing and says 0 */
	MEMORY_FAULT_TORN,	  /* a write does some of its units and says 0 */
	MEMORY_FAULT_MISDIRECTED, /* a write goes elsewhere, never to unit 0, and says 0 */
	MEMORY_FAULT_FLIPPED,	  /* a write or a read has one bit turned over and says 0 */
	MEMORY_FAULT_COUNT,
};

struct memory_options {
	unsigned device_count;
	uint64_t device_bytes[SSD_DEVICES_MAX];
	uint64_t seed;
	unsigned depth; /* submit() says -EAGAIN above it; 0: no bound */
};

/* Ends the test where there is no memory. */
struct memory_devices *memory_devices_create(const struct memory_options *options);
void memory_devices_destroy(struct memory_devices *devices);
struct ssd_io *memory_devices_io(struct memory_devices *devices);

/* Runs one waiting request, or up to @most; returns how many ran. Requests that are submitted
 * meanwhile may be among them. */
bool memory_devices_step(struct memory_devices *devices);
unsigned memory_devices_run(struct memory_devices *devices, unsigned most);

/* From now on a transfer of @op on @device has this fault @of_million times in a million; again for
 * another fault. 0 ends it. */
void memory_devices_fault(struct memory_devices *devices, unsigned device, enum ssd_op op,
	enum memory_fault fault, unsigned of_million);
void memory_devices_faults_end(struct memory_devices *devices);

/*
 * The power goes: of the writes that wait some were done, and of what was not flushed each unit may
 * be old or new, or half of each. Until the power is back all requests fail with -EIO and do
 * nothing, so that the code under test can be run dry and taken down.
 */
void memory_devices_power_cut(struct memory_devices *devices);
void memory_devices_power_on(struct memory_devices *devices);

/* As it lies now, past faults and cuts: for tests that look or damage. */
void memory_devices_peek(
	struct memory_devices *devices, unsigned device, uint64_t offset, void *to, uint64_t bytes);
void memory_devices_poke(struct memory_devices *devices, unsigned device, uint64_t offset,
	const void *from, uint64_t bytes);

struct memory_counts {
	uint64_t reads, writes, flushes; /* requests that ran */
	uint64_t read_bytes, written_bytes;
	uint64_t faults; /* that happened */
	unsigned waiting;
};
struct memory_counts memory_devices_counts(const struct memory_devices *devices);

#endif
