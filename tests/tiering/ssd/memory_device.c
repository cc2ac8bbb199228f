/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/tiering/ssd/memory_device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "tests/base/unit.h"

enum { WAITING_MAX = 4096 };

/* A unit that was written since the last flush: what it held before, oldest first. */
struct before {
	struct before *next;
	uint64_t unit;
	uint8_t bytes[SSD_UNIT_BYTES];
};

struct device {
	uint8_t **units; /* NULL: never written, zeros */
	uint64_t unit_count;
	struct before *before; /* newest first */
	unsigned faults[3][MEMORY_FAULT_COUNT];
};

struct memory_devices {
	struct ssd_io io; /* first */
	struct device devices[SSD_DEVICES_MAX];
	struct ssd_request *waiting[WAITING_MAX];
	unsigned depth;
	bool off;
	uint64_t random;
	struct memory_counts counts;
};

static uint32_t pick(struct memory_devices *devices, uint32_t range)
{
	return unit_random(&devices->random, range);
}

/* ----------------------------------------------------------------------------------- units */

static void unit_read(const struct device *device, uint64_t unit, uint8_t *to)
{
	REQUIRE(unit < device->unit_count);
	if (device->units[unit])
		memcpy(to, device->units[unit], SSD_UNIT_BYTES);
	else
		memset(to, 0, SSD_UNIT_BYTES);
}

static void unit_set(struct device *device, uint64_t unit, const uint8_t *from)
{
	REQUIRE(unit < device->unit_count);
	if (!device->units[unit])
		REQUIRE((device->units[unit] = malloc(SSD_UNIT_BYTES)) != NULL);
	memcpy(device->units[unit], from, SSD_UNIT_BYTES);
}

static void unit_write(struct device *device, uint64_t unit, const uint8_t *from)
{
	struct before *before = malloc(sizeof(*before));

	REQUIRE(before != NULL && unit < device->unit_count);
	before->unit = unit;
	unit_read(device, unit, before->bytes);
	before->next = device->before;
	device->before = before;
	unit_set(device, unit, from);
}

static void device_flush(struct device *device)
{
	while (device->before) {
		struct before *before = device->before;

		device->before = before->next;
		free(before);
	}
}

/* ------------------------------------------------------------------------------- transfers */

static enum memory_fault fault_draw(
	struct memory_devices *devices, const struct ssd_request *request)
{
	const unsigned *of = devices->devices[request->device].faults[request->op];

	for (unsigned fault = 1; fault < MEMORY_FAULT_COUNT; fault++)
		if (of[fault] && pick(devices, 1000000) < of[fault]) {
			devices->counts.faults++;
			return (enum memory_fault)fault;
		}
	return MEMORY_FAULT_NONE;
}

/* One unit after the other of the request's pieces, between @begin and @end. */
static void transfer_units(struct memory_devices *devices, struct ssd_request *request,
	uint64_t offset, uint64_t begin, uint64_t end)
{
	struct device *device = &devices->devices[request->device];
	uint64_t at = 0;

	for (unsigned p = 0; p < request->piece_count; p++)
		for (uint64_t in = 0; in < request->pieces[p].iov_len; in += SSD_UNIT_BYTES, at++) {
			uint8_t *bytes = (uint8_t *)request->pieces[p].iov_base + in;
			uint64_t unit = offset / SSD_UNIT_BYTES + at;

			if (at < begin || at >= end)
				continue;
			if (request->op == SSD_OP_READ)
				unit_read(device, unit, bytes);
			else
				unit_write(device, unit, bytes);
		}
}

static void bit_flip(struct memory_devices *devices, struct ssd_request *request, uint64_t units)
{
	struct device *device = &devices->devices[request->device];
	uint64_t unit = pick(devices, (uint32_t)units);
	uint32_t byte = pick(devices, SSD_UNIT_BYTES);
	uint8_t mask = (uint8_t)(1u << pick(devices, 8)), bytes[SSD_UNIT_BYTES];

	if (request->op == SSD_OP_WRITE) {
		unit += request->offset / SSD_UNIT_BYTES;
		unit_read(device, unit, bytes);
		bytes[byte] ^= mask;
		unit_set(device, unit, bytes);
		return;
	}
	for (unsigned p = 0; p < request->piece_count; p++) {
		uint64_t in = request->pieces[p].iov_len / SSD_UNIT_BYTES;

		if (unit < in) {
			((uint8_t *)request->pieces[p].iov_base)[unit * SSD_UNIT_BYTES + byte] ^=
				mask;
			return;
		}
		unit -= in;
	}
}

