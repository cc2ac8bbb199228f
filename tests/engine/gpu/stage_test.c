/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is submitted for a slot's parts: those that adjoin in one chunk go as one copy, and none
 * reaches into another chunk; those in no chunk go through the page-locked memory, filled before
 * a load's copies and emptied after a save's. The device is a list of what it was asked to do.
 */
#include "engine/gpu/stage.c"
#include "tests/base/unit.h"

enum { PART_BYTES = 512, PARTS = 8, WORDS_MAX = 8 };

static unsigned char pool[PARTS * PART_BYTES], staged[PARTS * PART_BYTES];
static uint8_t *bytes[2 * PARTS];
static uint32_t chunks[2 * PARTS];
static struct stage stages[2];
static struct gpu_event *copy_done;
static struct skep_gpu gpu = {.ring_parts = PARTS};
static struct skep_gpu_plan plan = {.gpu = &gpu,
	.gather = {.part_bytes = PART_BYTES},
	.ring = {.at = 1 << 20, .staged = staged}};
static struct skep_gpu_job job = {
	.plan = &plan, .bytes = bytes, .chunks = chunks, .stages = stages};

/* What was asked for, in its order: 'c' a call, 'b' a batch, 'e' the event. */
static char asked[WORDS_MAX];
static unsigned asked_count, fail_at;
static uint64_t batch_to[PARTS], batch_from[PARTS];
static size_t batch_bytes[PARTS], batch_count;

static int ask(char word)
{
	REQUIRE(asked_count < WORDS_MAX - 1);
	asked[asked_count++] = word;
	return asked_count == fail_at ? -EIO : 0;
}

int gpu_call(struct gpu_stream *stream, void (*work)(void *argument), void *argument)
{
	int rc = ask('c');

	REQUIRE(!stream);
	if (!rc)
		work(argument);
	return rc;
}

int gpu_copy_batch(struct gpu_stream *stream, const struct gpu_batch *batch)
{
	REQUIRE(!stream && batch->count <= PARTS);
	batch_count = batch->count;
	memcpy(batch_to, batch->to, batch->count * sizeof(*batch->to));
	memcpy(batch_from, batch->from, batch->count * sizeof(*batch->from));
	memcpy(batch_bytes, batch->bytes, batch->count * sizeof(*batch->bytes));
	return ask('b');
}

int gpu_event_record(struct gpu_event *event, struct gpu_stream *stream)
{
	REQUIRE(event == copy_done && !stream);
	return ask('e');
}

void registrar_find(
	struct registrar *registrar, const struct registrar_pieces *pieces, uint32_t *numbers)
{
	(void)registrar;
	REQUIRE(pieces->places == bytes && pieces->bytes == PART_BYTES);
	for (uint32_t i = 0; i < pieces->count; i++)
		numbers[i] = i % 3;
}

void registrar_counts(struct registrar *registrar, struct registrar_counts *counts)
{
	(void)registrar;
	*counts = (struct registrar_counts){.registered = 7};
}

bool gpu_ours(const struct skep_gpu *of)
{
	return of == &gpu;
}

/* Parts in these chunks, at these places of the pool (counted in parts). */
static void parts_lie(bool load, const char *in_chunks, const char *at)
{
	job.load = load;
	job.moved = (uint32_t)strlen(in_chunks);
	for (uint32_t i = 0; i < job.moved; i++) {
		chunks[i] = (uint32_t)(in_chunks[i] - '0');
		bytes[i] = pool + (at[i] - '0') * PART_BYTES;
	}
	memset(asked, 0, sizeof(asked));
	asked_count = fail_at = 0;
}

/* Copy @i of the batch: that many parts from place @ring of the slot on, and @host. */
static void require_copy(unsigned i, uint32_t ring, const unsigned char *host, uint32_t parts)
{
	uint64_t there = ring_part(&plan, 1, ring), here = (uint64_t)(uintptr_t)host;

	REQUIRE(i < batch_count);
	REQUIRE_EQ(batch_to[i], job.load ? there : here);
	REQUIRE_EQ(batch_from[i], job.load ? here : there);
	REQUIRE_EQ(batch_bytes[i], (size_t)parts * PART_BYTES);
}

static void neighbours_of_a_chunk_go_together(bool load)
{
	parts_lie(load, "11122111", "01234570");
	REQUIRE_EQ(slot_copy(&job, 1, 0, job.moved), 0);
	REQUIRE_TEXT(asked, "be");
	REQUIRE_EQ(batch_count, 5);
	require_copy(0, 0, pool, 3);
	require_copy(1, 3, pool + 3 * PART_BYTES, 2); /* side by side, of another chunk */
	require_copy(2, 5, pool + 5 * PART_BYTES, 1); /* and back */
	require_copy(3, 6, pool + 7 * PART_BYTES, 1);
	require_copy(4, 7, pool, 1);
}

