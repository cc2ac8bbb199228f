/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log under a seeded life against a model of plain arrays: puts, gets, drops, moves, syncs,
 * time, failing and lying devices, fences, restarts and power cuts. Promises checked: a get that
 * says 0 has brought the right bytes, and what was read without a lying device was right before
 * any check; all that was told durable and not dropped is found after a cut, and nothing that was
 * dropped; the log's count of live bytes is the model's at every step; every call is answered once;
 * when all was dropped all segments are free.
 *
 *	tiering_ssd_log_sim_test [SEED [COUNT]]
 */
#include <errno.h>

#include "base/log.h"
#include "tests/base/unit.h"
#include "tests/tiering/ssd/memory_device.h"
#include "tiering/ssd/ssd.h"

enum {
	UNIT = SSD_UNIT_BYTES,
	MIB = 1 << 20,
	LOGS = 2,
	KEYS = 160,
	UNITS_MAX = 48,
	LABEL_MAX = 3000,
	STEPS = 4000,
	SEGMENTS_MAX = 128,
	DEAD_MAX = 8192,
	SYNCS = 8,
};

enum weather {
	WEATHER_FAIR,
	WEATHER_ERRORS, /* devices that say so when they fail */
	WEATHER_LIES,	/* and devices that do not */
	WEATHER_COUNT,
};

/* One name of the owner's: at most one live record, and one on its way. */
struct key {
	struct ssd_put put;
	struct ssd_get get;
	struct iovec put_pieces[4], get_pieces[4];
	uint8_t *put_bytes, *get_bytes;
	uint8_t label[LABEL_MAX];
	unsigned log;
	uint32_t at, units, put_units;
	uint32_t generation, put_generation; /* of the bytes */
	uint64_t put_number;		     /* in the order of puts */
	bool live, writing, moving, reading, durable, hurt;
	bool drop_after; /* dropped while it was moved */
	uint32_t get_first;
};

struct waiter {
	struct ssd_sync sync;
	uint64_t put_number;
	unsigned log;
	bool busy;
};

struct dead {
	uint64_t sequence;
	uint32_t unit;
};

struct world {
	struct memory_devices *devices;
	struct ssd *ssd;
	struct ssd_log *logs[LOGS];
	struct tier_owner owners[LOGS];
	unsigned log_count, device_count;
	uint64_t log_bytes;
	struct key keys[LOGS][KEYS];
	struct waiter waiters[SYNCS];
	struct dead dead[DEAD_MAX];
	uint32_t dead_count;
	uint64_t random, now, put_number;
	enum weather weather;
	bool off;	 /* no power: nobody listens any more */
	bool cut_soon;	 /* what was just done is worth a cut */
	bool has_lied;	 /* since the devices were made */
	bool has_failed; /* likewise, in any way */
	uint64_t gets, moves, cuts, found, fences, bad, rooms, reclaims, refused;
};

static struct world world;
static uint64_t last_seed;

static uint32_t pick(uint32_t range)
{
	return unit_random(&world.random, range);
}

/* --------------------------------------------------------------------------------- records */

struct label {
	uint32_t log, key, generation, units;
};

static uint64_t word(const struct label *label, uint64_t at)
{
	return mix64(mix64((uint64_t)label->key << 32 | label->generation) ^ label->log ^ at << 8);
}

static void bytes_fill(uint8_t *bytes, const struct label *label)
{
	for (uint64_t at = 0; at < (uint64_t)label->units * UNIT; at += 256) {
		uint64_t value = word(label, at);

		memcpy(bytes + at, &value, 8);
	}
}

static bool bytes_right(
	const uint8_t *bytes, const struct label *label, uint32_t first, uint32_t units)
{
	for (uint64_t at = 0; at < (uint64_t)units * UNIT; at += 256) {
		uint64_t value = word(label, at + (uint64_t)first * UNIT);

		if (memcmp(bytes + at, &value, 8))
			return false;
	}
	return true;
}

/* A label is its head and some bytes that follow from it. */
static uint32_t label_bytes_of(const struct label *label)
{
	uint64_t random = mix64((uint64_t)label->key << 32 | label->generation);

	return (uint32_t)(sizeof(*label) +
			  (random % 4 ? random % 100 : random % (LABEL_MAX - sizeof(*label))));
}

