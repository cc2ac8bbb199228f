/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/workload.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/memory.h"

#define MS_PER_HOUR 3600e3

enum session_kind { SESSION_SINGLE, SESSION_CHAT, SESSION_AGENT };

/* One conversation under way. */
struct session {
	enum session_kind kind;
	uint64_t due_ms;
	uint64_t order;		/* of creation: ties of due_ms are settled by it */
	uint32_t shared_tokens; /* its system prompt */
	uint32_t tokens;	/* the prompt of its next request */
	uint64_t *hash_ids;	/* of the whole blocks it has asked for, and room for one more */
	size_t whole_blocks, room;
};

/* Prompts that many sessions begin with. */
struct prompt_pool {
	uint32_t *tokens;	/* a prompt */
	uint64_t *first_counts; /* a prompt: number of its first block in the counter of blocks */
	unsigned count;
	double weight_sum;
};

struct workload {
	const struct workload_config *config;
	struct trace *trace;
	uint64_t random_state;
	uint64_t block_counter; /* blocks named so far */
	uint64_t session_counter;
	double arrival_ms; /* of the next session */
	struct prompt_pool chat_prompts, agent_prompts;
	struct session **heap; /* sessions that go on, the next due on top */
	size_t heap_count, heap_room;
};

/* --- chance --------------------------------------------------------------------------------- */

static uint64_t random_next(struct workload *work)
{
	work->random_state += 0x9e3779b97f4a7c15u;
	return mix64(work->random_state);
}

/* Evenly in (0, 1): never 0, whose logarithm is asked for. */
static double random_unit(struct workload *work)
{
	return ((double)(random_next(work) >> 11) + 0.5) / 9007199254740992.0;
}

static bool random_chance(struct workload *work, double chance)
{
	return random_unit(work) < chance;
}

static double random_size(struct workload *work, struct workload_size size)
{
	/* Box-Muller: two even numbers make one normal one. */
	double radius = sqrt(-2 * log(random_unit(work)));
	double normal = radius * cos(2 * M_PI * random_unit(work));

	return size.median * exp(size.sigma * normal);
}

/* At least one token, at most the context. */
static uint32_t random_tokens(struct workload *work, struct workload_size size)
{
	double tokens = random_size(work, size);

	return (uint32_t)MAX_OF(1.0, MIN_OF(tokens, (double)work->config->context_tokens));
}

/* --- prompts and sessions ------------------------------------------------------------------- */

/* The name of the n-th block ever made. The seed is in it, so that two workloads share nothing. */
static uint64_t block_name(const struct workload *work, uint64_t counter)
{
	return mix64(mix64(work->config->seed) + counter) >> 1; /* fits a signed number of JSON */
}

static int pool_init(
	struct workload *work, struct prompt_pool *pool, unsigned count, struct workload_size size)
{
	pool->tokens = memory_calloc(count, sizeof(*pool->tokens));
	pool->first_counts = memory_calloc(count, sizeof(*pool->first_counts));
	if (!pool->tokens || !pool->first_counts)
		return -ENOMEM;
	pool->count = count;
	for (unsigned i = 0; i < count; i++) {
		pool->tokens[i] = random_tokens(work, size);
		pool->first_counts[i] = work->block_counter;
		work->block_counter += pool->tokens[i] / TRACE_BLOCK_TOKENS;
		pool->weight_sum += 1.0 / (i + 1);
	}
	return 0;
}

static void pool_free(struct prompt_pool *pool)
{
	memory_free(pool->tokens);
	memory_free(pool->first_counts);
}

static unsigned pool_pick(struct workload *work, const struct prompt_pool *pool)
{
	double left = random_unit(work) * pool->weight_sum;
	unsigned i = 0;

	for (; i + 1 < pool->count; i++) {
		left -= 1.0 / (i + 1);
		if (left < 0)
			break;
	}
	return i;
}

static void session_destroy(struct session *session)
{
	if (!session)
		return;
	memory_free(session->hash_ids);
	memory_free(session);
}

