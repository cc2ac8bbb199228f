/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plans, work that is refused, gather and scatter on this machine's memory without any device, and
 * the example of the format page. gather_test.c has the layouts.
 */
#include <errno.h>

#include "base/bits.h"
#include "kernels/checksum.h"
#include "kernels/gather_args.h"
#include "tests/base/unit.h"

#define POISON 0xa5

#define EXPECT(condition, ...)                                                                     \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);            \
			fprintf(stderr, __VA_ARGS__);                                              \
			fprintf(stderr, "\n");                                                     \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* What cannot be meant is refused before anything moves. */
static void bad_arguments_are_refused(void)
{
	const uint64_t base = 4096;
	const struct gather_layout layout = {GATHER_LAYER_MAJOR, 1, 1, 16, 2, 32, 1};
	const struct gather_tensors tensors = {&base, 1024, 64, 32, 16, 8};
	const uint32_t numbers[] = {7, 8, 3};
	struct gather_pages pages = {numbers, 1};
	struct gather_block blocks[] = {{65536, 0, 0}, {65536, 0, 0}};
	struct gather_plan plan;
	struct gather_work work = {.count = 1, .blocks = 1, .pages = 1, .bases = 1, .sums = 1};
	struct gather_layout wrong;
	struct gather_tensors far = tensors;
	uint32_t bad = 9;

	EXPECT(gather_plan_make(&plan, &layout, &tensors) == 0, "a sound plan");
	EXPECT(plan.part_bytes == 1024 && plan.vector_bytes == 16 && plan.runs == 1, "its fields");
	for (unsigned field = 0; field < 6; field++) {
		uint32_t *counts[] = {&wrong.layers, &wrong.kinds, &wrong.tokens, &wrong.heads,
			&wrong.head_bytes, &wrong.ranges};

		wrong = layout;
		*counts[field] = 0;
		EXPECT(gather_plan_make(&plan, &wrong, &tensors) == -EINVAL, "field %u", field);
	}
	wrong = layout;
	wrong.ranges = 3;
	EXPECT(gather_plan_make(&plan, &wrong, &tensors) == -EINVAL, "1,024 bytes in 3 ranges");
	wrong.head_bytes = 1u << 30;
	EXPECT(gather_plan_make(&plan, &wrong, &tensors) == -E2BIG, "32 GiB");
	far.page_stride = UINT64_MAX / 2;
	EXPECT(gather_plan_make(&plan, &layout, &far) == -EINVAL, "past the end of 64 bits");
	EXPECT(gather_plan_make(&plan, &layout, &tensors) == 0, "a sound plan");

	EXPECT(gather_blocks_check(&plan, blocks, 2, pages, &bad) == 0, "sound blocks");
	blocks[1].first_slot = 1;
	EXPECT(gather_blocks_check(&plan, blocks, 2, pages, &bad) == -EINVAL && bad == 1, "page 1");
	pages.count = 2;
	EXPECT(gather_blocks_check(&plan, blocks, 2, pages, &bad) == -EINVAL, "number 8 of 8");
	blocks[1] = (struct gather_block){65536, 2, 0};
	EXPECT(gather_blocks_check(&plan, blocks, 2, pages, &bad) == -EINVAL, "page 2 of 2");
	pages.count = 3;
	EXPECT(gather_blocks_check(&plan, blocks, 2, pages, &bad) == 0, "page 2 of 3");
	blocks[1].first_slot = 16;
	EXPECT(gather_blocks_check(&plan, blocks, 2, pages, &bad) == -EINVAL, "slot 16 of 16");
	blocks[0].part = 65540;
	EXPECT(gather_blocks_check(&plan, blocks, 2, pages, &bad) == -EINVAL && bad == 0, "part");

	work.plan = plan;
	EXPECT(gather_work_check(&work, GATHER_IN) == 0, "sound work");
	work.expected = 1;
	EXPECT(gather_work_check(&work, GATHER_OUT) == -EINVAL, "no place for verdicts");
	work.expected = 0;
	work.range_count = 2;
	EXPECT(gather_parts_on_host(&work) == -EINVAL, "range 1 of 1");
	work.range_count = work.count = 0;
	EXPECT(gather_parts_on_host(&work) == -EINVAL, "no blocks");
}

