/* SPDX-License-Identifier: Apache-2.0 */
/* The set of devices, its logs, and the clock. */
#include "tiering/ssd/ssd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "tiering/ssd/ssd_priv.h"

/* --------------------------------------------------------------------------------- devices */

static bool segment_bytes_valid(uint64_t bytes)
{
	return bytes >= 1 << 20 && bytes <= 1 << 30 && (bytes & (bytes - 1)) == 0;
}

/*
 * About 64 segments or more, none below 4 MiB or above 256 MiB: a segment's table goes through the
 * queue of payloads two or three times, while a fast device fills tens of MiB.
 */
static uint64_t segment_bytes_for(uint64_t device_bytes)
{
	uint64_t bytes = 4 << 20;

	while (bytes < 256 << 20 && bytes * 2 * 64 <= device_bytes)
		bytes *= 2;
	return bytes;
}

struct heads {
	struct ssd_device_head of[SSD_DEVICES_MAX];
	unsigned found;
	uint8_t *unit; /* a buffer */
	char *why;
	size_t why_bytes;
};

#define WHY(heads, ...) snprintf((heads)->why, (heads)->why_bytes, __VA_ARGS__)

static int head_read(struct ssd *ssd, struct heads *heads, unsigned d)
{
	struct ssd_device_head *head = &heads->of[d];
	int status = ssd->io->ops->read_now(ssd->io, d, 0, heads->unit, SSD_UNIT_BYTES);

	if (status) {
		WHY(heads, "device %u: its header cannot be read: %s", d, strerror(-status));
		return -EIO;
	}
	memcpy(head, heads->unit, sizeof(*head));
	if (head->magic != SSD_HEAD_MAGIC)
		return 0;
	if (head->version != SSD_FORMAT_VERSION) {
		WHY(heads,
			"device %u: its format is version %u, this program knows %u; use the "
			"program that wrote it, or clear the device's first 4 KiB",
			d, head->version, SSD_FORMAT_VERSION);
		return -EMEDIUMTYPE;
	}
	if (!ssd_head_sum_right(head) || head->head_bytes != sizeof(*head) ||
		head->segments_at != SSD_SEGMENTS_AT || head->device_count == 0 ||
		head->device_count > SSD_DEVICES_MAX || head->device >= head->device_count ||
		!segment_bytes_valid(head->segment_bytes)) {
		WHY(heads,
			"device %u: its header is damaged; clear its first 4 KiB to start it "
			"anew (all it holds is lost)",
			d);
		return -EIO;
	}
	heads->found++;
	return 0;
}

/* That the devices are all of one set, in any order. */
static int heads_agree(struct ssd *ssd, struct heads *heads)
{
	unsigned count = ssd->io->device_count, seen = 0;
	const struct ssd_device_head *first = &heads->of[0];

	for (unsigned d = 0; d < count; d++) {
		const struct ssd_device_head *head = &heads->of[d];

		if (head->magic != SSD_HEAD_MAGIC) {
			WHY(heads,
				"device %u is new, others belong to a set already; give the "
				"devices of that set alone, or clear the first 4 KiB of each",
				d);
			return -EXDEV;
		}
		if (memcmp(&head->set, &first->set, sizeof(head->set)) ||
			head->segment_bytes != first->segment_bytes ||
			head->device_count != first->device_count || (seen >> head->device & 1)) {
			WHY(heads, "device %u belongs to another set than device 0", d);
			return -EXDEV;
		}
		seen |= 1u << head->device;
		ssd->devices[d].set_index = head->device;
	}
	if (first->device_count != count) {
		WHY(heads, "the set has %u devices, %u were given", first->device_count, count);
		return -EXDEV;
	}
	ssd->set = first->set;
	ssd->segment_bytes = first->segment_bytes;
	return 0;
}

/*
 * A device is taken only where there is nothing before the first segment: a file system, a
 * partition table or somebody's file has something there.
 */
static int heads_blank(struct ssd *ssd, struct heads *heads)
{
	struct ssd_io *io = ssd->io;

	for (unsigned d = 0; d < io->device_count; d++)
		for (uint64_t at = 0; at < SSD_SEGMENTS_AT; at += SSD_UNIT_BYTES) {
			if (io->ops->read_now(io, d, at, heads->unit, SSD_UNIT_BYTES)) {
				WHY(heads, "device %u: its first MiB cannot be read", d);
				return -EIO;
			}
			if (ssd_unit_blank(heads->unit))
				continue;
			WHY(heads,
				"device %u holds something else, and is left alone; if that is "
				"of no use any more, clear its first MiB",
				d);
			return -ENOTEMPTY;
		}
	return 0;
}

