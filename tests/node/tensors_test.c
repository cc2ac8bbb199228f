/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libskep-gpu on CPU tensors against a running daemon: a prefix saved from one process's tensors is
 * loaded into those of another, which lie otherwise, byte for byte; a byte turned over in the pool
 * is reported for that block alone; an aborted save and a writer killed in mid-save leave nothing
 * that is matched; a load under way outlives the daemon, and its pool goes when the last job has
 * ended. Parts go straight between pool and tensors; through the ring, the pool being registered in
 * the background; and through page-locked memory, nothing being registered.
 */
#include <errno.h>
#include <signal.h>
#include <skep/skep_gpu.h>

#include "tests/node/user.h"

enum {
	LAYERS = 3,
	KINDS = 2,
	HEADS = 2,
	HEAD_BYTES = 160,
	BLOCK_TOKENS = 16,
	PART_BYTES = LAYERS * KINDS * BLOCK_TOKENS * HEADS * HEAD_BYTES,
	BLOCKS = 21,
	JOB_BLOCKS = 8, /* so that a prefix takes several jobs */
	TOKENS = BLOCKS * BLOCK_TOKENS,
	WRONG = 11,
	POISON = 0xa5,
	DRAM_BYTES = 16 << 20,
	CHUNKS = 4,
	PAGES_MAX = TOKENS + 2,

	TOLD_SAVED = 1,
	TOLD_LOADED,
	TOLD_FLIPPED,
	TOLD_BEGUN,
	TOLD_KILLED,
	TOLD_STARTED,
};

/* How parts pass between pool and tensors. */
enum road { WHERE_THEY_LIE, REGISTERED, STAGED, ROADS };

/* How one engine keeps its tensors. */
struct engine {
	struct skep *session;
	struct skep_space *space;
	struct skep_gpu *gpu;
	struct skep_gpu_plan *plan;
	struct skep_gpu_tensors tensors;
	uint64_t bases[LAYERS * KINDS];
	unsigned char *memory;
	size_t bytes;
	uint32_t pages[PAGES_MAX];
	uint32_t first_slot;
};

/* What a process is told at its start. */
struct told {
	char socket[128];
	uint32_t order;
	enum road road;
	uint64_t story;
};

/* Byte @at of an element is a function of the prompt and of what it is the K or V of. */
static unsigned char byte_of(uint64_t story, uint32_t plane, uint32_t token, uint32_t at)
{
	return (unsigned char)mix64(mix64(story * 64 + plane) + token * 4096 + at);
}

static unsigned char *element(
	const struct engine *engine, uint32_t plane, uint32_t token, uint32_t head)
{
	uint32_t slot = engine->first_slot + token;
	uint64_t page = engine->pages[slot / engine->tensors.page_tokens];

	return (unsigned char *)(uintptr_t)engine->bases[plane] +
	       page * engine->tensors.page_stride +
	       slot % engine->tensors.page_tokens * engine->tensors.token_stride +
	       head * engine->tensors.head_stride;
}

static void shuffle(uint32_t *numbers, uint32_t count, uint64_t salt)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t j = (uint32_t)(mix64(salt + i) % (i + 1));

		numbers[i] = numbers[j];
		numbers[j] = i;
	}
}

/*
 * A writer keeps pages of 16 tokens, tokens before heads, K and V apart. A reader has pages of 24,
 * heads before tokens, K and V in one tensor, and begins in the middle of a page.
 */
