/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/client/client_priv.h"

/* --------------------------------------------------------------------------------- pin cells */

uint32_t pin_cell_take(struct attachment *a)
{
	if (a->pin_free_count)
		return a->pin_free[--a->pin_free_count];
	if (a->pins_used == PAGE_PINS)
		return 0;
	/* Before the cell is written: a keeper that sees the pin must look that far. Ordered by the
	 * fence in pin_store(), which pairs with the keeper's before it reads the table. */
	atomic_store_explicit(&a->local.page->pins_used, a->pins_used + 1, memory_order_release);
	return a->pins_used++;
}

void pin_cell_give(struct attachment *a, uint32_t cell)
{
	SKEP_CHECK(a->pin_free_count < PAGE_PINS);
	a->pin_free[a->pin_free_count++] = (uint16_t)cell;
}

static struct skep_pin pin_made(struct attachment *a, uint32_t cell)
{
	attachment_hold(a);
	return (struct skep_pin){.cell = cell, .epoch = a->epoch};
}

void skep_release(struct skep *session, struct skep_pin *pin)
{
	struct attachment *a;
	uint32_t cell;

	if (!pin || !pin->cell || session_enter(session))
		return;
	cell = pin->cell;
	a = session_epoch(session, pin->epoch);
	/* A pin that was released before, or is none, changes nothing. */
	if (a && cell != PIN_CELL_COPY && cell < a->pins_used &&
		atomic_load_explicit(&a->pins[cell].generation, memory_order_relaxed)) {
		pin_clear(&a->pins[cell]);
		pin_cell_give(a, cell);
		attachment_unhold(a);
	}
	*pin = (struct skep_pin){0};
	session_exit(session);
}

/* ------------------------------------------------------------------------------------- match */

static bool request_sound(const struct skep *session, const struct skep_match *request)
{
	return request->chain && request->chain->space->session == session &&
	       (request->flags == SKEP_MATCH_PIN || request->flags == SKEP_MATCH_PEEK) &&
	       request->first <= request->chain->probe.block_count &&
	       (request->refs || !request->refs_max);
}

/* What a match came to, beside what it answers. */
struct outcome {
	uint32_t asked, stored;
	struct probe_name deepest; /* of the blocks stored, those in DRAM among them */
};

/* The record of a match for the keeper's counters and its order of eviction. */
static void match_touch(
	struct skep *session, const struct skep_match *request, const struct outcome *outcome)
{
	uint32_t stored = outcome->stored, asked = outcome->asked;
	const struct skep_chain *chain = request->chain;
	struct submission touch = {.op = SUBMIT_TOUCH, .slot = SLOT_NONE};

	if (stored) {
		touch.slot = outcome->deepest.slot;
		touch.generation = stored > request->matched ? outcome->deepest.name_generation
							     : outcome->deepest.frame_generation;
	}
	touch.u.touch.asked = asked;
	touch.u.touch.matched = request->matched;
	touch.u.touch.stored = stored - request->matched;
	touch.u.touch.reason = (uint16_t)request->reason;
	touch.u.touch.space = (uint16_t)chain->space->bound.number;
	if (stored < asked)
		touch.u.touch.missing_low = chain->ids[request->first + stored].low;
	local_client_push(&session->current->local, &touch, LOCAL_PUSH_QUIET);
}

/* Pins what probe_run() found. Return: blocks pinned. */
static uint32_t match_pin(struct attachment *a, struct skep_match *request, uint32_t run)
{
	uint32_t cell = pin_cell_take(a);

	if (!cell) {
		request->reason = SKEP_REASON_PINS;
		return 0;
	}
	run = pin_run(&a->index, &a->pins[cell], request->chain->names + request->first, run);
	if (run)
		request->pin = pin_made(a, cell);
	else
		pin_cell_give(a, cell);
	return run;
}

static void match_refs(const struct attachment *a, struct skep_match *request)
{
	const struct probe_name *names = request->chain->names + request->first;
	uint32_t count = MIN_OF(request->matched, request->refs_max);

	for (uint32_t i = 0; i < count; i++)
		request->refs[i] = (struct skep_ref){.incarnation = a->incarnation,
			.frame_generation = names[i].frame_generation,
			.slot = names[i].slot};
	/* Most likely to be asked for next. */
	if (count)
		__builtin_prefetch(&a->index.parts[names[0].slot]);
}

/* How many blocks of the request some tier holds, where @matched of them are in DRAM and the next
 * one is not; @missing becomes the state of the first that none holds. */
static uint32_t match_stored(
	const struct skep_match *request, uint32_t matched, uint32_t asked, uint32_t *missing)
{
	struct skep_chain *chain = request->chain;
	uint32_t stand = chain_names(chain, request->first + asked), stored = matched;

	while (request->first + stored < stand &&
		chain->names[request->first + stored].state == ENTRY_PRESENT)
		stored++;
	*missing = request->first + stored < stand ? chain->names[request->first + stored].state
						   : ENTRY_FREE;
	return stored;
}

/* Why a block in this state is not had. */
static uint32_t state_reason(uint32_t state)
{
	if (state == ENTRY_PENDING)
		return SKEP_REASON_PENDING;
	return state == ENTRY_HBM ? SKEP_REASON_HBM : SKEP_REASON_ABSENT;
}

