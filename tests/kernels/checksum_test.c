/* SPDX-License-Identifier: Apache-2.0 */
/* checksum_test [seed]: the sums are the format page's, on every variant that this processor runs.
 */
#include "kernels/checksum.h"

#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "kernels/checksum_priv.h"

#define AREA_BYTES (1u << 20)
#define PAGE_BYTES 4096

static uint64_t seed, random_state;

#define EXPECT(condition, ...)                                                                     \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);                     \
			printf(__VA_ARGS__);                                                       \
			printf(" (variant %s, seed %" PRIu64 ")\n", kernels_variant_name(), seed); \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static uint64_t random_word(void)
{
	return mix64(random_state++);
}

/* A number below @end. */
static size_t random_below(size_t end)
{
	return (size_t)(random_word() % end);
}

/* Memory that ends at a page nobody may touch, so that one byte too far is a fault. */
static unsigned char *area_create(void)
{
	unsigned char *area = mmap(NULL, AREA_BYTES + PAGE_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED || mprotect(area + AREA_BYTES, PAGE_BYTES, PROT_NONE) != 0) {
		perror("mmap");
		exit(1);
	}
	for (size_t at = 0; at < AREA_BYTES; at += 8) {
		uint64_t word = random_word();

		memcpy(area + at, &word, 8);
	}
	return area;
}

static unsigned char *source, *target;

/* Where a piece of @length bytes begins: at the guard page or anywhere. */
static size_t place(size_t length)
{
	size_t room = AREA_BYTES - length;

	return random_below(2) ? room : random_below(room + 1);
}

static const size_t edges[] = {0, 1, 3, 4, 8, 9, 16, 17, 64, 128, 129, 240, 241, 1024, 4095, 4096,
	4097, 8191, 8192, 8193, 65535, 65536, 65537, 262143, 262144, 262145, 262144 + 4096, 524288,
	524289, 524288 + 8191};

/* The n-th of @count lengths: the edges first, then anything up to 70,000. */
static size_t length_nth(size_t n)
{
	return n < ARRAY_COUNT(edges) ? edges[n] : random_below(70001);
}

/* The variant that ships is the first of the list that the processor supports. */
static void best_variant_is_chosen(void)
{
	size_t i = 0;

	while (!checksum_variants[i]->supported())
		i++;
	EXPECT(strcmp(kernels_variant_name(), checksum_variants[i]->name) == 0, "%s is better",
		checksum_variants[i]->name);
}

static void range_equals_reference(void)
{
	for (size_t n = 0; n < 600; n++) {
		size_t length = length_nth(n), at = place(length);
		uint64_t sum = checksum_range(source + at, length);

		EXPECT(sum == checksum_range_reference(source + at, length), "%zu bytes at %zu",
			length, at);
	}
	for (size_t length = 0; length <= 600; length++)
		EXPECT(checksum_range(source + 1, length) ==
				checksum_range_reference(source + 1, length),
			"%zu bytes", length);
}

/* Copies @length bytes and looks at the copy and at 256 bytes on both sides of it. */
static void copy_once(size_t length, size_t to, enum checksum_stores stores)
{
	size_t from = place(length);
	size_t first = to - MIN_OF(to, 256u), end = MIN_OF(to + length + 256, (size_t)AREA_BYTES);
	uint64_t sum;

	memset(target + first, 0xa5, end - first);
	if (random_below(2) && stores == checksum_stores_for(length))
		sum = checksum_copy(target + to, source + from, length);
	else
		sum = checksum_copy_as(stores, target + to, source + from, length);
	EXPECT(sum == checksum_range_reference(source + from, length), "%zu bytes, stores %d",
		length, stores);
	EXPECT(memcmp(target + to, source + from, length) == 0, "%zu bytes, stores %d", length,
		stores);
	for (size_t at = first; at < end; at++)
		if (at < to || at >= to + length)
			EXPECT(target[at] == 0xa5, "byte %zu of a copy of %zu to %zu, stores %d",
				at, length, to, stores);
}

static void copy_is_right_and_touches_nothing_else(void)
{
	for (size_t n = 0; n < 250; n++) {
		size_t length = length_nth(n), to = place(length);

		copy_once(length, to, CHECKSUM_STORES_CACHED);
		copy_once(length, to, CHECKSUM_STORES_BYPASS);
		copy_once(length, to / 64 * 64, CHECKSUM_STORES_BYPASS);
	}
}