static void engine_shape(struct engine *engine, const struct told *told, bool reader)
{
	struct skep_gpu_tensors *tensors = &engine->tensors;
	uint64_t inner, kind_stride;

	*tensors = (struct skep_gpu_tensors){.struct_bytes = sizeof(*tensors),
		.order = told->order,
		.layers = LAYERS,
		.kinds = KINDS,
		.block_tokens = BLOCK_TOKENS,
		.heads = HEADS,
		.head_bytes = HEAD_BYTES,
		.page_tokens = reader ? 24 : 16,
		.blocks_max = JOB_BLOCKS,
		.bases = engine->bases};
	engine->first_slot = reader ? 5 : 0;
	tensors->page_count = (engine->first_slot + TOKENS) / tensors->page_tokens + 1;
	tensors->head_stride = reader ? tensors->page_tokens * HEAD_BYTES : HEAD_BYTES;
	tensors->token_stride = reader ? HEAD_BYTES : HEADS * HEAD_BYTES;
	inner = tensors->page_tokens * HEADS * HEAD_BYTES;
	tensors->page_stride = reader ? 2 * inner : inner;
	kind_stride = reader ? inner : inner * tensors->page_count;
	engine->bytes = LAYERS * 2 * inner * tensors->page_count;
	engine->memory = malloc(engine->bytes);
	REQUIRE(engine->memory != NULL);
	for (uint32_t i = 0; i < LAYERS * KINDS; i++)
		engine->bases[i] = (uint64_t)(uintptr_t)engine->memory +
				   i / 2 * 2 * inner * tensors->page_count + i % 2 * kind_stride;
	shuffle(engine->pages, tensors->page_count, told->story);
}

static void engine_open(struct engine *engine, const struct told *told, bool reader)
{
	struct skep_gpu_options options = {.struct_bytes = sizeof(options),
		.kind = SKEP_GPU_HOST,
		.ring_slots = told->road == WHERE_THEY_LIE ? 0 : 2,
		.ring_parts = 3,
		.flags = told->road == STAGED ? SKEP_GPU_UNREGISTERED : 0};
	struct skep_part_layout part = {0};
	struct skep_space_options space = {.struct_bytes = sizeof(space),
		.name = told->order ? "token-major" : "layer-major",
		.model = "tensors",
		.block_tokens = BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part};

	memset(engine, 0, sizeof(*engine));
	engine_shape(engine, told, reader);
	REQUIRE_EQ(skep_gpu_part(&engine->tensors, &part), 0);
	REQUIRE_EQ(part.bytes, PART_BYTES);
	REQUIRE_EQ(part.ranges, told->order == SKEP_GPU_LAYER_MAJOR ? LAYERS : 1);
	REQUIRE_EQ(skep_open(told->socket, NULL, &engine->session), 0);
	REQUIRE_EQ(skep_space_open(engine->session, &space, &engine->space), 0);
	REQUIRE_EQ(skep_gpu_open(engine->session, &options, &engine->gpu), 0);
	REQUIRE_EQ(
		skep_gpu_plan_create(engine->gpu, engine->space, &engine->tensors, &engine->plan),
		0);
}

static void engine_close(struct engine *engine)
{
	skep_gpu_plan_destroy(engine->plan);
	skep_gpu_close(engine->gpu);
	skep_close(engine->session);
	free(engine->memory);
}

static struct skep_chain *chain_of(struct engine *engine, uint64_t story)
{
	struct skep_chain *chain;
	uint32_t tokens[TOKENS];

	for (uint32_t i = 0; i < TOKENS; i++)
		tokens[i] = (uint32_t)(story * 100000 + i);
	REQUIRE_EQ(skep_chain_create(engine->space, &chain), 0);
	REQUIRE_EQ(skep_chain_append(chain, tokens, TOKENS), BLOCKS);
	return chain;
}

static void compute(struct engine *engine, uint64_t story)
{
	memset(engine->memory, POISON, engine->bytes);
	for (uint32_t plane = 0; plane < LAYERS * KINDS; plane++)
		for (uint32_t token = 0; token < TOKENS; token++)
			for (uint32_t i = 0; i < HEADS * HEAD_BYTES; i++)
				element(engine, plane, token, i / HEAD_BYTES)[i % HEAD_BYTES] =
					byte_of(story, plane, token, i);
}

/* Where block @block and those after it lie in this engine's pages. */
static struct skep_gpu_pages pages_from(const struct engine *engine, uint32_t block)
{
	uint32_t slot = engine->first_slot + block * BLOCK_TOKENS;
	uint32_t page = slot / engine->tensors.page_tokens;