static uint32_t label_write(uint8_t *to, const struct label *label)
{
	uint32_t bytes = label_bytes_of(label);

	memcpy(to, label, sizeof(*label));
	for (uint32_t i = sizeof(*label); i < bytes; i++)
		to[i] = (uint8_t)(label->key * 31 + label->generation * 7 + i);
	return bytes;
}

static struct label label_of(const struct key *key)
{
	unsigned log = key->log;

	return (struct label){.log = log,
		.key = (uint32_t)(key - world.keys[log]),
		.generation = key->generation,
		.units = key->units};
}

/* In up to four pieces. */
static uint32_t pieces_cut(struct iovec *pieces, uint8_t *bytes, uint32_t units)
{
	uint32_t count = 0;

	while (units) {
		uint32_t take = count == 3 ? units : 1 + pick(units);

		pieces[count++] = (struct iovec){bytes, (size_t)take * UNIT};
		bytes += (size_t)take * UNIT;
		units -= take;
	}
	return count;
}

/* ----------------------------------------------------------------------------------- owner */

static void key_drop(struct key *key)
{
	REQUIRE(key->live);
	key->live = key->durable = false;
	ssd_drop(world.logs[key->log], key->at, key->units);
}

static void put_done(struct ssd_put *put, int status)
{
	struct key *key = (struct key *)((char *)put - offsetof(struct key, put));

	REQUIRE(key->writing);
	key->writing = false;
	if (status) {
		REQUIRE(world.weather != WEATHER_FAIR || world.off || world.has_failed);
		key->moving = false;
		if (key->drop_after && key->live)
			key_drop(key);
		key->drop_after = false;
		return;
	}
	if (key->moving) {
		bool durable = key->durable, lost = !key->live;

		key->moving = false;
		if (!lost)
			key_drop(key);
		key->live = true;
		/* A lost place may have come with a table that could not be written. */
		key->durable = durable;
		key->hurt |= world.has_failed;
	} else {
		if (key->live)
			key_drop(key);
		key->live = true;
		key->durable = false;
		key->hurt = false;
		key->generation = key->put_generation;
		key->units = key->put_units;
	}
	key->at = put->at;
	REQUIRE_EQ(put->units, key->units);
	/* Nothing of it may come up again, though its older copy is in a table. */
	world.cut_soon |= key->drop_after;
	if (key->drop_after)
		key_drop(key);
	key->drop_after = false;
}

static int key_put(struct key *key)
{
	struct label label = label_of(key);
	int status;

	label.generation = key->put_generation + 1;
	label.units = 1 + pick(pick(4) ? 8 : UNITS_MAX);
	bytes_fill(key->put_bytes, &label);
	key->put = (struct ssd_put){.pieces = key->put_pieces,
		.piece_count = pieces_cut(key->put_pieces, key->put_bytes, label.units),
		.label = key->label,
		.label_bytes = label_write(key->label, &label),
		.done = put_done};
	status = ssd_put(world.logs[key->log], &key->put);
	memset(key->label, 0xee, sizeof(key->label));
	if (status)
		return status;
	key->writing = true;
	key->put_generation = label.generation;
	key->put_units = label.units;
	key->put_number = ++world.put_number;
	return 0;
}

static int key_move(struct key *key)
{
	struct label label = label_of(key);
	int status;

	key->put = (struct ssd_put){.label = key->label,
		.label_bytes = label_write(key->label, &label),
		.done = put_done};
	status = ssd_move(world.logs[key->log], key->at, key->units, &key->put);
	if (status)
		return status;
	world.moves++;
	key->writing = key->moving = true;
	return 0;
}

static int get_check(struct ssd_get *get)
{
	struct key *key = (struct key *)((char *)get - offsetof(struct key, get));
	struct label label = label_of(key);
	uint32_t units = 0;

	for (uint32_t i = 0; i < get->piece_count; i++)
		units += (uint32_t)(get->pieces[i].iov_len / UNIT);
	if (bytes_right(key->get_bytes, &label, key->get_first, units))
		return 0;
	REQUIRE(world.has_lied);
	world.bad++;
	return -EBADMSG;
}

