/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index in shared memory: its byte tables are those of docs/formats/index.md, a mapping that
 * makes no sense is refused, and it takes no more memory a block than was promised.
 *
 *	store_layout_test docs/formats/index.md
 */
#include <errno.h>
#include <stddef.h>

#include "tests/store/play.h"

struct field {
	const char *of, *name;
	size_t offset, bytes;
};

#define ROW(type, field)                                                                           \
	{                                                                                          \
#type, #field, offsetof(struct type, field), sizeof(((struct type *)0)->field)     \
	}

static const struct field fields[] = {
	ROW(index_head, magic),
	ROW(index_head, version),
	ROW(index_head, head_bytes),
	ROW(index_head, incarnation),
	ROW(index_head, file_bytes),
	ROW(index_head, slot_count),
	ROW(index_head, bucket_count),
	ROW(index_head, buckets_at),
	ROW(index_head, entries_at),
	ROW(index_head, parts_at),
	ROW(index_head, heap_at),
	ROW(index_head, heap_bytes),
	ROW(index_head, pool_bytes),
	ROW(index_head, chunk_bytes),
	ROW(index_head, chunk_count),
	ROW(index_head, id_bits),
	ROW(index_head, spaces),
	ROW(index_head, pool_ready_bytes),
	ROW(index_head, evictions),
	ROW(index_head, emptied),
	ROW(index_head, keeper),
	ROW(index_space, generation),
	ROW(index_bucket, word),
	ROW(index_entry, name_generation),
	ROW(index_entry, frame_generation),
	ROW(index_entry, id_low),
	ROW(index_entry, id_high),
	ROW(index_entry, parent_generation),
	ROW(index_entry, parent_slot),
	ROW(index_entry, child_slot),
	ROW(index_entry, next_slot),
	ROW(index_entry, record),
	ROW(index_entry, space),
	ROW(index_entry, parts),
	ROW(index_entry, state),
	ROW(index_entry, origin),
	ROW(index_entry, reserved),
	ROW(index_part, frame),
	ROW(index_part, bytes),
	ROW(index_part, write),
	ROW(index_part, root_low),
	ROW(index_part, root_high),
	ROW(record_head, word),
	ROW(pin_cell, generation),
	ROW(pin_cell, slot),
	ROW(pin_cell, reserved),
};

#define SIZE(type)                                                                                 \
	{                                                                                          \
#type, sizeof(struct type)                                                         \
	}

static const struct {
	const char *name;
	size_t bytes;
} sizes[] = {
	SIZE(index_head),
	SIZE(index_space),
	SIZE(index_bucket),
	SIZE(index_entry),
	SIZE(index_part),
	SIZE(record_head),
	SIZE(pin_cell),
};

/* "### … `struct name`, 16 bytes": whose table follows; NULL: another heading. */
static const char *heading_of(const char *line)
{
	const char *at = strstr(line, "`struct ");
	char name[64];
	size_t bytes;

	if (strncmp(line, "### ", 4) || !at)
		return NULL;
	REQUIRE_EQ(sscanf(at, "`struct %63[a-z_]`, %zu bytes", name, &bytes), 2);
	for (unsigned i = 0; i < ARRAY_COUNT(sizes); i++)
		if (!strcmp(sizes[i].name, name)) {
			REQUIRE_EQ(bytes, sizes[i].bytes);
			return sizes[i].name;
		}
	fprintf(stderr, "%s is not known here\n", name);
	exit(1);
}

static void row_check(const char *of, const char *line, const struct field *field)
{
	char name[64];
	size_t offset, bytes;

	REQUIRE_EQ(sscanf(line, "| %zu | %zu | %63[a-z_]", &offset, &bytes, name), 3);
	REQUIRE_TEXT(of, field->of);
	REQUIRE_TEXT(name, field->name);
	REQUIRE_EQ(offset, field->offset);
	REQUIRE_EQ(bytes, field->bytes);
}

static void the_page_says_what_is(const char *path)
{
	FILE *page = fopen(path, "r");
	const char *of = NULL;
	unsigned rows = 0, tables = 0;
	char line[512];

	REQUIRE(page != NULL);
	while (fgets(line, sizeof(line), page)) {
		size_t offset, bytes;

		if (line[0] == '#') {
			of = heading_of(line);
			tables += of != NULL;
		} else if (of && sscanf(line, "| %zu | %zu |", &offset, &bytes) == 2) {
			REQUIRE(rows < ARRAY_COUNT(fields));
			row_check(of, line, &fields[rows++]);
		}
	}
	fclose(page);
	REQUIRE_EQ(tables, ARRAY_COUNT(sizes));
	REQUIRE_EQ(rows, ARRAY_COUNT(fields));
	printf("%u tables, %u fields\n", tables, rows);
}