	return (struct skep_gpu_pages){.numbers = engine->pages + page,
		.count = engine->tensors.page_count - page,
		.first_slot = slot % engine->tensors.page_tokens};
}

/* Begins to save from block @first on. */
static int save_begin(
	struct engine *engine, struct skep_chain *chain, uint32_t first, struct skep_gpu_job **job)
{
	struct skep_gpu_save save = {.struct_bytes = sizeof(save),
		.chain = chain,
		.first = first,
		.count = BLOCKS - first,
		.pages = pages_from(engine, first),
		.deadline_ns = skep_deadline_ms(1000)};

	return skep_gpu_save_begin(engine->plan, &save, job);
}

/* Saves all of it; every block ends with @status. */
static void save_all(struct engine *engine, struct skep_chain *chain, int status)
{
	uint32_t done = 0;

	while (done < BLOCKS) {
		int32_t statuses[BLOCKS];
		struct skep_gpu_job *job;
		int got = save_begin(engine, chain, done, &job);

		REQUIRE(got > 0 && got <= JOB_BLOCKS);
		while (!skep_gpu_done(job))
			sleep_ms(1);
		REQUIRE_EQ(skep_gpu_end(job, statuses, skep_deadline_ms(1000)), status ? 0 : got);
		for (int i = 0; i < got; i++)
			REQUIRE_EQ(statuses[i], status);
		done += (uint32_t)got;
	}
}

static uint32_t match(struct engine *engine, struct skep_chain *chain, struct skep_ref *refs)
{
	struct skep_match asked = {.struct_bytes = sizeof(asked),
		.chain = chain,
		.flags = SKEP_MATCH_PEEK,
		.refs = refs,
		.refs_max = BLOCKS};

	REQUIRE_EQ(skep_match(engine->session, &asked, 1), 0);
	return asked.matched;
}

/*
 * Loads all of it; blocks end with 0, block @bad with SKEP_ECHECKSUM. All jobs are under way before
 * one ends: with a bad block those below it leave.
 */
static void load_all(struct engine *engine, const struct skep_ref *refs, uint32_t bad)
{
	struct skep_gpu_job *jobs[BLOCKS];
	int got[BLOCKS];
	uint32_t done = 0, count = 0;

	memset(engine->memory, POISON, engine->bytes);
	while (done < BLOCKS) {
		struct skep_gpu_load load = {.struct_bytes = sizeof(load),
			.refs = refs + done,
			.count = BLOCKS - done,
			.pages = pages_from(engine, done)};

		got[count] = skep_gpu_load_begin(engine->plan, &load, &jobs[count]);
		REQUIRE(got[count] > 0 && got[count] <= JOB_BLOCKS);
		done += (uint32_t)got[count++];
	}
	done = 0;
	for (uint32_t job = 0; job < count; job++) {
		int32_t statuses[BLOCKS];
		bool here = bad >= done && bad < done + (uint32_t)got[job];

		REQUIRE_EQ(skep_gpu_end(jobs[job], statuses, 0), got[job] - here);
		for (int i = 0; i < got[job]; i++)
			REQUIRE_EQ(statuses[i], done + (uint32_t)i == bad ? SKEP_ECHECKSUM : 0);
		done += (uint32_t)got[job];
	}
}

/* Every byte of the tensors but those of block @bad: the prompt's, and elsewhere poison. */
static void tensors_check(struct engine *engine, uint64_t story, uint32_t bad)
{
	size_t wrong = 0;

	for (uint32_t plane = 0; plane < LAYERS * KINDS; plane++)
		for (uint32_t token = 0; token < TOKENS; token++)
			for (uint32_t i = 0; i < HEADS * HEAD_BYTES; i++) {
				unsigned char *at = element(engine, plane, token, i / HEAD_BYTES) +
						    i % HEAD_BYTES;

				wrong += token / BLOCK_TOKENS != bad &&
					 *at != byte_of(story, plane, token, i);
				*at = POISON;
			}
	for (size_t i = 0; i < engine->bytes; i++)
		wrong += engine->memory[i] != POISON;
	REQUIRE_EQ(wrong, 0);
}