static void stream_equals_one_shot(void)
{
	struct checksum_stream *streams = calloc(2, sizeof(*streams));

	EXPECT(streams, "no memory");
	for (size_t n = 0; n < 200; n++) {
		size_t length = length_nth(n), at = place(length), done = 0;
		size_t longest = (size_t)1 << random_below(20);
		bool leaves = random_below(4) == 0;
		struct checksum_stream *stream = &streams[0];
		uint64_t sum;

		memset(streams, 0xee, 2 * sizeof(*streams));
		checksum_stream_init(stream);
		while (done < length) {
			size_t piece = leaves ? CHECKSUM_LEAF_BYTES : random_below(longest + 1);

			piece = MIN_OF(piece, length - done);
			checksum_stream_update(stream, source + at + done, piece);
			done += piece;
			if (random_below(8) == 0) { /* it may be moved */
				struct checksum_stream *other = &streams[stream == &streams[0]];

				memcpy(other, stream, sizeof(*stream));
				memset(stream, 0xee, sizeof(*stream));
				stream = other;
			}
		}
		sum = checksum_stream_final(stream);
		EXPECT(sum == checksum_range(source + at, length), "%zu bytes, pieces up to %zu",
			length, leaves ? CHECKSUM_LEAF_BYTES : longest);
	}
	free(streams);
}

/* Every byte of a range of a leaf and a tail, at each some bit flipped. */
static void flipped_byte_changes_the_sum(void)
{
	const size_t length = CHECKSUM_LEAF_BYTES + 300;
	unsigned char *bytes = source + AREA_BYTES - length;
	uint64_t sum = checksum_range(bytes, length);

	for (size_t at = 0; at < length; at++) {
		unsigned char bit = (unsigned char)(1u << random_below(8));

		bytes[at] ^= bit;
		EXPECT(checksum_range(bytes, length) != sum, "byte %zu", at);
		bytes[at] ^= bit;
	}
	EXPECT(checksum_range(bytes, length) == sum, "restored");
	EXPECT(checksum_range(bytes, length - 1) != sum, "one byte less");
}

static void flipped_field_changes_the_root(void)
{
	uint64_t range_sums[40];
	struct checksum_root_input input = {.part = 5, .length = 7, .range_count = 40};
	struct checksum_root root;
	unsigned char *fields[] = {input.block_id, (unsigned char *)&input.part,
		(unsigned char *)&input.length, (unsigned char *)&input.incarnation,
		(unsigned char *)&input.generation, (unsigned char *)range_sums};
	const size_t sizes[] = {16, 4, 8, 8, 8, sizeof(range_sums)};

	for (size_t i = 0; i < ARRAY_COUNT(range_sums); i++)
		range_sums[i] = random_word();
	input.range_sums = range_sums;
	root = checksum_root_make(&input);
	for (size_t field = 0; field < ARRAY_COUNT(fields); field++) {
		for (size_t at = 0; at < sizes[field]; at++) {
			unsigned char bit = (unsigned char)(1u << random_below(8));

			fields[field][at] ^= bit;
			EXPECT(!checksum_root_equal(checksum_root_make(&input), root),
				"byte %zu of field %zu", at, field);
			fields[field][at] ^= bit;
		}
	}
	EXPECT(checksum_root_equal(checksum_root_make(&input), root), "restored");
	input.range_count--;
	EXPECT(!checksum_root_equal(checksum_root_make(&input), root), "one range less");
}

/*
 * Another process writes into the source all the time. The copies mix old and new, and each sum is
 * still that of its copy. It runs until enough copies were mixed, so that it proves something.
 */
static void sum_is_of_the_copy_while_the_source_changes(enum checksum_stores stores)
{
	const size_t length = 64 * CHECKSUM_LEAF_BYTES + 1000, wanted = 50;
	_Atomic uint64_t *shared = mmap(NULL, align_up(length, PAGE_BYTES), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t until_ns = clock_ns() + 20 * NS_PER_S;
	size_t mixed = 0;
	pid_t parent = getpid(), writer;

	EXPECT(shared != MAP_FAILED, "mmap");
	memset((void *)shared, 0, length);
	writer = fork();
	if (writer == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		for (uint64_t round = 1;; round++)
			for (size_t i = 0; i < length / 8; i++)
				atomic_store_explicit(&shared[i], round, memory_order_relaxed);
	}
	EXPECT(writer > 0, "fork");
	while (mixed < wanted && clock_ns() < until_ns) {
		uint64_t sum = checksum_copy_as(stores, target, (const void *)shared, length);

		EXPECT(sum == checksum_range_reference(target, length), "stores %d", stores);
		mixed += memcmp(target, target + length - 1000, 8) != 0;
	}
	kill(writer, SIGKILL);
	waitpid(writer, NULL, 0);
	munmap((void *)shared, align_up(length, PAGE_BYTES));
	EXPECT(mixed >= wanted, "only %zu copies met the writer", mixed);
}

/* The format page. */

#define PAGE_RANGES_MAX	 8
#define PAGE_VECTORS_MIN 3

struct page_range {
	char name[8];
	size_t bytes;
	uint64_t sum;
};

static struct page_range page_ranges[PAGE_RANGES_MAX];
static size_t page_range_count, page_root_count;

static void page_range_check(const struct page_range *range)
{
	unsigned char *bytes = malloc(range->bytes + 1), *copy = malloc(range->bytes + 1);

	EXPECT(bytes && copy, "no memory");
	for (size_t i = 0; i < range->bytes; i++)
		bytes[i] = (unsigned char)(167 * i + 13 * (i / 256) + 5);
	EXPECT(checksum_range_reference(bytes, range->bytes) == range->sum, "%s", range->name);
	EXPECT(checksum_range(bytes, range->bytes) == range->sum, "%s", range->name);
	EXPECT(checksum_copy(copy, bytes, range->bytes) == range->sum, "%s", range->name);
	free(bytes);
	free(copy);
}

/* Takes "r3*32 r2" apart: adds the sums and the lengths of the ranges named. */
static void page_ranges_take(char *text, struct checksum_root_input *input, uint64_t *sums)
{
	char *rest = NULL;

	for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
		char *star = strchr(word, '*');
		size_t times = star ? strtoul(star + 1, NULL, 10) : 1, i = 0;

		if (star)
			*star = 0;
		while (i < page_range_count && strcmp(page_ranges[i].name, word) != 0)
			i++;
		EXPECT(i < page_range_count && input->range_count + times <= 64, "range %s", word);
		while (times--)
			sums[input->range_count++] = page_ranges[i].sum;
	}
}