static int heads_stamp(struct ssd *ssd, struct heads *heads)
{
	struct ssd_io *io = ssd->io;
	int status = 0;

	if (getrandom(&ssd->set, sizeof(ssd->set), 0) != sizeof(ssd->set)) {
		WHY(heads, "no random numbers can be had");
		return -EIO;
	}
	for (unsigned d = 0; d < io->device_count && !status; d++) {
		struct ssd_device_head head = {.magic = SSD_HEAD_MAGIC,
			.version = SSD_FORMAT_VERSION,
			.head_bytes = sizeof(head),
			.set = ssd->set,
			.device = d,
			.device_count = io->device_count,
			.segment_bytes = ssd->segment_bytes,
			.segments_at = SSD_SEGMENTS_AT};

		ssd_head_seal(&head);
		memset(heads->unit, 0, SSD_UNIT_BYTES);
		memcpy(heads->unit, &head, sizeof(head));
		ssd->devices[d].set_index = d;
		status = io->ops->write_now(io, d, 0, heads->unit, SSD_UNIT_BYTES);
		if (!status)
			status = io->ops->flush_now(io, d);
		if (status)
			WHY(heads, "device %u: its header cannot be written: %s", d,
				strerror(-status));
	}
	return status ? -EIO : 0;
}

static int heads_do(struct ssd *ssd, struct heads *heads, uint64_t segment_bytes)
{
	uint64_t device_bytes = 0;
	int status;

	for (unsigned d = 0; d < ssd->io->device_count; d++) {
		device_bytes += ssd->io->device_bytes[d];
		status = head_read(ssd, heads, d);
		if (status)
			return status;
	}
	if (heads->found)
		return heads_agree(ssd, heads);
	if (ssd->survey) {
		WHY(heads, "the devices are new: nothing of skep is on them");
		return -ENODATA;
	}
	ssd->segment_bytes = segment_bytes ? segment_bytes : segment_bytes_for(device_bytes);
	/* A set that is too small is not stamped. */
	for (unsigned d = 0; d < ssd->io->device_count; d++)
		if (ssd->io->device_bytes[d] < SSD_SEGMENTS_AT + ssd->segment_bytes)
			return 0;
	status = heads_blank(ssd, heads);
	return status ? status : heads_stamp(ssd, heads);
}

/* Segments are numbered across the devices in turn, as far as an address goes. */
static int segments_make(struct ssd *ssd, struct heads *heads)
{
	struct ssd_io *io = ssd->io;
	uint64_t total = 0, most = UINT32_MAX / (ssd->segment_bytes / SSD_UNIT_BYTES);
	uint32_t left[SSD_DEVICES_MAX];

	ssd->segment_units = (uint32_t)(ssd->segment_bytes / SSD_UNIT_BYTES);
	for (unsigned d = 0; d < io->device_count; d++) {
		uint64_t bytes = io->device_bytes[d];
		uint64_t count = bytes < SSD_SEGMENTS_AT
					 ? 0
					 : (bytes - SSD_SEGMENTS_AT) / ssd->segment_bytes;

		if (count == 0) {
			WHY(heads, "device %u has %llu bytes; a segment alone has %llu", d,
				(unsigned long long)bytes, (unsigned long long)ssd->segment_bytes);
			return -EINVAL;
		}
		left[d] = (uint32_t)MIN_OF(count, most);
		total += left[d];
	}
	ssd->segment_count = (uint32_t)MIN_OF(total, most);
	ssd->segments_healthy = ssd->segment_count;
	ssd->segments = memory_calloc(ssd->segment_count, sizeof(*ssd->segments));
	if (!ssd->segments)
		return -ENOMEM;
	for (uint32_t i = 0, d = 0; i < ssd->segment_count; d = (d + 1) % io->device_count) {
		if (left[d] == 0)
			continue;
		left[d]--;
		ssd->segments[i].device = (uint8_t)d;
		ssd->segments[i].slot = ssd->devices[d].segments++;
		i++;
	}
	return 0;
}

/* ---------------------------------------------------------------------------------- create */