static struct skep_gpu_stats stats_of(struct engine *engine)
{
	struct skep_gpu_stats stats = {.struct_bytes = sizeof(stats)};

	REQUIRE_EQ(skep_gpu_stats(engine->gpu, &stats), 0);
	return stats;
}

/* Parts went the way they should; of those of a device that registers some may have been early. */
static void roads_check(struct engine *engine, enum road road)
{
	struct skep_gpu_stats stats = stats_of(engine);

	REQUIRE(!stats.parts_direct || road == REGISTERED);
	REQUIRE(!stats.parts_staged || road != WHERE_THEY_LIE);
	REQUIRE(stats.parts_direct + stats.parts_staged > 0 || road == WHERE_THEY_LIE);
	REQUIRE_EQ(stats.chunks_refused, 0);
}

static void await_registered(struct engine *engine, uint32_t chunks, uint64_t span_ns)
{
	uint64_t until_ns = clock_ns() + span_ns * harness_slower();
	struct skep_gpu_stats stats;

	do {
		REQUIRE(clock_ns() < until_ns);
		sleep_ms(1);
		stats = stats_of(engine);
	} while (stats.chunks_registered != chunks || stats.chunks_waiting);
}

/* ---------------------------------------------------------------------------------- processes */

static void writer(int line, const void *arg)
{
	const struct told *told = arg;
	struct skep_gpu_job *job;
	struct skep_ref refs[BLOCKS];
	struct skep_chain *chain;
	struct engine engine;
	struct note note = {.what = TOLD_SAVED};

	engine_open(&engine, told, false);
	chain = chain_of(&engine, told->story);
	compute(&engine, told->story);
	/* What is aborted is not there, and can be saved again. */
	REQUIRE(save_begin(&engine, chain, 0, &job) > 0);
	skep_gpu_abort(job);
	REQUIRE_EQ(match(&engine, chain, refs), 0);
	save_all(&engine, chain, 0);
	save_all(&engine, chain, -EEXIST);
	REQUIRE_EQ(match(&engine, chain, refs), BLOCKS);
	REQUIRE_EQ(skep_chain_id(chain, WRONG, (uint8_t *)note.words), 0);
	roads_check(&engine, told->road);
	skep_chain_destroy(chain);
	engine_close(&engine);
	note_tell(line, note);
}

/* Loads right bytes; then, when one was turned over, finds out which block it is. */
static void reader(int line, const void *arg)
{
	const struct told *told = arg;
	struct skep_ref refs[BLOCKS];
	struct skep_stats stats = {.struct_bytes = sizeof(stats)};
	struct skep_chain *chain;
	struct engine engine;
	struct note note = {.what = TOLD_LOADED};
	uint64_t until_ns, before;

	engine_open(&engine, told, true);
	chain = chain_of(&engine, told->story);
	REQUIRE_EQ(match(&engine, chain, refs), BLOCKS);
	load_all(&engine, refs, UINT32_MAX);
	tensors_check(&engine, told->story, UINT32_MAX);
	REQUIRE_EQ(skep_stats(engine.session, skep_deadline_ms(1000), &stats), 0);
	before = stats.checksum_failures;
	note_tell(line, note);
	REQUIRE_EQ(note_hear(line).what, TOLD_FLIPPED);
	load_all(&engine, refs, WRONG);
	tensors_check(&engine, told->story, WRONG);
	until_ns = clock_ns() + NS_PER_S * harness_slower();
	while (match(&engine, chain, refs) != WRONG)
		REQUIRE(clock_ns() < until_ns);
	REQUIRE_EQ(skep_stats(engine.session, skep_deadline_ms(1000), &stats), 0);
	REQUIRE_EQ(stats.checksum_failures - before, 1);
	roads_check(&engine, told->road);
	skep_chain_destroy(chain);
	engine_close(&engine);
}

