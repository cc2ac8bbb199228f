/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libskep-gpu over a node inside this process: whatever call of the device fails, nothing is left
 * behind on the device or in the store, and what can be had afterwards is right. What is malformed
 * is refused. Processes, orders and bad bytes are in tests/node/tensors_test.c.
 */
#include "engine/gpu/gpu_priv.h"
#include "tests/engine/client_unit.h"

enum {
	LAYERS = 2,
	BLOCKS = 6,
	BLOCK_TOKENS = 16,
	TOKEN_BYTES = 256,
	PAGE_BYTES = BLOCK_TOKENS * TOKEN_BYTES,
	PART_BYTES = LAYERS * 2 * PAGE_BYTES,
};

static struct skep *session;
static struct skep_space *space;
static unsigned char keys[LAYERS * 2][BLOCKS * PAGE_BYTES], copy[sizeof(keys)];
static const uint32_t pages[BLOCKS] = {3, 0, 5, 1, 4, 2};

static struct skep_gpu_tensors tensors_of(unsigned char *memory, uint64_t *bases)
{
	for (uint32_t i = 0; i < LAYERS * 2; i++)
		bases[i] = (uint64_t)(uintptr_t)memory + i * sizeof(keys[0]);
	return (struct skep_gpu_tensors){.struct_bytes = sizeof(struct skep_gpu_tensors),
		.layers = LAYERS,
		.kinds = 2,
		.block_tokens = BLOCK_TOKENS,
		.heads = 1,
		.head_bytes = TOKEN_BYTES,
		.page_tokens = BLOCK_TOKENS,
		.page_count = BLOCKS,
		.blocks_max = BLOCKS,
		.jobs = 2,
		.bases = bases,
		.page_stride = PAGE_BYTES,
		.token_stride = TOKEN_BYTES,
		.head_stride = TOKEN_BYTES};
}

static struct skep_gpu *device_open(uint32_t ring_slots)
{
	struct skep_gpu_options options = {
		.struct_bytes = sizeof(options), .ring_slots = ring_slots, .ring_parts = 2};
	struct skep_gpu *gpu;

	REQUIRE_EQ(skep_gpu_open(session, &options, &gpu), 0);
	return gpu;
}

/* Nothing of the device is held. */
static void device_close(struct skep_gpu *gpu)
{
	static const struct gpu_usage none;
	struct gpu_usage usage;

	gpu_fail_nth(gpu->device, 0, 0);
	gpu_usage(gpu->device, &usage);
	REQUIRE_EQ(memcmp(&usage, &none, sizeof(usage)), 0);
	skep_gpu_close(gpu);
}

static struct skep_chain *chain_of(uint32_t story)
{
	uint32_t tokens[BLOCKS * BLOCK_TOKENS];
	struct skep_chain *chain;

	for (uint32_t i = 0; i < BLOCKS * BLOCK_TOKENS; i++)
		tokens[i] = story * 1000 + i;
	REQUIRE_EQ(skep_chain_create(space, &chain), 0);
	REQUIRE_EQ(skep_chain_append(chain, tokens, BLOCKS * BLOCK_TOKENS), BLOCKS);
	return chain;
}

static struct skep_match match(struct skep_chain *chain, struct skep_ref *refs)
{
	struct skep_match asked = {.struct_bytes = sizeof(asked),
		.chain = chain,
		.flags = SKEP_MATCH_PEEK,
		.refs = refs,
		.refs_max = BLOCKS};

	REQUIRE_EQ(skep_match(session, &asked, 1), 0);
	return asked;
}

static int save_begin(
	struct skep_gpu_plan *plan, struct skep_chain *chain, struct skep_gpu_job **job)
{
	struct skep_gpu_save save = {.struct_bytes = sizeof(save),
		.chain = chain,
		.count = BLOCKS,
		.pages = {pages, BLOCKS, 0},
		.deadline_ns = skep_deadline_ms(1000)};