/* The same without any device. */
static void works_without_a_device(void)
{
	enum { TOKENS = 4, BYTES = 8 * TOKENS };
	unsigned char keys[BYTES * 2], part[BYTES], other[BYTES * 2];
	const uint32_t pages[] = {0, 1};
	const struct gather_layout layout = {GATHER_LAYER_MAJOR, 1, 1, TOKENS, 1, 8, 1};
	uint64_t base = (uint64_t)(uintptr_t)keys, sum = 0, expected;
	struct gather_tensors tensors = {&base, BYTES, 8, 8, TOKENS, 2};
	const struct gather_block block = {(uint64_t)(uintptr_t)part, 0, 2};
	uint8_t failed = 7;
	struct gather_work work = {.bases = (uint64_t)(uintptr_t)&base,
		.blocks = (uint64_t)(uintptr_t)&block,
		.pages = (uint64_t)(uintptr_t)pages,
		.sums = (uint64_t)(uintptr_t)&sum,
		.count = 1};

	for (unsigned i = 0; i < sizeof(keys); i++)
		keys[i] = (unsigned char)mix64(i);
	memset(other, POISON, sizeof(other));
	EXPECT(gather_plan_make(&work.plan, &layout, &tensors) == 0, "plan");
	EXPECT(gather_parts_on_host(&work) == 0, "gather");
	EXPECT(memcmp(part, keys + 16, BYTES) == 0, "tokens 2 to 5");
	EXPECT(sum == checksum_range(part, BYTES), "sum");
	base = (uint64_t)(uintptr_t)other;
	expected = sum + 1;
	work.expected = (uint64_t)(uintptr_t)&expected;
	work.failed = (uint64_t)(uintptr_t)&failed;
	EXPECT(scatter_parts_on_host(&work) == 0 && failed == 1, "a wrong sum");
	expected = sum;
	EXPECT(scatter_parts_on_host(&work) == 0 && failed == 0, "the right sum");
	EXPECT(memcmp(other + 16, keys + 16, BYTES) == 0 && other[15] == POISON &&
			other[16 + BYTES] == POISON,
		"tokens 2 to 5, and nothing else");
	EXPECT(sum_parts_on_host(&work) == 0 && failed == 0, "sum alone");
}

/*
 * The table of the format page: of a small layout, where the elements lie. Each element of the
 * tensors holds its own name, so the page is compared with what the code stores.
 */
static void part_format_page_holds(void)
{
	static const struct gather_layout shapes[] = {
		{GATHER_LAYER_MAJOR, 2, 2, 3, 2, 4, 1}, {GATHER_TOKEN_MAJOR, 2, 2, 3, 2, 4, 1}};
	unsigned char tensors[2 * 2 * 3 * 2 * 4], parts[2][sizeof(tensors)];
	FILE *page = fopen(FORMAT_PAGE, "r");
	unsigned rows = 0;
	char line[256];

	EXPECT(page, "%s cannot be read", FORMAT_PAGE);
	for (unsigned i = 0; i < sizeof(tensors); i += 4) {
		unsigned element = i / 4;

		tensors[i] = (unsigned char)(element / 12);	   /* layer */
		tensors[i + 1] = (unsigned char)(element / 6 % 2); /* kind */
		tensors[i + 2] = (unsigned char)(element / 2 % 3); /* token */
		tensors[i + 3] = (unsigned char)(element % 2);	   /* head */
	}
	for (unsigned order = 0; order < 2; order++) {
		uint64_t bases[4];
		const uint32_t number = 0;
		const struct gather_tensors places = {bases, 24, 8, 4, 3, 1};
		const struct gather_block block = {(uint64_t)(uintptr_t)parts[order], 0, 0};
		struct gather_work work = {.bases = (uint64_t)(uintptr_t)bases,
			.blocks = (uint64_t)(uintptr_t)&block,
			.pages = (uint64_t)(uintptr_t)&number,
			.count = 1};

		for (unsigned plane = 0; plane < 4; plane++)
			bases[plane] = (uint64_t)(uintptr_t)tensors + plane * 24;
		EXPECT(gather_plan_make(&work.plan, &shapes[order], &places) == 0, "plan");
		EXPECT(gather_parts_on_host(&work) == 0, "gather");
	}
	while (fgets(line, sizeof(line), page)) {
		unsigned layer, kind, token, head, at[2];

		if (sscanf(line, "| %u | %u | %u | %u | %u | %u |", &layer, &kind, &token, &head,
			    &at[0], &at[1]) != 6)
			continue;
		for (unsigned order = 0; order < 2; order++) {
			const unsigned char name[] = {(unsigned char)layer, (unsigned char)kind,
				(unsigned char)token, (unsigned char)head};

			EXPECT(at[order] + 4 <= sizeof(tensors) &&
					memcmp(parts[order] + at[order], name, 4) == 0,
				"order %u, layer %u, kind %u, token %u, head %u is not at %u",
				order, layer, kind, token, head, at[order]);
		}
		rows++;
	}
	fclose(page);
	EXPECT(rows == 24, "the page has %u rows of 24", rows);
}

int main(void)
{
	bad_arguments_are_refused();
	works_without_a_device();
	part_format_page_holds();
	return 0;
}