static int pools_make(struct ssd *ssd)
{
	uint8_t *buffer;

	ssd->transfers = memory_calloc(SSD_WRITES_MAX + SSD_READS_MAX, sizeof(*ssd->transfers));
	ssd->move_memory = memory_zalloc((size_t)SSD_MOVES_MAX * SSD_MOVE_BYTES + SSD_UNIT_BYTES);
	if (!ssd->transfers || !ssd->move_memory)
		return -ENOMEM;
	for (unsigned i = 0; i < SSD_WRITES_MAX + SSD_READS_MAX; i++) {
		ssd_transfer_init(ssd, &ssd->transfers[i]);
		if (i < SSD_WRITES_MAX)
			ssd_write_give(ssd, &ssd->transfers[i]);
		else
			ssd_read_give(ssd, &ssd->transfers[i]);
	}
	buffer = ssd_aligned(ssd->move_memory);
	for (unsigned i = 0; i < SSD_MOVES_MAX; i++) {
		ssd_transfer_init(ssd, &ssd->movers[i].transfer);
		ssd->movers[i].buffer = buffer + (size_t)i * SSD_MOVE_BYTES;
	}
	return 0;
}

static int set_open(struct ssd *ssd, uint64_t segment_bytes, char *why, size_t why_bytes)
{
	struct heads *heads = memory_zalloc(sizeof(*heads));
	void *memory = memory_zalloc(2 * SSD_UNIT_BYTES);
	int status = -ENOMEM;

	if (heads && memory) {
		heads->unit = ssd_aligned(memory);
		heads->why = why;
		heads->why_bytes = why_bytes;
		status = heads_do(ssd, heads, segment_bytes);
		if (!status)
			status = segments_make(ssd, heads);
	}
	memory_free(memory);
	memory_free(heads);
	if (status == -ENOMEM)
		snprintf(why, why_bytes, "no memory for the segments");
	return status;
}

int ssd_create(const struct ssd_options *options, struct ssd **out, char *why, size_t why_bytes)
{
	struct ssd *ssd = NULL;
	int status;

	if (options->io->device_count == 0 || options->io->device_count > SSD_DEVICES_MAX ||
		(options->segment_bytes && !segment_bytes_valid(options->segment_bytes))) {
		snprintf(why, why_bytes,
			"1 to %d devices, segments of a power of two from 1 MiB to 1 GiB",
			SSD_DEVICES_MAX);
		return -EINVAL;
	}
	ssd = memory_zalloc(sizeof(*ssd));
	if (!ssd) {
		snprintf(why, why_bytes, "no memory");
		return -ENOMEM;
	}
	ssd->io = options->io;
	ssd->has_ledger = options->ledger != NULL;
	if (options->ledger)
		ssd->ledger = *options->ledger;
	ssd->flush_ns = options->flush_ns ? options->flush_ns : NS_PER_S;
	ssd->errors_max = options->errors_max ? options->errors_max : 8;
	ssd->recover_threads =
		MAX_OF(MIN_OF(options->recover_threads, (unsigned)SSD_RECOVER_THREADS_MAX), 1u);
	ssd->survey = options->survey;
	ssd->next_sequence = 1;
	list_init(&ssd->writes);
	list_init(&ssd->reads);
	list_init(&ssd->failed);
	for (unsigned d = 0; d < SSD_DEVICES_MAX; d++)
		list_init(&ssd->devices[d].unsent);
	status = set_open(ssd, options->segment_bytes, why, why_bytes);
	ssd->wear.bytes_per_day = options->wear_bytes_per_day;
	ssd->wear.left_max = (int64_t)MAX_OF(options->wear_bytes_per_day / 24, ssd->segment_bytes);
	ssd->wear.left = ssd->wear.left_max;
	if (!status) {
		status = pools_make(ssd);
		if (status)
			snprintf(why, why_bytes, "no memory for requests");
	}
	if (status) {
		ssd_destroy(ssd);
		return status;
	}
	*out = ssd;
	return 0;
}

static void log_free(struct ssd_log *log)
{
	memory_free(log->entries);
	memory_free(log->labels);
	memory_free(log->memory);
	memory_free(log);
}