	return skep_gpu_save_begin(plan, &save, job);
}

static int load_begin(
	struct skep_gpu_plan *plan, const struct skep_ref *refs, struct skep_gpu_job **job)
{
	struct skep_gpu_load load = {.struct_bytes = sizeof(load),
		.refs = refs,
		.count = BLOCKS,
		.pages = {pages, BLOCKS, 0}};

	return skep_gpu_load_begin(plan, &load, job);
}

/* Begins and ends. Return: blocks that are good, or the first error. */
static int save(struct skep_gpu_plan *plan, struct skep_chain *chain)
{
	struct skep_gpu_job *job;
	int rc = save_begin(plan, chain, &job);

	return rc < 0 ? rc : skep_gpu_end(job, NULL, skep_deadline_ms(1000));
}

static int load(struct skep_gpu_plan *plan, const struct skep_ref *refs)
{
	struct skep_gpu_job *job;
	int rc = load_begin(plan, refs, &job);

	return rc <= 0 ? rc : skep_gpu_end(job, NULL, 0);
}

/*
 * From nothing to nothing with one call of the device failing: a plan over the keys, and one over
 * the copy; saved, matched, loaded. Return: 0, or -EIO where the failure came through.
 */
static int life(uint32_t ring_slots, uint64_t nth, uint32_t story)
{
	struct skep_gpu *gpu = device_open(ring_slots);
	struct skep_gpu_plan *from = NULL, *to = NULL;
	struct skep_chain *chain = chain_of(story);
	struct skep_ref refs[BLOCKS];
	uint64_t bases[LAYERS * 2];
	struct skep_gpu_tensors tensors = tensors_of(keys[0], bases);
	int rc, had;

	gpu_fail_nth(gpu->device, nth, -EIO);
	rc = skep_gpu_plan_create(gpu, space, &tensors, &from);
	if (!rc) {
		tensors = tensors_of(copy, bases);
		rc = skep_gpu_plan_create(gpu, space, &tensors, &to);
	}
	if (!rc) {
		rc = save(from, chain);
		/* All of it or nothing; what failed can be saved at once. */
		had = (int)match(chain, refs).matched;
		REQUIRE_EQ(had, rc < 0 ? 0 : BLOCKS);
		if (rc < 0)
			REQUIRE_EQ(save(from, chain), BLOCKS);
	}
	if (rc > 0) {
		REQUIRE_EQ(match(chain, refs).matched, BLOCKS);
		memset(copy, 0xa5, sizeof(copy));
		rc = load(to, refs);
		if (rc < 0)
			REQUIRE_EQ(load(to, refs), BLOCKS);
		REQUIRE_EQ(memcmp(copy, keys, sizeof(keys)), 0);
	}
	skep_gpu_plan_destroy(from);
	skep_gpu_plan_destroy(to);
	device_close(gpu);
	skep_chain_destroy(chain);
	REQUIRE(rc == -EIO || rc == BLOCKS);
	return rc < 0 ? rc : 0;
}

static void each_failure_leaves_nothing(uint32_t ring_slots)
{
	uint64_t nth = 1;

	while (life(ring_slots, nth, (uint32_t)(nth + 500 * ring_slots)) < 0)
		nth++;
	printf("ring of %u slots: %llu calls failed in turn\n", ring_slots,
		(unsigned long long)nth - 1);
	REQUIRE(nth > 20);
}