static void get_done(struct ssd_get *get, int status)
{
	struct key *key = (struct key *)((char *)get - offsetof(struct key, get));

	REQUIRE(key->reading);
	REQUIRE(status == 0 || world.off || world.has_failed);
	key->reading = false;
	world.gets += status == 0;
	if (status == -EBADMSG && !key->writing && key->live)
		key_drop(key);
}

static void key_get(struct key *key)
{
	uint32_t first = pick(2) ? 0 : pick(key->units);
	uint32_t units = pick(2) ? key->units - first : 1 + pick(key->units - first);
	int status;

	key->get_first = first;
	key->get = (struct ssd_get){.at = key->at + first,
		.pieces = key->get_pieces,
		.piece_count = pieces_cut(key->get_pieces, key->get_bytes, units),
		.check = get_check,
		.done = get_done};
	memset(key->get_bytes, 0, (size_t)units * UNIT);
	status = ssd_get(world.logs[key->log], &key->get);
	REQUIRE(status == 0 || status == -EAGAIN || (status == -EIO && world.has_failed));
	key->reading = status == 0;
}

static void owner_reclaim(void *arg, uint32_t at, uint32_t units)
{
	unsigned log = (unsigned)(size_t)arg;

	world.reclaims++;
	for (struct key *key = world.keys[log]; key < world.keys[log] + KEYS; key++) {
		if (!key->live || key->at < at || key->at >= at + units)
			continue;
		/* What is being written anew is dropped when that is done. */
		if (key->writing || key->reading)
			continue;
		if (pick(4) == 0)
			key_drop(key);
		else if (pick(8))
			key_move(key);
	}
}

static void owner_lost(void *arg, uint32_t at, uint32_t units)
{
	unsigned log = (unsigned)(size_t)arg;

	REQUIRE(world.has_failed || world.off);
	for (struct key *key = world.keys[log]; key < world.keys[log] + KEYS; key++)
		if (key->live && key->at >= at && key->at < at + units)
			key_drop(key);
}

static void owner_room(void *arg)
{
	(void)arg;
	world.rooms++;
}

/* ---------------------------------------------------------------------------------- ledger */

static void ledger_dead(void *arg, uint64_t sequence, uint32_t unit)
{
	(void)arg;
	if (world.off)
		return;
	REQUIRE(world.dead_count < DEAD_MAX);
	world.dead[world.dead_count++] = (struct dead){sequence, unit};
}

static void ledger_freed(void *arg, uint64_t sequence)
{
	uint32_t kept = 0;

	(void)arg;
	if (world.off)
		return;
	for (uint32_t i = 0; i < world.dead_count; i++)
		if (world.dead[i].sequence != sequence)
			world.dead[kept++] = world.dead[i];
	world.dead_count = kept;
}

static bool ledger_is_dead(void *arg, uint64_t sequence, uint32_t unit)
{
	(void)arg;
	for (uint32_t i = 0; i < world.dead_count; i++)
		if (world.dead[i].sequence == sequence && world.dead[i].unit == unit)
			return true;
	return false;
}

static const struct ssd_ledger ledger = {
	.dead = ledger_dead, .freed = ledger_freed, .is_dead = ledger_is_dead};

/* ----------------------------------------------------------------------- opening, recovery */

static void log_set_open(void)
{
	static const char *const names[LOGS] = {"one", "two"};
	struct ssd_options options = {.io = memory_devices_io(world.devices),
		.segment_bytes = MIB,
		.ledger = &ledger,
		.errors_max = 4};
	char why[256];

	REQUIRE_EQ(ssd_create(&options, &world.ssd, why, sizeof(why)), 0);
	for (unsigned i = 0; i < world.log_count; i++) {
		world.owners[i] = (struct tier_owner){.arg = (void *)(size_t)i,
			.reclaim = owner_reclaim,
			.lost = owner_lost,
			.room = owner_room};
		REQUIRE_EQ(ssd_log_open(world.ssd, names[i], world.log_bytes, &world.owners[i],
				   &world.logs[i]),
			0);
	}
}