void ssd_destroy(struct ssd *ssd)
{
	if (!ssd)
		return;
	SKEP_CHECK(ssd_idle(ssd));
	ssd_recovery_free(ssd);
	for (unsigned i = 0; i < ssd->log_count; i++)
		log_free(ssd->logs[i]);
	memory_free(ssd->move_memory);
	memory_free(ssd->transfers);
	memory_free(ssd->seen);
	memory_free(ssd->segments);
	memory_free(ssd);
}

/* ------------------------------------------------------------------------------------ logs */

static struct ssd_log *log_make(struct ssd *ssd, uint64_t bytes)
{
	struct ssd_log *log = memory_zalloc(sizeof(*log));

	if (!log)
		return NULL;
	log->entries_max = SSD_ENTRIES_MAX;
	log->labels_bytes = SSD_LABELS_MIN;
	while (log->labels_bytes < SSD_LABELS_MAX && log->labels_bytes < bytes / 1024)
		log->labels_bytes *= 2;
	log->entries = memory_calloc(log->entries_max, sizeof(*log->entries));
	log->labels = memory_zalloc(log->labels_bytes);
	log->memory = memory_zalloc(SSD_TABLE_BYTES_MAX + 2 * SSD_UNIT_BYTES);
	if (!log->entries || !log->labels || !log->memory) {
		log_free(log);
		return NULL;
	}
	log->ssd = ssd;
	log->bytes = bytes;
	log->opening.buffer = ssd_aligned(log->memory);
	log->table.buffer = log->opening.buffer + SSD_UNIT_BYTES;
	ssd_transfer_init(ssd, &log->opening.transfer);
	ssd_transfer_init(ssd, &log->table.transfer);
	list_init(&log->waiting);
	list_init(&log->syncs);
	return log;
}

int ssd_log_open(struct ssd *ssd, const char *name, uint64_t bytes, const struct tier_owner *owner,
	struct ssd_log **out)
{
	uint64_t quota = MAX_OF(bytes / ssd->segment_bytes, (uint64_t)SSD_SEGMENTS_MIN);
	uint32_t left = ssd->segment_count - ssd->quota_sum;
	uint64_t device_bytes = 0;
	struct ssd_log *log;

	SKEP_CHECK(!ssd->ready && !ssd->recovery);
	if (!name[0] || strlen(name) >= SSD_NAME_MAX)
		return -EINVAL;
	for (unsigned i = 0; i < ssd->log_count; i++)
		if (!strcmp(ssd->logs[i]->name, name))
			return -EEXIST;
	for (unsigned d = 0; d < ssd->io->device_count; d++)
		device_bytes += ssd->io->device_bytes[d];
	if (bytes > device_bytes - ssd->bytes_asked || left < SSD_SEGMENTS_MIN ||
		ssd->log_count == SSD_LOGS_MAX)
		return -ENOSPC;
	log = log_make(ssd, bytes);
	if (!log)
		return -ENOMEM;
	memcpy(log->name, name, strlen(name) + 1);
	log->owner = *owner;
	log->quota = log->quota_now = (uint32_t)MIN_OF(quota, (uint64_t)left);
	ssd->quota_sum += log->quota;
	ssd->bytes_asked += bytes;
	ssd->logs[ssd->log_count++] = log;
	*out = log;
	return 0;
}

/* Of what is not kept free a tenth is head-room, and of the rest a sixteenth is for tables. */
static uint64_t live_max_of(uint32_t quota, uint64_t segment_bytes)
{
	uint32_t reserve = ssd_log_reserve(quota);

	return quota <= reserve ? 0 : (quota - reserve) * (segment_bytes / 32) * 27;
}

uint64_t ssd_live_max(const struct ssd_log *log)
{
	return live_max_of(log->quota_now, log->ssd->segment_bytes);
}

uint64_t ssd_bytes_for(uint64_t live_bytes)
{
	uint64_t segment_bytes = 4 << 20, bytes = 0;

	for (;; segment_bytes *= 2) {
		uint64_t payload = segment_bytes / 32 * 27;
		uint64_t used = divide_up(live_bytes, payload);
		uint64_t quota = used + SSD_RESERVE + used / 63 + 1;

		quota = MAX_OF(quota, (uint64_t)SSD_SEGMENTS_MIN);
		bytes = quota * segment_bytes + SSD_SEGMENTS_AT;
		if (segment_bytes > 4 << 20)
			bytes = MAX_OF(bytes, segment_bytes * 64);
		if (segment_bytes_for(bytes) <= segment_bytes)
			return bytes;
	}
}

