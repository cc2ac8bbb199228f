/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/replay_client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "engine/include/skep/skep.h"
#include "kernels/checksum.h"
#include "tools/skep/payload.h"

/* What a client works with beside its tally. */
struct work {
	struct replay_run *run;
	struct replay_tally *tally;
	struct skep *session;
	struct skep_space *space;
	struct skep_chain *chain;
	uint32_t blocks_max; /* of a request */
	struct skep_ref *refs;
	struct skep_frame *frames;
	uint64_t *sums;
	unsigned char *scratch; /* one payload: it stays in the cache, frames do not */
};

void replay_tally_add(struct replay_tally *to, const struct replay_tally *from)
{
	to->requests += from->requests;
	to->blocks += from->blocks;
	to->hit_blocks += from->hit_blocks;
	to->ssd_blocks += from->ssd_blocks;
	to->lost_blocks += from->lost_blocks;
	to->wrong_blocks += from->wrong_blocks;
	to->failed_gets += from->failed_gets;
	to->put_blocks += from->put_blocks;
	to->existing_blocks += from->existing_blocks;
	to->refused_puts += from->refused_puts;
	if (from->last_refusal)
		to->last_refusal = from->last_refusal;
	histogram_merge(&to->hash_ns, &from->hash_ns);
	histogram_merge(&to->match_ns, &from->match_ns);
	histogram_merge(&to->get_ns, &from->get_ns);
	histogram_merge(&to->put_ns, &from->put_ns);
	to->ended_ns = MAX_OF(to->ended_ns, from->ended_ns);
}

/* --- one request ---------------------------------------------------------------------------- */

static const struct trace_node *request_node(
	const struct work *work, const struct trace_request *request, uint32_t block)
{
	const struct trace *trace = work->run->trace;

	SKEP_CHECK(block < request->block_count);
	return &trace->nodes[trace->blocks[request->first_block + block]];
}

/* The payload of a block speaks for its whole prefix, as its id does, but by another hash. */
static struct payload request_payload(
	const struct work *work, const struct trace_request *request, uint32_t block)
{
	return payload_of(request_node(work, request, block)->identity, 0);
}

static int chain_fill(struct work *work, const struct trace_request *request)
{
	uint32_t tokens[TRACE_BLOCK_TOKENS];

	skep_chain_truncate(work->chain, 0);
	for (uint32_t i = 0; i < request->block_count; i++) {
		int status;

		trace_block_tokens(request_node(work, request, i)->hash_id, tokens);
		status = skep_chain_append(work->chain, tokens, TRACE_BLOCK_TOKENS);
		if (status < 0)
			return status;
	}
	return 0;
}

/* Looks at every byte of a run where it lies: blocks [from, to), whose references are there. */
static void hits_check(
	struct work *work, const struct trace_request *request, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++) {
		struct payload_range whole = {.offset = 0, .bytes = work->run->payload_bytes};
		struct skep_view view;

		if (skep_view(work->session, &work->refs[i], 0, &view) ||
			view.length != whole.bytes) {
			work->tally->failed_gets++;
			continue;
		}
		if (payload_check(request_payload(work, request, i), whole, view.bytes) !=
			PAYLOAD_RIGHT)
			work->tally->wrong_blocks++;
	}
}

/* Brings what the ssd holds of the request; *@had grows, *@pin becomes the pin of the last run. */
static int hits_load(struct work *work, const struct trace_request *request, uint32_t stored,
	uint32_t *had, struct skep_pin *pin)
{
	while (*had < stored) {
		struct skep_load load = {
			.struct_bytes = sizeof(load),
			.chain = work->chain,
			.first = *had,
			.count = stored - *had,
			.refs = work->refs + *had,
			.refs_max = stored - *had,
			.deadline_ns = SKEP_FOREVER,
		};
		int status = skep_load(work->session, &load);

		if (status < 0 || !load.loaded) {
			/* What left between match and load is a miss; the rest is a failure. */
			work->tally->failed_gets += status < 0;
			return status == SKEP_EDOWN ? status : 0;
		}
		hits_check(work, request, *had, *had + load.loaded);
		skep_release(work->session, pin);
		*pin = load.pin;
		*had += load.loaded;
		work->tally->ssd_blocks += load.loaded;
	}
	return 0;
}

/* Blocks from @had on are missing: those that were acknowledged must have been evicted. */
static int lost_count(struct work *work, const struct trace_request *request, uint32_t had)
{
	struct skep_explanation why = {.struct_bytes = sizeof(why)};
	uint64_t acknowledged = 0;
	const char *reason;
	int status;

	for (uint32_t i = had; i < request->block_count; i++)
		acknowledged += atomic_load_explicit(
			&work->run->acknowledged[request_node(work, request, i) -
						 work->run->trace->nodes],
			memory_order_acquire);
	if (!acknowledged)
		return 0;
	status = skep_explain(work->session, work->chain, SKEP_FOREVER, &why);
	if (status)
		return status;
	reason = skep_reason_text(why.reason);
	/* With several clients another one may have put it back meanwhile. */
	if (why.matched <= had && strcmp(reason, "evicted") && strcmp(reason, "none") &&
		strcmp(reason, "pending"))
		work->tally->lost_blocks += acknowledged;
	return 0;
}