static void malformed_is_refused(void)
{
	static const uint32_t far[BLOCKS] = {0, 1, 2, BLOCKS, 3, 4};
	struct skep_gpu *gpu = device_open(0);
	struct skep_chain *chain = chain_of(1);
	struct skep_gpu_job *job, *other;
	struct skep_gpu_plan *plan;
	struct skep_ref refs[BLOCKS];
	struct skep_part_layout part = {0};
	uint64_t bases[LAYERS * 2];
	struct skep_gpu_tensors tensors = tensors_of(keys[0], bases);
	struct skep_gpu_save wrong = {.struct_bytes = sizeof(wrong),
		.chain = chain,
		.count = BLOCKS,
		.pages = {far, BLOCKS, 0},
		.deadline_ns = skep_deadline_ms(1000)};

	REQUIRE_EQ(skep_gpu_plan_create(gpu, space, &tensors, &plan), 0);
	REQUIRE_EQ(skep_gpu_save_begin(plan, &wrong, &job), -EINVAL); /* a page too far */
	wrong.pages = (struct skep_gpu_pages){pages, BLOCKS - 1, 0};
	REQUIRE_EQ(skep_gpu_save_begin(plan, &wrong, &job), -EINVAL); /* a page too few */
	wrong.pages = (struct skep_gpu_pages){pages, BLOCKS, BLOCK_TOKENS};
	REQUIRE_EQ(skep_gpu_save_begin(plan, &wrong, &job), -EINVAL); /* a slot too far */
	REQUIRE_EQ(save(plan, chain), BLOCKS);
	REQUIRE_EQ(save(plan, chain), 0);

	/* As many jobs as were asked for, and no more. */
	REQUIRE_EQ(match(chain, refs).matched, BLOCKS);
	REQUIRE_EQ(load_begin(plan, refs, &job), BLOCKS);
	REQUIRE_EQ(load_begin(plan, refs, &other), BLOCKS);
	REQUIRE_EQ(load_begin(plan, refs, &(struct skep_gpu_job *){NULL}), -EAGAIN);
	skep_gpu_abort(job);
	REQUIRE_EQ(load_begin(plan, refs, &job), BLOCKS);
	REQUIRE_EQ(skep_gpu_end(job, NULL, 0), BLOCKS);
	/* The other is under way when the plan goes. */
	skep_gpu_plan_destroy(plan);

	tensors.heads = 2; /* parts twice as long as the space's */
	tensors.head_bytes = TOKEN_BYTES;
	REQUIRE_EQ(skep_gpu_part(&tensors, &part), 0);
	REQUIRE_EQ(part.bytes, 2 * PART_BYTES);
	REQUIRE_EQ(skep_gpu_plan_create(gpu, space, &tensors, &plan), 0);
	REQUIRE_EQ(load_begin(plan, refs, &job), -EINVAL);
	skep_chain_destroy(chain);
	chain = chain_of(2);
	REQUIRE_EQ(save_begin(plan, chain, &job), -EINVAL);
	skep_gpu_plan_destroy(plan);
	tensors.ranges = 7;
	REQUIRE_EQ(skep_gpu_plan_create(gpu, space, &tensors, &plan), -EINVAL);
	tensors.head_bytes = 1u << 30;
	REQUIRE_EQ(skep_gpu_part(&tensors, &part), -E2BIG);
	skep_chain_destroy(chain);
	device_close(gpu);
}

int main(void)
{
	struct skep_gpu_tensors tensors = tensors_of(keys[0], (uint64_t[LAYERS * 2]){0});
	struct skep_part_layout part = {0};
	struct skep_space_options options = {.struct_bytes = sizeof(options),
		.name = "tensors",
		.model = "model",
		.block_tokens = BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part};

	REQUIRE_EQ(skep_gpu_part(&tensors, &part), 0);
	REQUIRE_EQ(part.bytes, PART_BYTES);
	REQUIRE_EQ(part.ranges, LAYERS);
	for (size_t i = 0; i < sizeof(keys); i++)
		((unsigned char *)keys)[i] = (unsigned char)mix64(i);
	REQUIRE_EQ(skep_open("embedded:dram=64MiB,realm=unit", NULL, &session), 0);
	REQUIRE_EQ(skep_space_open(session, &options, &space), 0);
	malformed_is_refused();
	each_failure_leaves_nothing(0);
	each_failure_leaves_nothing(2);
	skep_close(session);
	return 0;
}