/* Room for @blocks names and one more, the block that is not whole. */
static int session_make_room(struct session *session, size_t blocks)
{
	size_t room = MAX_OF(session->room, 16);
	uint64_t *grown;

	if (blocks + 1 <= session->room)
		return 0;
	while (room < blocks + 1)
		room *= 2;
	grown = memory_realloc(session->hash_ids, room * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	session->hash_ids = grown;
	session->room = room;
	return 0;
}

static struct session *session_create(struct workload *work)
{
	const struct workload_config *config = work->config;
	double draw = random_unit(work);
	bool agent = draw < config->agent_share;
	const struct prompt_pool *pool = agent ? &work->agent_prompts : &work->chat_prompts;
	unsigned prompt = pool_pick(work, pool);
	struct session *session = memory_zalloc(sizeof(*session));

	if (!session)
		return NULL;
	session->kind = agent						    ? SESSION_AGENT
			: draw < config->agent_share + config->single_share ? SESSION_SINGLE
									    : SESSION_CHAT;
	session->order = work->session_counter++;
	session->due_ms = (uint64_t)work->arrival_ms;
	session->shared_tokens = pool->tokens[prompt];
	session->tokens =
		session->shared_tokens +
		random_tokens(work, agent ? config->agent_prompt_tokens : config->prompt_tokens);
	session->tokens = MIN_OF(session->tokens, config->context_tokens);
	if (session_make_room(session, session->shared_tokens / TRACE_BLOCK_TOKENS)) {
		session_destroy(session);
		return NULL;
	}
	for (; session->whole_blocks < session->shared_tokens / TRACE_BLOCK_TOKENS;
		session->whole_blocks++)
		session->hash_ids[session->whole_blocks] =
			block_name(work, pool->first_counts[prompt] + session->whole_blocks);
	return session;
}

/* Goes back to a point after the system prompt: what came after it is forgotten. */
static void session_branch(struct workload *work, struct session *session)
{
	uint32_t own = session->tokens - MIN_OF(session->tokens, session->shared_tokens);

	session->tokens = session->shared_tokens + (uint32_t)(random_unit(work) * own);
	session->whole_blocks =
		MIN_OF(session->whole_blocks, (size_t)session->tokens / TRACE_BLOCK_TOKENS);
}

/* True when the session goes on: its next prompt and its time are set then. */
static bool session_go_on(struct workload *work, struct session *session, uint32_t output_tokens)
{
	const struct workload_config *config = work->config;
	bool agent = session->kind == SESSION_AGENT;
	uint64_t tokens;

	if (session->kind == SESSION_SINGLE ||
		!random_chance(work, agent ? config->agent_step_chance : config->turn_chance))
		return false;
	session->due_ms +=
		(uint64_t)random_size(work, agent ? config->agent_step_ms : config->think_ms);
	if (!agent && random_chance(work, config->branch_chance)) {
		session_branch(work, session);
		output_tokens = 0;
	}
	tokens = (uint64_t)session->tokens + output_tokens +
		 random_tokens(work, agent ? config->agent_result_tokens : config->message_tokens);
	if (tokens > config->context_tokens)
		return false;
	session->tokens = (uint32_t)tokens;
	return true;
}

/* One request. 1 when the session goes on, 0 when it is over, or an error. */
static int session_ask(struct workload *work, struct session *session)
{
	uint32_t output_tokens = random_tokens(work, work->config->output_tokens);
	size_t whole = session->tokens / TRACE_BLOCK_TOKENS;
	size_t count = divide_up(session->tokens, TRACE_BLOCK_TOKENS);
	int status = session_make_room(session, whole);

	if (status)
		return status;
	for (; session->whole_blocks < whole; session->whole_blocks++)
		session->hash_ids[session->whole_blocks] = block_name(work, work->block_counter++);
	if (count > whole)
		session->hash_ids[whole] = block_name(work, work->block_counter++);
	status = trace_add(work->trace,
		&(struct trace_head){.timestamp_ms = session->due_ms,
			.input_tokens = session->tokens,
			.output_tokens = output_tokens},
		session->hash_ids, count);
	if (status)
		return status;
	return session_go_on(work, session, output_tokens);
}

/* --- the sessions under way ----------------------------------------------------------------- */

static bool session_before(const struct session *a, const struct session *b)
{
	return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->order < b->order;
}

static int heap_push(struct workload *work, struct session *session)
{
	size_t at = work->heap_count;

	if (work->heap_count == work->heap_room) {
		size_t room = work->heap_room ? work->heap_room * 2 : 64;
		struct session **grown =
			memory_realloc(work->heap, room * sizeof(struct session *));

		if (!grown)
			return -ENOMEM;
		work->heap = grown;
		work->heap_room = room;
	}
	work->heap_count++;
	for (; at && session_before(session, work->heap[(at - 1) / 2]); at = (at - 1) / 2)
		work->heap[at] = work->heap[(at - 1) / 2];
	work->heap[at] = session;
	return 0;
}

static struct session *heap_pop(struct workload *work)
{
	struct session *top = work->heap[0];
	struct session *last = work->heap[--work->heap_count];
	size_t at = 0;

	for (;;) {
		size_t child = 2 * at + 1;

		if (child + 1 < work->heap_count &&
			session_before(work->heap[child + 1], work->heap[child]))
			child++;
		if (child >= work->heap_count || !session_before(work->heap[child], last))
			break;
		work->heap[at] = work->heap[child];
		at = child;
	}
	work->heap[at] = last;
	return top;
}

/* The session whose request is next: one under way or a new one. NULL for want of memory. */
static struct session *workload_next(struct workload *work)
{
	struct session *session;

	if (work->heap_count && (double)work->heap[0]->due_ms <= work->arrival_ms)
		return heap_pop(work);
	session = session_create(work);
	work->arrival_ms += -log(random_unit(work)) * MS_PER_HOUR / work->config->sessions_an_hour;
	return session;
}

static int workload_run(struct workload *work)
{
	const struct workload_config *config = work->config;
	int status =
		pool_init(work, &work->chat_prompts, config->system_prompts, config->system_tokens);

	if (!status)
		status = pool_init(work, &work->agent_prompts, config->agent_prompts,
			config->agent_system_tokens);
	while (!status && work->trace->request_count < config->requests) {
		struct session *session = workload_next(work);

		if (!session)
			return -ENOMEM;
		status = session_ask(work, session);
		if (status == 1) {
			status = heap_push(work, session);
			if (!status)
				continue; /* the heap has it now */
		}
		session_destroy(session);
	}
	return status;
}

static bool chance_valid(double chance)
{
	return chance >= 0 && chance <= 1;
}

int workload_make(struct trace **trace, const struct workload_config *config)
{
	struct workload work = {.config = config, .random_state = mix64(config->seed)};
	int status;

	*trace = NULL;
	if (!chance_valid(config->single_share) || !chance_valid(config->agent_share) ||
		!chance_valid(config->turn_chance) || !chance_valid(config->branch_chance) ||
		!chance_valid(config->agent_step_chance) || !config->system_prompts ||
		!config->agent_prompts || !(config->sessions_an_hour > 0) ||
		!config->context_tokens)
		return -EINVAL;
	work.trace = trace_create();
	status = work.trace ? workload_run(&work) : -ENOMEM;
	while (work.heap_count)
		session_destroy(work.heap[--work.heap_count]);
	memory_free(work.heap);
	pool_free(&work.chat_prompts);
	pool_free(&work.agent_prompts);
	if (status)
		trace_destroy(work.trace);
	else
		*trace = work.trace;
	return status;
}

struct workload_config workload_default(uint64_t seed)
{
	return (struct workload_config){
		.seed = seed,
		.requests = 12031,
		.sessions_an_hour = 7950,
		.single_share = 0.567,
		.agent_share = 0.0022,
		.system_prompts = 4,
		.system_tokens = {700, 0.5},
		.prompt_tokens = {5000, 1.2},
		.message_tokens = {78, 2.8},
		.output_tokens = {300, 0.9},
		.think_ms = {167e3, 1.0},
		.turn_chance = 0.605,
		.branch_chance = 0.08,
		.agent_prompts = 3,
		.agent_system_tokens = {3000, 0.5},
		.agent_prompt_tokens = {2000, 1.0},
		.agent_result_tokens = {500, 1.2},
		.agent_step_ms = {15e3, 0.8},
		.agent_step_chance = 0.91,
		.context_tokens = 126976,
	};
}