/* Numbers that the page says in words. */
static void constants_stand(void)
{
	REQUIRE_EQ(INDEX_LAYOUT_VERSION, 4);
	REQUIRE(INDEX_MAGIC == 0x7865646e49706b53ull);
	REQUIRE(!memcmp(&(uint64_t){INDEX_MAGIC}, "SkpIndex", 8));
	REQUIRE_EQ(INDEX_RECORD_GRANULE, 8);
	REQUIRE_EQ(FRAME_GRANULE_BYTES, 4096);
	REQUIRE_EQ(SLOT_ROOT(63), 0xffff003fu);
	REQUIRE(SLOT_NONE == 0xffffffffu && FRAME_NONE == 0xffffffffu);
	REQUIRE(ENTRY_FREE == 0 && ENTRY_PENDING == 1 && ENTRY_PRESENT == 2 && ENTRY_EMPTY == 3 &&
		ENTRY_REMOVED == 4 && ENTRY_HBM == 5);
	REQUIRE_EQ(sizeof(struct pin_cell), PAGE_PIN_BYTES);
}

/* Every offset and count of a head is checked before it is used. */
static void a_mapping_that_makes_no_sense_is_refused(void)
{
	struct sim_options options = {.dram_bytes = 2 << 20, .index_blocks = 64};
	static struct sim sim;
	struct index_view view;
	struct index_head *head, was;
	uint64_t bytes;

	REQUIRE_EQ(sim_create(&sim, &options), 0);
	head = sim.realm->index.head;
	bytes = sim.realm->index.file_bytes;
	was = *head;
	REQUIRE_EQ(index_view_open(&view, head, bytes), 0);
	REQUIRE(view.entries == sim.realm->index.entries && view.heap == sim.realm->index.heap);
	REQUIRE_EQ(index_view_open(&view, head, sizeof(*head) - 1), -EINVAL);
	REQUIRE_EQ(index_view_open(&view, head, bytes - 1), -EINVAL);
#define REFUSED(change, status)                                                                    \
	do {                                                                                       \
		change;                                                                            \
		REQUIRE_EQ(index_view_open(&view, head, bytes), status);                           \
		*head = was;                                                                       \
	} while (0)
	REFUSED(head->magic++, -EINVAL);
	REFUSED(head->version++, SKEP_STATUS_EVERSION);
	REFUSED(head->head_bytes += 8, SKEP_STATUS_EVERSION);
	REFUSED(head->file_bytes++, -EINVAL);
	REFUSED(head->slot_count = 0, -EINVAL);
	REFUSED(head->slot_count = UINT32_MAX, -EINVAL);
	REFUSED(head->bucket_count = 0, -EINVAL);
	REFUSED(head->bucket_count = UINT32_MAX, -EINVAL);
	REFUSED(head->buckets_at += 8, -EINVAL);
	REFUSED(head->entries_at = bytes + 64, -EINVAL);
	REFUSED(head->entries_at = UINT64_MAX & ~63ull, -EINVAL);
	REFUSED(head->parts_at = bytes & ~63ull, -EINVAL);
	REFUSED(head->heap_bytes = bytes, -EINVAL);
	REFUSED(head->heap_at = UINT64_MAX & ~63ull, -EINVAL);
	REFUSED(head->id_bits = 0, -EINVAL);
	REFUSED(head->id_bits = 129, -EINVAL);
#undef REFUSED
	sim_destroy(&sim);
}

/* -------------------------------------------------------------------------- memory a block */

enum { TOKENS = 8 };

/* Creates a realm of @blocks slots, fills them all and says how much memory this process has then.
 */