/* ------------------------------------------------------------------------------- the clock */

void ssd_kick(struct ssd *ssd)
{
	for (unsigned i = 0; i < ssd->log_count; i++)
		ssd_gather_send(ssd->logs[i]);
	ssd_get_gather_send(ssd);
	ssd_settle(ssd);
}

/* What has come back of the wear budget since the last look. */
static void wear_fill(struct ssd *ssd)
{
	enum { MS_PER_DAY = 24 * 3600 * 1000 };
	struct ssd_wear *wear = &ssd->wear;
	uint64_t ms = (ssd->now_ns - wear->filled_ns) / NS_PER_MS;
	bool was_spent = wear->left <= 0;
	int64_t more;

	if (!wear->bytes_per_day)
		return;
	/* A day's worth at once is more than enough: the product stays below 2^64. */
	more = (int64_t)(wear->bytes_per_day / MS_PER_DAY * MIN_OF(ms, MS_PER_DAY) +
			 wear->bytes_per_day % MS_PER_DAY * MIN_OF(ms, MS_PER_DAY) / MS_PER_DAY);
	if (!more && ms < MS_PER_DAY)
		return; /* too short a time: it counts the next time */
	wear->filled_ns += ms * NS_PER_MS;
	wear->left = MIN_OF(wear->left + more, wear->left_max);
	ssd->io_freed |= was_spent && wear->left > 0;
}

uint64_t ssd_tick(struct ssd *ssd, uint64_t now_ns)
{
	/* Puts are dated back to the tick before them, so that none waits longer than it may. */
	uint64_t next = clock_after(now_ns, ssd->flush_ns / 2);

	ssd->now_ns = now_ns;
	wear_fill(ssd);
	for (unsigned i = 0; i < ssd->log_count; i++) {
		struct ssd_log *log = ssd->logs[i];
		uint64_t due = clock_after(log->dirty_ns, ssd->flush_ns);

		if (!log->dirty)
			continue;
		if (due <= now_ns)
			ssd_table_want(log, log->put_count);
		else
			next = MIN_OF(next, due);
	}
	if (ssd->ready)
		ssd_reclaim_again(ssd);
	ssd_kick(ssd);
	return next;
}

bool ssd_idle(const struct ssd *ssd)
{
	for (unsigned i = 0; i < ssd->log_count; i++)
		if (ssd->logs[i]->gather)
			return false;
	return ssd->in_flight == 0 && !ssd->gather;
}

/* --------------------------------------------------------------------------------- insight */

void ssd_log_status_get(const struct ssd_log *log, struct ssd_log_status *status)
{
	uint32_t ahead = log->next != NULL; /* holds nothing yet */

	*status = (struct ssd_log_status){.bytes = log->bytes,
		.live_bytes = log->live * SSD_UNIT_BYTES,
		.live_max = ssd_live_max(log),
		.segments = log->held - ahead,
		.segments_free = ssd_log_free(log) + ahead,
		.segments_max = log->quota_now,
		.put_bytes = log->put_bytes,
		.moved_bytes = log->moved_bytes,
		.table_bytes = log->table_bytes,
		.puts = log->puts,
		.puts_durable = log->puts_durable};
	memcpy(status->name, log->name, sizeof(status->name));
}

void ssd_status_get(const struct ssd *ssd, struct ssd_status *status)
{
	*status = (struct ssd_status){.segment_bytes = ssd->segment_bytes,
		.segments = ssd->segment_count,
		.devices = ssd->io->device_count,
		.tables_damaged = ssd->tables_damaged,
		.read_errors = ssd->read_errors,
		.moves_given_up = ssd->moves_given_up,
		.write_errors = ssd->write_errors,
		.wear_left_bytes =
			ssd->wear.bytes_per_day ? (uint64_t)MAX_OF(ssd->wear.left, 0) : 0,
		.wear_waits = ssd->wear.waits,
		.in_flight = ssd->in_flight};
	/* Those opened ahead hold nothing yet. */
	for (unsigned i = 0; i < ssd->log_count; i++)
		status->segments_free += ssd->logs[i]->next != NULL;
	for (unsigned d = 0; d < ssd->io->device_count; d++) {
		status->segments_free += ssd->devices[d].free_count;
		status->devices_fenced += ssd->devices[d].fenced;
	}
}