static int transfer(struct memory_devices *devices, struct ssd_request *request)
{
	struct device *device = &devices->devices[request->device];
	enum memory_fault fault = fault_draw(devices, request);
	uint64_t units = request->bytes / SSD_UNIT_BYTES, begin = 0, end = units, sum = 0;
	uint64_t offset = request->offset;

	if (devices->off)
		return -EIO;
	if (request->op == SSD_OP_FLUSH) {
		devices->counts.flushes++;
		if (fault == MEMORY_FAULT_ERROR || fault == MEMORY_FAULT_PARTIAL)
			return -EIO;
		device_flush(device);
		return 0;
	}
	for (unsigned p = 0; p < request->piece_count; p++) {
		REQUIRE(request->pieces[p].iov_len % SSD_UNIT_BYTES == 0);
		REQUIRE((uintptr_t)request->pieces[p].iov_base % SSD_UNIT_BYTES == 0);
		sum += request->pieces[p].iov_len;
	}
	REQUIRE_EQ(sum, request->bytes);
	REQUIRE(request->piece_count <= SSD_PIECES_MAX && units > 0);
	if (request->op == SSD_OP_READ) {
		devices->counts.reads++;
		devices->counts.read_bytes += sum;
	} else {
		devices->counts.writes++;
		devices->counts.written_bytes += sum;
	}
	if (fault == MEMORY_FAULT_ERROR)
		return -EIO;
	if (fault == MEMORY_FAULT_PARTIAL || fault == MEMORY_FAULT_TORN) {
		begin = pick(devices, (uint32_t)units + 1);
		end = begin + pick(devices, (uint32_t)(units - begin) + 1);
	}
	if (fault == MEMORY_FAULT_LOST && request->op == SSD_OP_WRITE)
		end = 0;
	/* The first unit is spared: without its header a set cannot be opened at all. */
	if (fault == MEMORY_FAULT_MISDIRECTED && request->op == SSD_OP_WRITE)
		offset = (1 + pick(devices, (uint32_t)(device->unit_count - units))) *
			 (uint64_t)SSD_UNIT_BYTES;
	transfer_units(devices, request, offset, begin, end);
	if (fault == MEMORY_FAULT_FLIPPED)
		bit_flip(devices, request, units);
	return fault == MEMORY_FAULT_PARTIAL ? -EIO : 0;
}

/* --------------------------------------------------------------------------- struct ssd_io */

static int memory_submit(struct ssd_io *io, struct ssd_request *request)
{
	struct memory_devices *devices = (struct memory_devices *)io;

	REQUIRE(request->device < io->device_count);
	REQUIRE(request->op == SSD_OP_FLUSH ||
		request->offset + request->bytes <= io->device_bytes[request->device]);
	if (devices->depth && devices->counts.waiting >= devices->depth)
		return -EAGAIN;
	REQUIRE(devices->counts.waiting < WAITING_MAX);
	devices->waiting[devices->counts.waiting++] = request;
	return 0;
}

static int now(struct memory_devices *devices, enum ssd_op op, unsigned device, uint64_t offset,
	void *bytes, uint64_t count)
{
	struct ssd_request request = {.op = (uint8_t)op,
		.device = (uint8_t)device,
		.piece_count = count ? 1 : 0,
		.offset = offset,
		.bytes = count,
		.pieces = {{bytes, count}}};

	REQUIRE(offset + count <= devices->io.device_bytes[device]);
	return transfer(devices, &request);
}

static int memory_read_now(
	struct ssd_io *io, unsigned device, uint64_t offset, void *to, uint64_t bytes)
{
	return now((struct memory_devices *)io, SSD_OP_READ, device, offset, to, bytes);
}

static int memory_write_now(
	struct ssd_io *io, unsigned device, uint64_t offset, const void *from, uint64_t bytes)
{
	return now((struct memory_devices *)io, SSD_OP_WRITE, device, offset, (void *)from, bytes);
}

static int memory_flush_now(struct ssd_io *io, unsigned device)
{
	return now((struct memory_devices *)io, SSD_OP_FLUSH, device, 0, NULL, 0);
}

static const struct ssd_io_ops memory_ops = {
	.submit = memory_submit,
	.read_now = memory_read_now,
	.write_now = memory_write_now,
	.flush_now = memory_flush_now,
};

/* ---------------------------------------------------------------------------- for the test */

struct memory_devices *memory_devices_create(const struct memory_options *options)
{
	struct memory_devices *devices = calloc(1, sizeof(*devices));