static uint64_t resident_when_full(const struct sim_space *kind, uint32_t blocks)
{
	struct sim_options options = {.dram_bytes = (uint64_t)blocks * kind->part_count * 4096,
		.index_blocks = blocks,
		.record_bytes = (uint64_t)blocks * 640 + (1 << 20)};
	static struct play play;
	static struct play_chain chain;
	static struct play_reserved reserved;
	uint32_t path[PLAY_BLOCKS_MAX], made = 0;
	unsigned long all, resident = 0;
	struct completion done;
	FILE *statm;

	play_open(&play, &options, kind, 1);
	while (made < blocks) {
		struct play_put put = {.chain = &chain, .count = MIN_OF(128, blocks - made)};

		for (uint32_t i = 0; i < put.count; i++)
			path[i] = made + i + 1;
		play_chain_make(&chain, &play.sim, &play.space, path, put.count);
		for (; put.part < kind->part_count; put.part++) {
			REQUIRE_EQ(play_reserve(&play.sim, &play.clients[0], &put, &reserved),
				put.count);
			REQUIRE(sim_commit_blind(
				&play.clients[0], reserved.written, reserved.count));
			sim_run(&play.sim);
			REQUIRE(sim_take(&play.clients[0], 0, &done));
		}
		made += put.count;
	}
	REQUIRE_EQ(play.realm->slot_count_by_state[ENTRY_PRESENT], blocks);
	statm = fopen("/proc/self/statm", "r");
	REQUIRE(statm && fscanf(statm, "%lu %lu", &all, &resident) == 2);
	fclose(statm);
	sim_client_close(&play.clients[0], true);
	sim_destroy(&play.sim);
	return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* In a process of its own: what an earlier one left in the allocator would count too. */
static uint64_t resident_alone(const struct sim_space *kind, uint32_t blocks)
{
	uint64_t resident = 0;
	int line[2], status;
	pid_t child;

	REQUIRE_EQ(pipe(line), 0);
	fflush(stdout);
	child = fork();
	REQUIRE(child >= 0);
	if (child == 0) {
		resident = resident_when_full(kind, blocks);
		_exit(write(line[1], &resident, sizeof(resident)) != sizeof(resident));
	}
	REQUIRE(waitpid(child, &status, 0) == child && status == 0);
	REQUIRE_EQ(read(line[0], &resident, sizeof(resident)), sizeof(resident));
	close(line[0]);
	close(line[1]);
	return resident;
}

/* Does the system give pages of 2 MiB unasked or on advice? Then an array may hold part of one. */
static bool pages_are_large(void)
{
	static const char *const settings[] = {"enabled", "shmem_enabled"};
	bool large = false;

	for (unsigned i = 0; i < ARRAY_COUNT(settings); i++) {
		char path[128], text[128] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/sys/kernel/mm/transparent_hugepage/%s", settings[i]);
		file = fopen(path, "r");
		if (!file)
			continue;
		/* [madvise] is for private memory alone, where nobody asks. */
		large |= fgets(text, sizeof(text), file) && !strstr(text, "[never]") &&
			 !strstr(text, "[madvise]");
		fclose(file);
	}
	return large;
}

/* By how much a full index grows with each block, whatever is of one size left out. */
static double bytes_a_block(const struct sim_space *kind)
{
	enum { FEW = 100000, MANY = 400000 };
	uint64_t few = resident_alone(kind, FEW), many = resident_alone(kind, MANY);

	return ((double)many - (double)few) / (MANY - FEW);
}

/*
 * 192 bytes a block for one part, 32 more for each further one, besides tokens, keys, range sums
 * and the list of the evicted (whose heads are touched from the start: 16 bytes a slot).
 */
static void a_block_takes_what_was_promised(void)
{
	static const struct sim_space one = {.name = "one",
		.block_tokens = TOKENS,
		.part_count = 1,
		.bytes = {4096},
		.ranges = {1}};
	static const struct sim_space three = {.name = "three",
		.block_tokens = TOKENS,
		.part_count = 3,
		.bytes = {4096, 4096, 4096},
		.ranges = {1, 1, 1}};
	/* The pool's allocator keeps four bytes and a bit for each frame: the pool's, not ours. */
	const double frame = 4.2, evicted = 16;
	const double pages = pages_are_large() ? 4 * (2 << 20) / 300000.0 : 0;
	double measured = bytes_a_block(&one) - TOKENS * 4 - 8 - evicted - frame;
	double further = (bytes_a_block(&three) - bytes_a_block(&one)) / 2 - 8 - frame;

	printf("%.1f bytes a block, %.1f a further part\n", measured, further);
	REQUIRE(measured <= 192 + pages);
	REQUIRE(further <= 32 + pages);
	REQUIRE(measured > 160 && further > 24); /* else it was not measured */
}

int main(int argc, char **argv)
{
	REQUIRE(argc > 1);
	the_page_says_what_is(argv[1]);
	constants_stand();
	a_mapping_that_makes_no_sense_is_refused();
#ifdef UNIT_SANITIZED
	(void)a_block_takes_what_was_promised;
	printf("memory a block is not measured under a sanitizer, which has its own beside it\n");
#else
	a_block_takes_what_was_promised();
#endif
	return 0;
}