/*
 * Writes and sums what was reserved, in one pass over each frame. Moves the frames to be committed
 * to the front; returns how many they are.
 */
static unsigned frames_write(
	struct work *work, const struct trace_request *request, unsigned answered)
{
	struct payload_range whole = {.offset = 0, .bytes = work->run->payload_bytes};
	unsigned ready = 0;

	for (unsigned i = 0; i < answered; i++) {
		struct skep_frame *frame = &work->frames[i];

		if (frame->status == -EEXIST || frame->status == SKEP_EPENDING) {
			work->tally->existing_blocks++;
			continue;
		}
		if (frame->status) {
			work->tally->refused_puts++;
			work->tally->last_refusal = frame->status;
			continue;
		}
		SKEP_CHECK(frame->length == whole.bytes);
		payload_fill(request_payload(work, request, frame->block), whole, work->scratch);
		/* Nobody reads the frame soon, so it need not pass through the cache. */
		work->sums[ready] = checksum_copy_as(
			CHECKSUM_STORES_BYPASS, frame->bytes, work->scratch, whole.bytes);
		work->frames[ready++] = *frame;
	}
	return ready;
}

static uint64_t put_deadline(const struct work *work)
{
	return clock_after(clock_ns(), work->run->put_wait_ns);
}

static void acknowledge(
	struct work *work, const struct trace_request *request, const struct skep_frame *frame)
{
	if (work->run->acknowledged)
		atomic_store_explicit(
			&work->run->acknowledged[request_node(work, request, frame->block) -
						 work->run->trace->nodes],
			1, memory_order_release);
}

static int frames_commit(struct work *work, const struct trace_request *request, unsigned count)
{
	struct skep_commit commit = {
		.struct_bytes = sizeof(commit),
		.sums = SKEP_SUMS_GIVEN,
		.given = work->sums,
		.deadline_ns = put_deadline(work),
	};
	int status = skep_commit(work->session, work->frames, count, &commit);

	if (status < 0) {
		work->tally->refused_puts += count;
		work->tally->last_refusal = status;
		return status;
	}
	for (unsigned i = 0; i < count; i++) {
		if (work->frames[i].status == 0) {
			work->tally->put_blocks++;
			acknowledge(work, request, &work->frames[i]);
			continue;
		}
		work->tally->refused_puts++;
		work->tally->last_refusal = work->frames[i].status;
	}
	return 0;
}

/*
 * Puts the blocks from @first on. Frames may be had for a leading part alone; that part is
 * committed before more is asked for, so that no client holds frames while it waits for others.
 */
static int blocks_put(struct work *work, const struct trace_request *request, uint32_t first)
{
	while (first < request->block_count) {
		struct skep_reserve reserve = {
			.struct_bytes = sizeof(reserve),
			.chain = work->chain,
			.first = first,
			.count = request->block_count - first,
			.deadline_ns = put_deadline(work),
		};
		int answered = skep_reserve(work->session, &reserve, work->frames);
		unsigned ready;
		int status;

		if (answered < 0) {
			work->tally->refused_puts += reserve.count;
			work->tally->last_refusal = answered;
			return answered;
		}
		SKEP_CHECK(answered > 0 && (uint32_t)answered <= reserve.count);
		ready = frames_write(work, request, (unsigned)answered);
		status = ready ? frames_commit(work, request, ready) : 0;
		if (status)
			return status;
		first += (uint32_t)answered;
	}
	return 0;
}

/* Adds the time since *@mark_ns to @histogram and moves the mark. */
static void lap(struct histogram *histogram, uint64_t *mark_ns)
{
	uint64_t now_ns = clock_ns();

	histogram_add(histogram, now_ns - *mark_ns);
	*mark_ns = now_ns;
}

/*
 * The pin is held until the rest was put: the deepest block had is the parent of the first one put,
 * and must not leave in between for another client's blocks.
 */
static int request_run(struct work *work, const struct trace_request *request)
{
	struct replay_tally *tally = work->tally;
	struct skep_match match = {
		.struct_bytes = sizeof(match),
		.chain = work->chain,
		.flags = SKEP_MATCH_PIN,
		.refs_max = request->block_count,
		.refs = work->refs,
	};
	uint64_t mark_ns = clock_ns();
	uint32_t had;
	int status;

	tally->requests++;
	if (request->block_count == 0)
		return 0;
	status = chain_fill(work, request);
	if (status)
		return status;
	lap(&tally->hash_ns, &mark_ns);
	status = skep_match(work->session, &match, 1);
	if (status)
		return status;
	lap(&tally->match_ns, &mark_ns);
	SKEP_CHECK(match.matched <= request->block_count);
	tally->blocks += request->block_count;
	had = match.matched;
	hits_check(work, request, 0, had);
	status = hits_load(work, request, match.stored, &had, &match.pin);
	tally->hit_blocks += had;
	if (had)
		lap(&tally->get_ns, &mark_ns);
	if (!status && work->run->acknowledged && had < request->block_count)
		status = lost_count(work, request, had);
	if (!status && had < request->block_count) {
		status = blocks_put(work, request, had);
		lap(&tally->put_ns, &mark_ns);
	}
	skep_release(work->session, &match.pin);
	return status;
}