static void what_is_in_no_chunk_is_staged(bool load)
{
	unsigned char was[sizeof(pool)];

	parts_lie(load, "100200", "074312");
	for (size_t i = 0; i < sizeof(pool); i++) {
		was[i] = pool[i] = (unsigned char)mix64(i);
		staged[i] = (unsigned char)mix64(i + sizeof(pool));
	}
	REQUIRE_EQ(slot_copy(&job, 1, 0, job.moved), 0);
	REQUIRE_TEXT(asked, load ? "cbe" : "bce");
	REQUIRE_EQ(batch_count, 4);
	require_copy(0, 0, pool, 1);
	require_copy(1, 1, staged + PART_BYTES, 2); /* far from each other in the pool */
	require_copy(2, 3, pool + 3 * PART_BYTES, 1);
	require_copy(3, 4, staged + 4 * PART_BYTES, 2);
	for (uint32_t i = 0; i < job.moved; i++) {
		size_t at = (size_t)(bytes[i] - pool);

		/* Direct ones are the device's, which did nothing. */
		REQUIRE_EQ(memcmp(staged + i * PART_BYTES, pool + at, PART_BYTES) == 0, !chunks[i]);
		REQUIRE_EQ(memcmp(pool + at, was + at, PART_BYTES) == 0, load || chunks[i]);
	}
}

/* Parts of a length that leaves gaps in the ring go one by one. */
static void odd_parts_go_alone(void)
{
	plan.gather.part_bytes = PART_BYTES - 8;
	parts_lie(true, "11", "01");
	bytes[1] = bytes[0] + PART_BYTES - 8;
	REQUIRE_EQ(slot_copy(&job, 1, 0, 2), 0);
	REQUIRE_EQ(batch_count, 2);
	REQUIRE_EQ(batch_to[1] - batch_to[0], PART_BYTES);
	REQUIRE_EQ(batch_bytes[1], PART_BYTES - 8);
	plan.gather.part_bytes = PART_BYTES;
}

/* Two tables of one range each, of which neither has pages for the first block, and only the first
 * has some for the second. */
static void what_no_table_wants_is_not_copied(void)
{
	static uint32_t index[3] = {0, 1, 2};

	plan.tables = 2;
	plan.table_ranges[0] = plan.table_ranges[1] = 1;
	plan.gather.range_bytes = PART_BYTES / 2;
	job.index = index;
	job.from[0] = 1;
	job.from[1] = 2;
	parts_lie(true, "110", "012");
	memset(staged, 0, sizeof(staged));
	REQUIRE_EQ(slot_copy(&job, 1, 0, 3), 0);
	REQUIRE_TEXT(asked, "cbe");
	REQUIRE_EQ(batch_count, 2);
	REQUIRE_EQ(batch_to[0], ring_part(&plan, 1, 1));
	REQUIRE_EQ(batch_from[0], (uint64_t)(uintptr_t)bytes[1]);
	REQUIRE_EQ(batch_bytes[0], PART_BYTES / 2);
	require_copy(1, 2, staged + 2 * PART_BYTES, 1);
	REQUIRE_EQ(memcmp(staged + 2 * PART_BYTES, bytes[2], PART_BYTES), 0);
	plan.tables = 0;
}

/* After a call that failed nothing more is asked for. */
static void a_failure_ends_the_slot(bool load)
{
	for (unsigned nth = 1; nth <= 3; nth++) {
		parts_lie(load, "10", "01");
		fail_at = nth;
		REQUIRE_EQ(slot_copy(&job, 1, 0, 2), -EIO);
		REQUIRE_EQ(asked_count, nth);
	}
}

static void ways_are_counted(void)
{
	struct skep_gpu_stats stats = {.struct_bytes = sizeof(stats)};

	parts_lie(true, "99999999", "01234567");
	gpu.registrar = NULL;
	ways_find(&job);
	for (uint32_t i = 0; i < PARTS; i++)
		REQUIRE_EQ(chunks[i], 0);
	gpu.registrar = (struct registrar *)&gpu; /* looked into by nobody here */
	ways_find(&job);
	REQUIRE_EQ(chunks[5], 2);
	REQUIRE_EQ(skep_gpu_stats(&gpu, &stats), 0);
	REQUIRE_EQ(stats.parts_staged, PARTS + 3);
	REQUIRE_EQ(stats.parts_direct, 5);
	REQUIRE_EQ(stats.bytes_direct, 5 * PART_BYTES);
	REQUIRE_EQ(stats.chunks_registered, 7);
}

int main(void)
{
	for (unsigned load = 0; load < 2; load++) {
		neighbours_of_a_chunk_go_together(load);
		what_is_in_no_chunk_is_staged(load);
		a_failure_ends_the_slot(load);
	}
	odd_parts_go_alone();
	what_no_table_wants_is_not_copied();
	ways_are_counted();
	return 0;
}