	REQUIRE(devices != NULL);
	devices->io.ops = &memory_ops;
	devices->io.device_count = options->device_count;
	devices->depth = options->depth;
	devices->random = options->seed;
	for (unsigned d = 0; d < options->device_count; d++) {
		struct device *device = &devices->devices[d];

		devices->io.device_bytes[d] = options->device_bytes[d];
		device->unit_count = options->device_bytes[d] / SSD_UNIT_BYTES;
		device->units = calloc(device->unit_count, sizeof(*device->units));
		REQUIRE(device->units != NULL);
	}
	return devices;
}

void memory_devices_destroy(struct memory_devices *devices)
{
	for (unsigned d = 0; d < devices->io.device_count; d++) {
		struct device *device = &devices->devices[d];

		device_flush(device);
		for (uint64_t unit = 0; unit < device->unit_count; unit++)
			free(device->units[unit]);
		free(device->units);
	}
	free(devices);
}

struct ssd_io *memory_devices_io(struct memory_devices *devices)
{
	return &devices->io;
}

bool memory_devices_step(struct memory_devices *devices)
{
	struct ssd_request *request;
	unsigned at;
	int status;

	if (devices->counts.waiting == 0)
		return false;
	at = pick(devices, devices->counts.waiting);
	request = devices->waiting[at];
	devices->waiting[at] = devices->waiting[--devices->counts.waiting];
	status = transfer(devices, request);
	if (status == 0 && request->check)
		status = request->check(request);
	request->done(request, status);
	return true;
}

unsigned memory_devices_run(struct memory_devices *devices, unsigned most)
{
	unsigned ran = 0;

	while (ran < most && memory_devices_step(devices))
		ran++;
	return ran;
}

void memory_devices_fault(struct memory_devices *devices, unsigned device, enum ssd_op op,
	enum memory_fault fault, unsigned of_million)
{
	devices->devices[device].faults[op][fault] = of_million;
}

void memory_devices_faults_end(struct memory_devices *devices)
{
	for (unsigned d = 0; d < devices->io.device_count; d++)
		memset(devices->devices[d].faults, 0, sizeof(devices->devices[d].faults));
}

void memory_devices_power_on(struct memory_devices *devices)
{
	REQUIRE(devices->off && devices->counts.waiting == 0);
	devices->off = false;
}

/* A unit of the cache is new, old, or (rarely) half of each. */
static void unit_cut(struct memory_devices *devices, struct device *device, struct before *before)
{
	uint8_t bytes[SSD_UNIT_BYTES];

	switch (pick(devices, 8)) {
	case 0:
		unit_read(device, before->unit, bytes);
		memcpy(bytes + SSD_UNIT_BYTES / 2, before->bytes + SSD_UNIT_BYTES / 2,
			SSD_UNIT_BYTES / 2);
		unit_set(device, before->unit, bytes);
		break;
	case 1:
	case 2:
	case 3:
	case 4:
		unit_set(device, before->unit, before->bytes);
		break;
	default:
		break;
	}
}

void memory_devices_power_cut(struct memory_devices *devices)
{
	devices->off = true;
	for (unsigned i = 0; i < devices->counts.waiting; i++) {
		struct ssd_request *request = devices->waiting[i];

		if (request->op == SSD_OP_WRITE && pick(devices, 2))
			transfer_units(devices, request, request->offset, 0,
				request->bytes / SSD_UNIT_BYTES);
	}
	for (unsigned d = 0; d < devices->io.device_count; d++) {
		struct device *device = &devices->devices[d];

		/* One mood a device: all kept, all dropped, or each unit by itself. */
		unsigned mood = pick(devices, 4);

		while (device->before) {
			struct before *before = device->before;

			device->before = before->next;
			if (mood == 0)
				unit_set(device, before->unit, before->bytes);
			else if (mood > 1)
				unit_cut(devices, device, before);
			free(before);
		}
	}
}

void memory_devices_peek(
	struct memory_devices *devices, unsigned device, uint64_t offset, void *to, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes; at += SSD_UNIT_BYTES)
		unit_read(&devices->devices[device], (offset + at) / SSD_UNIT_BYTES,
			(uint8_t *)to + at);
}

void memory_devices_poke(struct memory_devices *devices, unsigned device, uint64_t offset,
	const void *from, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes; at += SSD_UNIT_BYTES)
		unit_set(&devices->devices[device], (offset + at) / SSD_UNIT_BYTES,
			(const uint8_t *)from + at);
}

struct memory_counts memory_devices_counts(const struct memory_devices *devices)
{
	return devices->counts;
}