/* The newest of each name is kept. */
static void found_take(const struct ssd_found *found, const bool *was_live, const bool *was_writing,
	const bool *wanted)
{
	struct label label;
	struct key *key;
	uint8_t text[LABEL_MAX];
	unsigned log;

	REQUIRE(found->label_bytes >= sizeof(label));
	memcpy(&label, found->label, sizeof(label));
	REQUIRE(label.log < world.log_count && label.key < KEYS && label.units == found->units);
	REQUIRE_EQ(label_write(text, &label), found->label_bytes);
	REQUIRE(memcmp(text, found->label, found->label_bytes) == 0);
	log = label.log;
	REQUIRE(found->log == world.logs[log]);
	key = &world.keys[log][label.key];
	world.found++;
	/* What was dropped stays so; what a lying device brings up is old, but not wrong. */
	REQUIRE(was_live[label.key] || was_writing[label.key] || world.has_failed);
	if (key->live)
		return;
	if (!wanted[label.key] && pick(8) == 0)
		return;
	key->live = key->durable = true;
	key->hurt = world.has_lied;
	key->at = found->at;
	key->units = found->units;
	key->generation = label.generation;
	ssd_keep(world.ssd, found);
}

static void recover(void)
{
	static bool was_live[LOGS][KEYS], was_writing[LOGS][KEYS], wanted[LOGS][KEYS];
	static uint32_t generation[LOGS][KEYS];
	const struct ssd_found *found;
	int64_t count;

	for (unsigned log = 0; log < world.log_count; log++)
		for (unsigned k = 0; k < KEYS; k++) {
			struct key *key = &world.keys[log][k];

			REQUIRE(world.cuts == 0 || (!key->reading));
			was_live[log][k] = key->live;
			was_writing[log][k] = key->writing;
			wanted[log][k] = key->live && key->durable && !key->hurt;
			generation[log][k] = key->generation;
			key->live = key->durable = key->writing = key->moving = false;
			key->drop_after = false;
		}
	log_set_open();
	count = ssd_recover(world.ssd, &found);
	REQUIRE(count >= 0);
	for (int64_t i = count; i-- > 0;) {
		uint32_t log;

		memcpy(&log, found[i].label, sizeof(log));
		REQUIRE(log < LOGS);
		found_take(&found[i], was_live[log], was_writing[log], wanted[log]);
	}
	ssd_recover_end(world.ssd);
	for (unsigned log = 0; log < world.log_count && !world.has_lied; log++)
		for (unsigned k = 0; k < KEYS; k++)
			if (wanted[log][k]) {
				REQUIRE(world.keys[log][k].live);
				REQUIRE(world.keys[log][k].generation >= generation[log][k]);
			}
}

/* -------------------------------------------------------------------------------- the life */

static void dry(void)
{
	do {
		ssd_kick(world.ssd);
	} while (memory_devices_run(world.devices, UINT32_MAX));
	REQUIRE(ssd_idle(world.ssd));
	for (unsigned log = 0; log < world.log_count; log++)
		for (unsigned k = 0; k < KEYS; k++)
			REQUIRE(!world.keys[log][k].writing && !world.keys[log][k].reading);
}

struct snapshot {
	bool live, writing, durable, hurt;
	uint32_t generation;
};

/* What the model knew when the power went, whatever is told afterwards. */
static void power_cut(void)
{
	static struct snapshot before[LOGS][KEYS];

	for (unsigned log = 0; log < world.log_count; log++)
		for (unsigned k = 0; k < KEYS; k++) {
			struct key *key = &world.keys[log][k];

			before[log][k] = (struct snapshot){
				key->live, key->writing, key->durable, key->hurt, key->generation};
		}
	world.cuts++;
	world.off = true;
	memory_devices_power_cut(world.devices);
	dry();
	for (unsigned i = 0; i < SYNCS; i++)
		REQUIRE(!world.waiters[i].busy || world.off);
	ssd_destroy(world.ssd);
	memory_devices_power_on(world.devices);
	memory_devices_faults_end(world.devices);
	for (unsigned log = 0; log < world.log_count; log++)
		for (unsigned k = 0; k < KEYS; k++) {
			struct key *key = &world.keys[log][k];

			key->live = before[log][k].live;
			key->writing = before[log][k].writing;
			key->durable = before[log][k].durable;
			key->hurt = before[log][k].hurt;
			key->generation = before[log][k].generation;
		}
	world.off = false;
	recover();
}