/* Begins and is killed. */
static void doomed(int line, const void *arg)
{
	const struct told *told = arg;
	struct note note = {.what = TOLD_BEGUN};
	struct skep_gpu_job *job;
	struct engine engine;

	engine_open(&engine, told, false);
	compute(&engine, told->story);
	REQUIRE(save_begin(&engine, chain_of(&engine, told->story), 0, &job) > 0);
	note_tell(line, note);
	for (;;)
		sleep_ms(1000);
}

/* Nothing of a killed writer is there; another one saves the same blocks. */
static void heir(int line, const void *arg)
{
	const struct told *told = arg;
	struct skep_ref refs[BLOCKS];
	struct skep_chain *chain;
	struct engine engine;
	struct skep_gpu_job *job;
	uint64_t until_ns = clock_ns() + 5 * NS_PER_S * harness_slower();
	int got;

	engine_open(&engine, told, false);
	chain = chain_of(&engine, told->story);
	REQUIRE_EQ(match(&engine, chain, refs), 0);
	compute(&engine, told->story);
	/* Until the daemon has seen the process end, its reservations stand. */
	do {
		int32_t statuses[BLOCKS];

		REQUIRE(clock_ns() < until_ns);
		got = save_begin(&engine, chain, 0, &job);
		REQUIRE(got > 0);
		got = skep_gpu_end(job, statuses, skep_deadline_ms(1000));
		REQUIRE(got >= 0);
		REQUIRE(got > 0 || statuses[0] == SKEP_EPENDING);
	} while (!got);
	REQUIRE_EQ(match(&engine, chain, refs), got);
	skep_chain_destroy(chain);
	engine_close(&engine);
	note_tell(line, (struct note){.what = TOLD_SAVED});
}

/*
 * The daemon is killed, and another one started, while blocks are being loaded: they are right all
 * the same, and the old pool goes when the jobs have ended.
 */
static void survivor(int line, const void *arg)
{
	const struct told *told = arg;
	struct skep_gpu_job *load_job, *save_job;
	int32_t statuses[BLOCKS];
	struct skep_ref refs[BLOCKS];
	struct skep_chain *chain, *fresh;
	struct skep_gpu_load load = {
		.struct_bytes = sizeof(load), .refs = refs, .count = JOB_BLOCKS};
	struct engine engine, other;
	uint64_t until_ns;
	int got;

	engine_open(&engine, told, false);
	engine_open(&other, told, false);
	chain = chain_of(&engine, told->story);
	fresh = chain_of(&other, told->story + 1);
	compute(&engine, told->story);
	compute(&other, told->story + 1);
	save_all(&engine, chain, 0);
	if (told->road == REGISTERED)
		await_registered(&engine, CHUNKS, 5 * NS_PER_S);
	REQUIRE_EQ(match(&engine, chain, refs), BLOCKS);
	load.pages = pages_from(&engine, 0);
	memset(engine.memory, POISON, engine.bytes);
	REQUIRE_EQ(skep_gpu_load_begin(engine.plan, &load, &load_job), JOB_BLOCKS);
	got = save_begin(&other, fresh, 0, &save_job);
	REQUIRE(got > 0);
	note_tell(line, (struct note){.what = TOLD_BEGUN});
	REQUIRE_EQ(note_hear(line).what, TOLD_KILLED);
	note_tell(line, (struct note){.what = TOLD_KILLED});
	REQUIRE_EQ(note_hear(line).what, TOLD_STARTED);
	if (told->road == REGISTERED)
		await_registered(&engine, 2 * CHUNKS, 5 * NS_PER_S);
	REQUIRE_EQ(skep_gpu_end(load_job, statuses, 0), JOB_BLOCKS);
	for (uint32_t token = 0; token < JOB_BLOCKS * BLOCK_TOKENS; token++)
		for (uint32_t i = 0; i < HEADS * HEAD_BYTES; i++)
			REQUIRE_EQ(element(&engine, 1, token, i / HEAD_BYTES)[i % HEAD_BYTES],
				byte_of(told->story, 1, token, i));
	/* What was not committed before is not committed now, and the call comes back. */
	REQUIRE(skep_gpu_end(save_job, statuses, skep_deadline_ms(200)) <= 0);
	for (int i = 0; i < got; i++)
		REQUIRE(statuses[i] < 0);
	REQUIRE_EQ(match(&other, fresh, refs), 0);
	if (told->road == REGISTERED)
		await_registered(&engine, CHUNKS, 2 * NS_PER_S);
	/* In the new pool all is as it was in the old one. */
	until_ns = clock_ns() + 5 * NS_PER_S * harness_slower();
	while (skep_attached(engine.session) != 1)
		REQUIRE(clock_ns() < until_ns);
	compute(&engine, told->story);
	save_all(&engine, chain, 0);
	REQUIRE_EQ(match(&engine, chain, refs), BLOCKS);
	load_all(&engine, refs, UINT32_MAX);
	tensors_check(&engine, told->story, UINT32_MAX);
	roads_check(&engine, told->road);
	skep_chain_destroy(chain);
	skep_chain_destroy(fresh);
	engine_close(&engine);
	engine_close(&other);
}