static void match_one(struct skep *session, struct skep_match *request)
{
	struct skep_chain *chain = request->chain;
	struct attachment *a = session->current;
	uint32_t asked = chain->probe.block_count - request->first;
	uint32_t missing = ENTRY_FREE, run = 0, stored = 0;
	struct outcome outcome = {0};
	bool tells = request->struct_bytes >=
		     offsetof(struct skep_match, stored) + sizeof(request->stored);

	if (request->count)
		asked = MIN_OF(asked, request->count);
	request->matched = 0;
	if (tells)
		request->stored = 0;
	request->pin = (struct skep_pin){0};
	request->reason = asked ? SKEP_REASON_DAEMON_DOWN : SKEP_REASON_NONE;
	if (session_away(session))
		return;
	if (index_emptied(session) && !session_await_index(session))
		return;
	request->reason = SKEP_REASON_NONE;
	if (asked && space_ready(chain->space)) {
		chain_freshen(chain);
		run = probe_run(&a->index, &chain->probe,
			(struct probe_want){.first = request->first, .count = asked}, chain->names,
			&missing);
		chain->names_count = run ? request->first + run : 0;
	}
	request->matched = run;
	if (run && request->flags == SKEP_MATCH_PIN) {
		request->matched = match_pin(a, request, run);
		/* What left between finding and pinning is not there any more. */
		if (request->matched < run)
			missing = ENTRY_FREE;
	}
	stored = request->matched;
	/* Before names are looked up again: a pin that came while the keeper evicts makes a frame
	 * generation read 0 for a moment, though the block stands. */
	match_refs(a, request);
	if (stored)
		outcome.deepest = chain->names[request->first + stored - 1];
	/* A name with bytes, but not in DRAM: those of a slower tier are counted too. */
	if (stored == run && run < asked && missing == ENTRY_PRESENT)
		stored = match_stored(request, stored, asked, &missing);
	if (stored > request->matched)
		outcome.deepest = chain->names[request->first + stored - 1];
	if (tells)
		request->stored = stored;
	if (stored < asked && !request->reason)
		request->reason = state_reason(missing);
	outcome.asked = asked;
	outcome.stored = stored;
	if (request->flags == SKEP_MATCH_PIN)
		match_touch(session, request, &outcome);
}

/* Requests of a caller built with a longer struct lie further apart. */
static struct skep_match *request_at(struct skep_match *requests, unsigned i)
{
	return (struct skep_match *)(void *)((uint8_t *)requests + i * requests->struct_bytes);
}

/* Asks for the first lines that a match will touch, so that their waits overlap. */
static void request_fetch(const struct skep *session, const struct skep_chain *chain)
{
	const struct index_view *view = &session->current->index;

	__builtin_prefetch(chain->tokens);
	__builtin_prefetch(chain->names, 1);
	__builtin_prefetch(
		&view->buckets[hash_range((uint32_t)chain->ids[0].low, view->head->bucket_count)]);
}

/* All of them are looked at before one is answered. */
static int requests_check(struct skep *session, struct skep_match *requests, unsigned count)
{
	bool away = session_away(session);

	for (unsigned i = 0; i < count; i++) {
		const struct skep_match *request = request_at(requests, i);

		int status = struct_check(
			request, (struct struct_shape){requests->struct_bytes, sizeof(*request)});

		if (status < 0)
			return status;
		if (request->struct_bytes != requests->struct_bytes ||
			!request_sound(session, request))
			return -EINVAL;
		if (!away && request->chain->probe.block_count)
			request_fetch(session, request->chain);
	}
	return 0;
}

int skep_match(struct skep *session, struct skep_match *requests, unsigned count)
{
	int status = session_enter(session);

	if (status)
		return status;
	status = requests || !count ? requests_check(session, requests, count) : -EINVAL;
	for (unsigned i = 0; !status && i < count; i++)
		match_one(session, request_at(requests, i));
	session_exit(session);
	return status;
}

/* ---------------------------------------------------------------------------------- pin_refs */

static int ref_names_room(struct skep *session, unsigned count)
{
	struct probe_name *grown;

	if (count <= session->ref_names_room)
		return 0;
	grown = memory_realloc(session->ref_names, count * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	session->ref_names = grown;
	session->ref_names_room = count;
	return 0;
}

/*
 * The references as names, as far as they are of this daemon and a run: the pin of the last one
 * protects its ancestors alone. (A block keeps its parent as long as its frame generation.)
 */
static uint32_t refs_leading(
	const struct skep *session, const struct skep_ref *refs, unsigned count)
{
	const struct attachment *a = session->current;

	for (uint32_t i = 0; i < count; i++) {
		if (refs[i].incarnation != a->incarnation || !refs[i].frame_generation ||
			refs[i].slot >= a->index.head->slot_count)
			return i;
		if (i && atomic_load_explicit(&a->index.entries[refs[i].slot].parent_slot,
				 memory_order_relaxed) != refs[i - 1].slot)
			return i;
		session->ref_names[i] = (struct probe_name){
			.slot = refs[i].slot, .frame_generation = refs[i].frame_generation};
	}
	return count;
}

static int pin_refs(
	struct skep *session, const struct skep_ref *refs, unsigned count, struct skep_pin *pin)
{
	struct attachment *a = session->current;
	int status = ref_names_room(session, count);
	uint32_t cell, run;

	if (status < 0 || session_away(session))
		return status;
	if (index_emptied(session) && !session_await_index(session))
		return 0;
	cell = pin_cell_take(a);
	if (!cell)
		return -EMFILE;
	run = pin_run(
		&a->index, &a->pins[cell], session->ref_names, refs_leading(session, refs, count));
	if (run)
		*pin = pin_made(a, cell);
	else
		pin_cell_give(a, cell);
	return (int)run;
}

int skep_pin_refs(
	struct skep *session, const struct skep_ref *refs, unsigned count, struct skep_pin *pin)
{
	int status = session_enter(session);

	if (status)
		return status;
	if (!pin || (count && !refs) || count > CHAIN_BLOCKS_MAX) {
		session_exit(session);
		return -EINVAL;
	}
	*pin = (struct skep_pin){0};
	status = pin_refs(session, refs, count, pin);
	session_exit(session);
	return status;
}