static void sync_done(struct ssd_sync *sync, int status)
{
	struct waiter *waiter = (struct waiter *)sync;

	REQUIRE(waiter->busy);
	waiter->busy = false;
	if (world.off)
		return;
	REQUIRE(status == 0 || world.has_failed);
	for (struct key *key = world.keys[waiter->log]; key < world.keys[waiter->log] + KEYS; key++)
		if (status == 0 && key->live && !key->writing &&
			key->put_number <= waiter->put_number)
			key->durable = true;
}

static void sync_begin(void)
{
	struct waiter *waiter = &world.waiters[pick(SYNCS)];

	if (waiter->busy)
		return;
	*waiter = (struct waiter){.sync.done = sync_done,
		.put_number = world.put_number,
		.log = pick(world.log_count),
		.busy = true};
	ssd_sync(world.logs[waiter->log], &waiter->sync);
}

static void faults_change(void)
{
	unsigned device = pick(world.device_count);
	enum ssd_op op = (enum ssd_op)pick(3);
	enum memory_fault fault;

	if (world.weather == WEATHER_FAIR)
		return;
	if (pick(3) == 0) {
		memory_devices_faults_end(world.devices);
		return;
	}
	fault = MEMORY_FAULT_ERROR + pick(2);
	if (world.weather == WEATHER_LIES && pick(2)) {
		fault = MEMORY_FAULT_LOST + pick(4);
		world.has_lied = true;
	}
	world.has_failed = true;
	memory_devices_fault(
		world.devices, device, op, fault, pick(20) ? 1000 + pick(200000) : 1000000);
}

static void live_compare(void)
{
	for (unsigned log = 0; log < world.log_count; log++) {
		struct ssd_log_status status;
		uint64_t units = 0;

		for (struct key *key = world.keys[log]; key < world.keys[log] + KEYS; key++) {
			if (key->live)
				units += key->units;
			if (key->writing)
				units += key->moving ? key->put.units : key->put_units;
		}
		ssd_log_status_get(world.logs[log], &status);
		REQUIRE_EQ(status.live_bytes, units * UNIT);
		REQUIRE(status.segments + status.segments_free <= SEGMENTS_MAX);
	}
}

static void key_step(struct key *key)
{
	switch (pick(10)) {
	case 0:
	case 1:
	case 2:
	case 3:
		if (!key->writing && !key->reading) {
			int status = key_put(key);

			REQUIRE(status == 0 || status == -EAGAIN || status == -ENOSPC ||
				(status == -EROFS && world.has_failed));
			world.refused += status != 0;
		}
		break;
	case 4:
		if (key->live && !key->writing && !key->reading)
			key_drop(key);
		else if (key->live && key->moving)
			key->drop_after = true;
		break;
	case 5:
		if (key->live && !key->writing && !key->reading)
			key_move(key);
		break;
	default:
		if (key->live && !key->writing && !key->reading)
			key_get(key);
	}
}

static void step(void)
{
	if (world.cut_soon && pick(4) == 0)
		power_cut();
	world.cut_soon = false;
	switch (pick(100)) {
	case 0:
		if (pick(8) == 0)
			power_cut();
		break;
	case 1:
	case 2:
		sync_begin();
		break;
	case 3:
		faults_change();
		break;
	case 4:
		for (unsigned d = 0; d < world.device_count; d++)
			if (ssd_device_fenced(world.ssd, d)) {
				world.fences++;
				memory_devices_faults_end(world.devices);
				REQUIRE_EQ(ssd_device_unfence(world.ssd, d), 0);
			}
		break;
	case 5:
	case 6:
	case 7:
	case 8:
	case 9:
		ssd_tick(world.ssd, world.now += pick(300) * NS_PER_MS);
		break;
	case 10:
		if (pick(20) == 0) {
			dry();
			ssd_destroy(world.ssd);
			memory_devices_faults_end(world.devices);
			recover();
		}
		break;
	default:
		if (pick(3) == 0) {
			ssd_kick(world.ssd);
			memory_devices_run(world.devices, pick(12));
		} else {
			unsigned log = pick(world.log_count);

			key_step(&world.keys[log][pick(KEYS)]);
		}
	}
}