static bool page_root_check(const char *line)
{
	char name[8], id[33], ranges[64], stored[33], got[33];
	uint64_t sums[64];
	struct checksum_root_input input = {.range_sums = sums};
	struct checksum_root root;

	if (sscanf(line,
		    "| %7[p0-9] | %32[0-9a-f] | %" SCNu32 " | 0x%" SCNx64 " | 0x%" SCNx64
		    " | %63[r0-9* ]| %" SCNu64 " | %32[0-9a-f] |",
		    name, id, &input.part, &input.incarnation, &input.generation, ranges,
		    &input.length, stored) != 8)
		return false;
	for (size_t i = 0; i < CHECKSUM_BLOCK_ID_BYTES; i++)
		EXPECT(sscanf(id + 2 * i, "%2hhx", &input.block_id[i]) == 1, "%s", name);
	page_ranges_take(ranges, &input, sums);
	root = checksum_root_make(&input);
	for (size_t i = 0; i < 16; i++)
		snprintf(got + 2 * i, 3, "%02x",
			(unsigned)((i < 8 ? root.low : root.high) >> (i % 8 * 8)) & 0xff);
	EXPECT(strcmp(got, stored) == 0, "%s is %s here", name, got);
	return true;
}

static void vectors_of_the_format_page_hold(void)
{
	FILE *page = fopen(FORMAT_PAGE, "r");
	char line[512];

	EXPECT(page, "%s cannot be read", FORMAT_PAGE);
	page_range_count = page_root_count = 0;
	while (fgets(line, sizeof(line), page)) {
		struct page_range range;

		page_root_count += page_root_check(line);
		if (sscanf(line, "| %7[r0-9] | %zu | 0x%" SCNx64 " |", range.name, &range.bytes,
			    &range.sum) != 3)
			continue;
		EXPECT(page_range_count < PAGE_RANGES_MAX,
			"more ranges than the test has room for");
		page_range_check(&range);
		page_ranges[page_range_count++] = range;
	}
	fclose(page);
	EXPECT(page_range_count >= PAGE_VECTORS_MIN && page_root_count >= PAGE_VECTORS_MIN,
		"%zu ranges and %zu roots", page_range_count, page_root_count);
}

int main(int argc, char **argv)
{
	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : clock_ns();
	random_state = mix64(seed);
	setvbuf(stdout, NULL, _IONBF, 0); /* the writing process shall not print twice */
	printf("seed %" PRIu64 ", variant %s\n", seed, kernels_variant_name());
	source = area_create();
	target = area_create();
	best_variant_is_chosen();
	flipped_field_changes_the_root();
	for (size_t i = 0; checksum_variants[i]; i++) {
		if (!checksum_variants[i]->supported()) {
			printf("%s: not on this processor\n", checksum_variants[i]->name);
			continue;
		}
		checksum_variant_use(checksum_variants[i]);
		vectors_of_the_format_page_hold();
		range_equals_reference();
		copy_is_right_and_touches_nothing_else();
		stream_equals_one_shot();
		flipped_byte_changes_the_sum();
		sum_is_of_the_copy_while_the_source_changes(CHECKSUM_STORES_CACHED);
		sum_is_of_the_copy_while_the_source_changes(CHECKSUM_STORES_BYPASS);
		printf("%s: sound\n", checksum_variants[i]->name);
	}
	return 0;
}