static void one_order(struct daemon *daemon, struct told told)
{
	struct daemon_flip flip = {.offset = unit_random(&harness_seed, PART_BYTES)};
	struct child write, read, kill, after;
	struct note note;

	child_start(&write, "the writer", writer, &told);
	note = note_hear(write.line);
	REQUIRE_EQ(note.what, TOLD_SAVED);
	child_finish(&write);
	child_start(&read, "the reader", reader, &told);
	REQUIRE_EQ(note_hear(read.line).what, TOLD_LOADED);
	flip.id_low = note.words[0];
	flip.id_high = note.words[1];
	REQUIRE_EQ(daemon_flip(daemon, flip), 0);
	note_tell(read.line, (struct note){.what = TOLD_FLIPPED});
	child_finish(&read);

	told.story += 100;
	child_start(&kill, "the doomed writer", doomed, &told);
	REQUIRE_EQ(note_hear(kill.line).what, TOLD_BEGUN);
	child_kill(&kill);
	child_start(&after, "the heir", heir, &told);
	REQUIRE_EQ(note_hear(after.line).what, TOLD_SAVED);
	child_finish(&after);
}

static void daemon_dies(struct daemon *daemon, enum road road)
{
	struct told told = {.order = SKEP_GPU_LAYER_MAJOR, .road = road, .story = 900 + 10 * road};
	struct child child;

	snprintf(told.socket, sizeof(told.socket), "%s", daemon->config.socket_path);
	child_start(&child, "the survivor", survivor, &told);
	REQUIRE_EQ(note_hear(child.line).what, TOLD_BEGUN);
	daemon_kill(daemon);
	note_tell(child.line, (struct note){.what = TOLD_KILLED});
	REQUIRE_EQ(note_hear(child.line).what, TOLD_KILLED);
	daemon_start(daemon);
	note_tell(child.line, (struct note){.what = TOLD_STARTED});
	child_finish(&child);
}

int main(int argc, char **argv)
{
	struct realm_status realm;
	struct daemon daemon;

	harness_begin(&(struct harness_options){argc, argv, 50, 0});
	daemon_init(&daemon, (struct daemon_size){DRAM_BYTES, 4096});
	daemon.config.chunk_bytes = DRAM_BYTES / CHUNKS;
	daemon_start(&daemon);
	for (uint32_t i = 0; i < 2 * ROADS; i++) {
		struct told told = {.order = i % 2 ? SKEP_GPU_TOKEN_MAJOR : SKEP_GPU_LAYER_MAJOR,
			.road = (enum road)(i / 2),
			.story = i + 1};

		snprintf(told.socket, sizeof(told.socket), "%s", daemon.config.socket_path);
		one_order(&daemon, told);
	}
	daemon_realm(&daemon, 0, &realm);
	REQUIRE_EQ(realm.counters[REALM_COUNTER_blocks_quarantined], 2 * ROADS);
	for (uint32_t road = 0; road < ROADS; road++)
		daemon_dies(&daemon, (enum road)road);
	daemon_stop(&daemon);
	return 0;
}