static void all_dropped_is_all_free(void)
{
	struct ssd_status status;

	memory_devices_faults_end(world.devices);
	dry();
	for (unsigned d = 0; d < world.device_count; d++)
		REQUIRE_EQ(ssd_device_unfence(world.ssd, d), 0);
	for (unsigned log = 0; log < world.log_count; log++)
		for (struct key *key = world.keys[log]; key < world.keys[log] + KEYS; key++)
			if (key->live)
				key_drop(key);
	for (unsigned i = 0; i < 5; i++) {
		ssd_tick(world.ssd, world.now += 2 * NS_PER_S);
		dry();
	}
	for (unsigned i = 0; i < SYNCS; i++)
		REQUIRE(!world.waiters[i].busy);
	live_compare();
	ssd_status_get(world.ssd, &status);
	REQUIRE(status.segments_free + world.log_count >= status.segments);
	REQUIRE_EQ(status.in_flight, 0);
}

static void life(uint64_t seed)
{
	struct memory_options options = {.seed = mix64(seed)};

	memset(&world, 0, sizeof(world));
	world.random = seed;
	world.weather = (enum weather)(seed % WEATHER_COUNT);
	world.device_count = options.device_count = 1 + pick(3);
	world.log_count = 1 + pick(LOGS);
	world.log_bytes = (8 + pick(4)) * (uint64_t)MIB;
	options.depth = pick(2) ? 0 : 1 + pick(20);
	for (unsigned d = 0; d < options.device_count; d++)
		options.device_bytes[d] =
			(world.log_bytes / MIB * world.log_count / options.device_count + 1 +
				(options.device_count > 1)) *
			(uint64_t)MIB;
	world.devices = memory_devices_create(&options);
	for (unsigned log = 0; log < world.log_count; log++)
		for (struct key *key = world.keys[log]; key < world.keys[log] + KEYS; key++) {
			key->log = log;
			key->put_bytes = aligned_alloc(UNIT, UNITS_MAX * UNIT);
			key->get_bytes = aligned_alloc(UNIT, UNITS_MAX * UNIT);
			REQUIRE(key->put_bytes && key->get_bytes);
		}
	recover();
	for (unsigned i = 0; i < STEPS; i++) {
		step();
		live_compare();
	}
	all_dropped_is_all_free();
	ssd_destroy(world.ssd);
	memory_devices_destroy(world.devices);
	for (unsigned log = 0; log < world.log_count; log++)
		for (struct key *key = world.keys[log]; key < world.keys[log] + KEYS; key++) {
			free(key->put_bytes);
			free(key->get_bytes);
		}
}

/* Which life it was, when a promise does not hold. */
static void seed_print(void)
{
	if (last_seed)
		fprintf(stderr, "in the life of seed %llu\n", (unsigned long long)last_seed);
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);
	uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : 200;
	static struct world sum;

	atexit(seed_print);
	/* What the devices are made to do would fill the screen. */
	log_set_level(LOG_LEVEL_ERROR);
	for (uint64_t i = 0; i < count; i++) {
		last_seed = seed + i;
		life(last_seed);
		sum.gets += world.gets;
		sum.moves += world.moves;
		sum.cuts += world.cuts;
		sum.found += world.found;
		sum.fences += world.fences;
		sum.bad += world.bad;
		sum.refused += world.refused;
		sum.reclaims += world.reclaims;
	}
	last_seed = 0;
	printf("%llu lives: %llu gets, %llu found bad, %llu moves, %llu reclaims, %llu refused, "
	       "%llu cuts, %llu records found, %llu fences ended\n",
		(unsigned long long)count, (unsigned long long)sum.gets,
		(unsigned long long)sum.bad, (unsigned long long)sum.moves,
		(unsigned long long)sum.reclaims, (unsigned long long)sum.refused,
		(unsigned long long)sum.cuts, (unsigned long long)sum.found,
		(unsigned long long)sum.fences);
	return 0;
}