/* --- one client ----------------------------------------------------------------------------- */

static void work_close(struct work *work)
{
	skep_chain_destroy(work->chain);
	skep_space_close(work->space);
	skep_close(work->session);
	memory_free(work->refs);
	memory_free(work->frames);
	memory_free(work->sums);
	memory_free(work->scratch);
}

static int space_open(struct work *work)
{
	char name[48];
	struct skep_part_layout part = {.bytes = work->run->payload_bytes};
	struct skep_space_options options = {
		.struct_bytes = sizeof(options),
		.name = name,
		.model = "a trace",
		.layout = "payload bytes by identity",
		.block_tokens = TRACE_BLOCK_TOKENS,
		.part_count = 1,
		.parts = &part,
	};

	/* The size is in the name: a daemon may be replayed against with several. */
	snprintf(name, sizeof(name), "replay-%llu", (unsigned long long)part.bytes);
	return skep_space_open(work->session, &options, &work->space);
}

static int work_open(struct work *work)
{
	struct skep_open_options options = {
		.struct_bytes = sizeof(options),
		.name = "skep replay",
	};
	int status;

	for (size_t r = 0; r < work->run->trace->request_count; r++)
		work->blocks_max =
			MAX_OF(work->blocks_max, work->run->trace->requests[r].block_count);
	work->refs = memory_calloc(work->blocks_max, sizeof(*work->refs));
	work->frames = memory_calloc(work->blocks_max, sizeof(*work->frames));
	work->sums = memory_calloc(work->blocks_max, sizeof(*work->sums));
	work->scratch = memory_zalloc(work->run->payload_bytes);
	if (!work->refs || !work->frames || !work->sums || !work->scratch)
		return -ENOMEM;
	status = skep_open(work->run->socket, &options, &work->session);
	if (!status)
		status = space_open(work);
	if (!status)
		status = skep_chain_create(work->space, &work->chain);
	return status;
}

/* Waits until the trace's time of a request has come. False: the run was stopped meanwhile. */
static bool request_due(const struct replay_run *run, const struct trace_request *request)
{
	uint64_t first_ms = run->trace->requests[0].timestamp_ms;
	uint64_t due_ns = run->began_ns;

	if (run->speed > 0)
		due_ns += (uint64_t)((double)(request->timestamp_ms - first_ms) * NS_PER_MS /
				     run->speed);
	for (uint64_t now_ns = clock_ns(); now_ns < due_ns; now_ns = clock_ns()) {
		/* In steps, so that an interrupt is obeyed soon. */
		uint64_t step_ns = MIN_OF(due_ns - now_ns, NS_PER_S / 10);

		if (atomic_load_explicit(&run->stop, memory_order_relaxed))
			return false;
		nanosleep(&(struct timespec){.tv_nsec = (long)step_ns}, NULL);
	}
	return true;
}

static int requests_run(struct work *work)
{
	struct replay_run *run = work->run;

	while (!atomic_load_explicit(&run->stop, memory_order_relaxed)) {
		size_t next = atomic_fetch_add_explicit(&run->cursor, 1, memory_order_relaxed);
		const struct trace_request *request;
		int status;

		if (next >= run->trace->request_count)
			break;
		request = &run->trace->requests[next];
		if (!request_due(run, request))
			break;
		status = request_run(work, request);
		/* A refused put is counted and the replay goes on; without a daemon it cannot. */
		if (status == SKEP_EDOWN || !skep_attached(work->session))
			return SKEP_EDOWN;
		if (status == -ENOMEM || status == -EINVAL || status == -EOWNERDEAD)
			return status;
		atomic_fetch_add_explicit(&run->done, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(
			&run->done_blocks, request->block_count, memory_order_relaxed);
	}
	return 0;
}

static void run_fail(struct replay_run *run, int status)
{
	int none = 0;

	atomic_compare_exchange_strong(&run->failure, &none, status);
	atomic_store(&run->stop, true);
}

void *replay_client_thread(void *client_)
{
	struct replay_client *client = client_;
	struct work work = {.run = client->run, .tally = &client->tally};
	int status = work_open(&work);

	if (status)
		run_fail(work.run, status);
	pthread_mutex_lock(&work.run->lock);
	work.run->opened++;
	pthread_cond_broadcast(&work.run->changed);
	while (!work.run->go)
		pthread_cond_wait(&work.run->changed, &work.run->lock);
	pthread_mutex_unlock(&work.run->lock);
	if (!status) {
		status = requests_run(&work);
		if (status)
			run_fail(work.run, status);
	}
	client->tally.ended_ns = clock_ns();
	work_close(&work);
	pthread_mutex_lock(&work.run->lock);
	work.run->ended++;
	pthread_cond_broadcast(&work.run->changed);
	pthread_mutex_unlock(&work.run->lock);
	return NULL;
}
