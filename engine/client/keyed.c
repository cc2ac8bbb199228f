/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks named by keys that form no chain: each is a chain of one. Many of them in one call, over
 * the calls that the application could make itself for each. The space has one chain of one block
 * for it, which takes each key in turn.
 *
 * Gets and puts go from the last key to the first: what was used last is evicted last, and of keys
 * in the order of a sequence the first ones are of use without the others, but not they without
 * these.
 */
#include <errno.h>

#include "base/list.h"
#include "base/status.h"
#include "engine/client/client_priv.h"
#include "engine/client/put_priv.h"

/* Blocks whose reading from the ssd is under way ahead of the one that is copied. */
enum { LOADS_AHEAD = 8 };

/* A call as it is worked off. */
struct keyed {
	struct skep_keyed of;
	struct skep *session;
	struct skep_chain *lone;
	uint32_t pieces;
	bool reads_ahead;	/* a get has met a block on the ssd: there may be more */
	struct storing storing; /* of a put */
};

/* Makes the space's chain name key @i. Return: 0 or negative. */
static int key_name(const struct keyed *job, uint32_t i)
{
	const uint8_t *keys = job->of.keys;
	int blocks;

	skep_chain_truncate(job->lone, 0);
	blocks = skep_chain_append_key(
		job->lone, keys + (size_t)i * job->of.key_bytes, job->of.key_bytes, NULL, 0);
	return MIN_OF(blocks, 0);
}

/* Return: 0; -EINVAL, -E2BIG, -EOWNERDEAD, -ENOMEM, -ERANGE. */
static int keyed_begin(struct keyed *job, const struct skep_keyed *keyed, bool bytes)
{
	int status = keyed ? struct_take(&job->of, keyed, sizeof(job->of)) : -EINVAL;
	struct skep_space *space = status ? NULL : job->of.space;

	if (status < 0)
		return status;
	if (!space || (job->of.count &&
			      (!job->of.keys || !job->of.statuses || (bytes && !job->of.bytes))))
		return -EINVAL;
	if (session_forked(space->session))
		return -EOWNERDEAD;
	if (!(space->request.flags & SKEP_SPACE_OPAQUE))
		return -EINVAL;
	if (job->of.part >= space->request.part_count)
		return -ERANGE;
	if (!space->lone)
		status = skep_chain_create(space, &space->lone);
	if (status < 0)
		return status;
	job->session = space->session;
	job->lone = space->lone;
	job->pieces = job->of.pieces ? job->of.pieces : 1;
	return job->of.count ? key_name(job, 0) : 0;
}

static struct skep_match match_of(const struct keyed *job, struct skep_ref *ref, uint32_t flags)
{
	return (struct skep_match){.struct_bytes = sizeof(struct skep_match),
		.chain = job->lone,
		.flags = flags,
		.refs = ref,
		.refs_max = ref != NULL};
}

/* What a match that found nothing says of a key. */
static int miss_status(const struct skep_match *match)
{
	switch (match->reason) {
	case SKEP_REASON_DAEMON_DOWN:
		return SKEP_STATUS_EDOWN;
	case SKEP_REASON_PENDING:
		return SKEP_STATUS_EPENDING;
	case SKEP_REASON_PINS:
		return -EMFILE;
	default:
		return -ENOENT;
	}
}

/* -------------------------------------------------------------------------------------- find */

static int find_one(const struct keyed *job, uint32_t i)
{
	struct skep_match match = match_of(job, NULL, SKEP_MATCH_PEEK);
	int status = key_name(job, i);

	if (!status)
		status = skep_match(job->session, &match, 1);
	if (status < 0)
		return status;
	if (match.matched)
		return SKEP_KEYED_HERE;
	return match.stored ? SKEP_KEYED_STORED : miss_status(&match);
}

int skep_keyed_find(const struct skep_keyed *keyed)
{
	struct keyed job = {0};
	int status = keyed_begin(&job, keyed, false), found = 0;

	for (uint32_t i = 0; !status && i < job.of.count; i++) {
		job.of.statuses[i] = find_one(&job, i);
		found += job.of.statuses[i] > 0;
	}
	return status ? status : found;
}

/* --------------------------------------------------------------------------------------- get */

static struct skep_load load_of(const struct keyed *job, struct skep_ref *ref, uint32_t flags)
{
	return (struct skep_load){.struct_bytes = sizeof(struct skep_load),
		.chain = job->lone,
		.refs = ref,
		.refs_max = ref != NULL,
		.deadline_ns = job->of.deadline_ns,
		.flags = flags};
}

/* Begins to read key @i where it waits on the ssd. Return: false: no more of that now. */
static bool load_ahead(const struct keyed *job, uint32_t i)
{
	struct skep_load load = load_of(job, NULL, SKEP_LOAD_PREFETCH);

	return find_one(job, i) != SKEP_KEYED_STORED || skep_load(job->session, &load) == 0;
}

/* The block is pinned. One that is not as long as its place is left alone. */
static int copy_one(const struct keyed *job, uint32_t i, const struct skep_ref *ref)
{
	struct skep_copy copy = {.struct_bytes = sizeof(copy),
		.space = job->of.space,
		.ref = *ref,
		.part = job->of.part,
		.to = job->of.bytes + (size_t)i * job->pieces,
		.to_count = job->pieces};
	struct skep_view view;
	uint64_t room = 0;
	int64_t copied;
	int status = skep_view(job->session, ref, copy.part, &view);

	if (status < 0)
		return status;
	for (uint32_t k = 0; k < job->pieces; k++)
		room += copy.to[k].iov_len;
	if (room != view.length)
		return -EMSGSIZE;
	copied = skep_copy(job->session, &copy);
	return copied < 0 ? (int)copied : 0;
}

static int get_stored(const struct keyed *job, uint32_t i)
{
	struct skep_ref ref;
	struct skep_load load = load_of(job, &ref, 0);
	int status = skep_load(job->session, &load);

	if (status < 0)
		return status;
	status = load.loaded ? copy_one(job, i, &ref) : -ENOENT;
	skep_release(job->session, &load.pin);
	return status;
}

static int get_one(struct keyed *job, uint32_t i)
{
	struct skep_ref ref;
	struct skep_match match = match_of(job, &ref, SKEP_MATCH_PIN);
	int status = key_name(job, i);

	if (!status)
		status = skep_match(job->session, &match, 1);
	if (status < 0)
		return status;
	if (!match.matched && !match.stored)
		return miss_status(&match);
	if (!match.matched) {
		job->reads_ahead = true;
		return get_stored(job, i);
	}
	status = copy_one(job, i, &ref);
	skep_release(job->session, &match.pin);
	return status;
}

int skep_keyed_get(const struct skep_keyed *keyed)
{
	struct keyed job = {0};
	int status = keyed_begin(&job, keyed, true), got = 0;
	uint32_t ahead = job.of.count;

	for (uint32_t i = job.of.count; !status && i-- > 0;) {
		ahead = MIN_OF(ahead, i);
		while (job.reads_ahead && ahead && i < ahead + LOADS_AHEAD &&
			load_ahead(&job, ahead - 1))
			ahead--;
		job.of.statuses[i] = get_one(&job, i);
		got += job.of.statuses[i] == 0;
	}
	return status ? status : got;
}

/* --------------------------------------------------------------------------------------- put */

/* Each block has a reservation of its own; who holds frames already does not wait for more. */
static int lone_reserve(
	struct storing *storing, struct skep_reserve *request, struct skep_frame *frames)
{
	const struct keyed *job = list_item(storing, struct keyed, storing);
	struct skep_reserve one = *request;
	uint32_t had = 0;
	int status = 0;

	one.first = 0;
	one.count = 1;
	while (had < request->count) {
		uint32_t i = storing_place(storing, storing->done + had);

		status = key_name(job, i);
		if (!status)
			status = skep_reserve(job->session, &one, &frames[had]);
		if (status < 0)
			break;
		frames[had].block = i;
		had++;
		one.deadline_ns = 0;
	}
	return had ? (int)had : status;
}

int skep_keyed_put(const struct skep_keyed *keyed)
{
	struct keyed job = {0};
	int status = keyed_begin(&job, keyed, true);
	struct skep_put put = {.chain = job.lone,
		.count = job.of.count,
		.part = job.of.part,
		.pieces = job.of.pieces,
		.from = job.of.bytes,
		.statuses = job.of.statuses,
		.deadline_ns = job.of.deadline_ns};

	if (status < 0 || !put.count)
		return status;
	job.storing = (struct storing){
		.session = job.session, .put = &put, .reserve = lone_reserve, .backwards = true};
	return storing_run(&job.storing);
}

/* ------------------------------------------------------------------------------------ remove */

/* Writes the names of keys [first, first + count), those that have none as no slot. */
static int names_write(
	const struct keyed *job, uint32_t first, uint32_t count, struct remove_part *parts)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct probe_name *name = job->lone->names;
		int status = key_name(job, first + i);

		if (status < 0)
			return status;
		chain_freshen(job->lone);
		parts[i] = (struct remove_part){.slot = SLOT_NONE};
		if (chain_names(job->lone, 1))
			parts[i] = (struct remove_part){
				.slot = name->slot, .name_generation = name->name_generation};
	}
	return 0;
}

/* Inside a call. Return: how many keys from @first on were asked for and answered, or negative. */
static int remove_some(const struct keyed *job, uint32_t first)
{
	uint32_t count = MIN_OF(job->of.count - first, (uint32_t)REMOVE_PARTS_MAX);
	struct submission submission = {
		.op = SUBMIT_REMOVE, .count = count, .deadline_ns = job->of.deadline_ns};
	uint32_t bytes = count * (uint32_t)sizeof(struct remove_part);
	const struct remove_part *parts;
	struct completion answer;
	struct call *call;
	int status = space_ready_wait(job->of.space, job->of.deadline_ns);

	if (status < 0)
		return status;
	call = call_open(job->session, SUBMIT_REMOVE, bytes);
	if (!call)
		return session_away(job->session) ? SKEP_STATUS_EDOWN : -ETIMEDOUT;
	parts = call_area(job->session->current, call);
	status = names_write(job, first, count, call_area(job->session->current, call));
	if (status < 0) {
		call_close(call);
		return status;
	}
	status = call_run(job->session, &submission, call, &answer);
	if (status < 0)
		return status;
	for (uint32_t i = 0; answer.status >= 0 && i < count; i++)
		job->of.statuses[first + i] = parts[i].status;
	call_close(call);
	return answer.status < 0 ? answer.status : (int)count;
}

int skep_keyed_remove(const struct skep_keyed *keyed)
{
	struct keyed job = {0};
	int status = keyed_begin(&job, keyed, false), removed = 0;
	uint32_t done = 0;

	if (!status)
		status = session_enter(job.session);
	if (status < 0)
		return status;
	if (job.session->flags & SKEP_OPEN_READONLY)
		status = -EROFS;
	while (status >= 0 && done < job.of.count) {
		status = remove_some(&job, done);
		done += (uint32_t)MAX_OF(status, 0);
	}
	session_exit(job.session);
	for (uint32_t i = 0; i < job.of.count; i++) {
		if (i >= done)
			job.of.statuses[i] = status;
		removed += job.of.statuses[i] == 0;
	}
	return status < 0 && !done ? status : removed;
}
