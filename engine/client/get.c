/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/status.h"
#include "engine/client/client_priv.h"
#include "engine/client/pieces_priv.h"
#include "kernels/checksum.h"

#define LOAD(field) atomic_load_explicit(&(field), memory_order_relaxed)

/* A block by its frames, or by its name where these are being filled and nothing is published. */
struct block_key {
	uint32_t slot;
	bool by_name;
	uint64_t generation; /* of the frame, or of the name; 0: none */
};

static struct block_key key_of(const struct skep_ref *ref)
{
	return (struct block_key){.slot = ref->slot, .generation = ref->frame_generation};
}

/* A part as the index tells of it, checked to lie inside the pool. */
struct part_place {
	const uint8_t *bytes;
	uint64_t length;
	uint64_t write;
	struct checksum_root root;
};

static bool stands(const struct attachment *a, const struct block_key *key)
{
	if (key->by_name)
		return LOAD(a->index.entries[key->slot].name_generation) == key->generation;
	return pin_generation(&a->index, key->slot) == key->generation;
}

/* After the fields of a block were read: none is of a later generation than @key's. */
static bool still_there(const struct attachment *a, const struct block_key *key)
{
	atomic_thread_fence(memory_order_acquire);
	return stands(a, key);
}

/* Return: 0; -ESTALE (the block is not there any more), -ERANGE (no such part). */
static int part_find(const struct attachment *a, const struct block_key *key, uint32_t number,
	struct part_place *place)
{
	const struct index_part *part;
	uint64_t at;

	if (key->slot >= a->index.head->slot_count || !key->generation || !stands(a, key))
		return -ESTALE;
	part = probe_part(&a->index, key->slot, number);
	if (!part)
		return still_there(a, key) ? -ERANGE : -ESTALE;
	at = (uint64_t)LOAD(part->frame) * FRAME_GRANULE_BYTES;
	place->length = LOAD(part->bytes);
	place->write = LOAD(part->write);
	place->root.low = LOAD(part->root_low);
	place->root.high = LOAD(part->root_high);
	if (!still_there(a, key) || at > a->pool_bytes || place->length > a->pool_bytes - at)
		return -ESTALE;
	place->bytes = a->pool + at;
	return 0;
}

/* Was nothing found because nothing is in that index any more? Then the new one is read now. */
static bool index_left(struct skep *session, const struct attachment *a)
{
	return a == session->current && !session_away(session) && index_emptied(session) &&
	       session_await_index(session);
}

/* Inside a call. Return: as skep_view(). */
static int view_find(
	struct skep *session, const struct skep_ref *ref, uint32_t part, struct skep_view *view)
{
	struct attachment *a = session_incarnation(session, ref->incarnation);
	struct block_key key = key_of(ref);
	struct part_place place;
	int status = a ? part_find(a, &key, part, &place) : -ESTALE;

	if (status == -ESTALE && index_left(session, a))
		status = part_find(a, &key, part, &place);
	if (!status)
		*view = (struct skep_view){.bytes = place.bytes, .length = place.length};
	return status;
}

int skep_view(
	struct skep *session, const struct skep_ref *ref, uint32_t part, struct skep_view *view)
{
	int status = session_enter(session);

	if (status)
		return status;
	status = ref && view ? view_find(session, ref, part, view) : -EINVAL;
	session_exit(session);
	return status;
}

int skep_views(struct skep *session, uint32_t part, const struct skep_ref *refs,
	struct skep_view *views, unsigned count)
{
	int status = session_enter(session);
	unsigned found = 0;

	if (status)
		return status;
	if ((count && (!refs || !views)) || count > CHAIN_BLOCKS_MAX)
		status = -EINVAL;
	while (!status && found < count) {
		status = view_find(session, &refs[found], part, &views[found]);
		found += status == 0;
	}
	session_exit(session);
	return status && !found ? status : (int)found;
}

/* -------------------------------------------------------------------------------------- copy */

static bool pieces_hold(const struct skep_copy *copy, uint64_t bytes)
{
	for (unsigned i = 0; i < copy->to_count; i++) {
		if (copy->to[i].iov_len >= bytes)
			return true;
		bytes -= copy->to[i].iov_len;
	}
	return bytes == 0;
}

/* Copies one range and sums what was stored, in one pass where its place is in one piece. */
static uint64_t range_copy(
	struct pieces *pieces, const uint8_t *from, uint64_t bytes, enum checksum_stores stores)
{
	struct iovec room = pieces_room(pieces);
	struct checksum_stream stream;

	if (room.iov_len >= bytes) {
		pieces->used += bytes;
		return checksum_copy_as(stores, room.iov_base, from, bytes);
	}
	checksum_stream_init(&stream);
	while (bytes) {
		size_t step = MIN_OF(room.iov_len, bytes);

		memcpy(room.iov_base, from, step);
		/* The sum is of the copy: what the source says a second time is nobody's. */
		__asm__ __volatile__("" ::: "memory");
		checksum_stream_update(&stream, room.iov_base, step);
		pieces->used += step;
		from += step;
		bytes -= step;
		room = pieces_room(pieces);
	}
	return checksum_stream_final(&stream);
}

/* A copy under way. */
struct copying {
	struct attachment *a;
	const struct index_entry *entry;
	const struct skep_copy *copy;
	struct block_key key;
	struct part_place place;
	uint32_t ranges; /* of the part */
	uint32_t first, count;
	uint64_t *sums; /* as the index has them; room for SKEP_RANGES_MAX */
};

/* Is the block one of the space that the caller names? Else its ranges would be cut wrongly. */
static int copy_layout(struct copying *job)
{
	const struct skep_space *space = job->copy->space;
	const struct wire_space_open *request = &space->request;

	if (job->copy->part >= request->part_count)
		return -ERANGE;
	if (LOAD(job->entry->parts) != request->part_count ||
		(space->bound.epoch == job->a->epoch &&
			LOAD(job->entry->space) != space->bound.number))
		return -EINVAL;
	job->ranges = request->parts[job->copy->part].ranges;
	job->first = job->copy->first_range;
	if (job->first >= job->ranges)
		return -ERANGE;
	job->count = job->copy->range_count ? job->copy->range_count : job->ranges - job->first;
	return job->count > job->ranges - job->first ? -ERANGE : 0;
}

/* Reads what the index says of the part; the pin keeps it from changing meanwhile. */
static int copy_prepare(struct copying *job)
{
	const struct skep_copy *copy = job->copy;
	const _Atomic uint64_t *first, *last;
	uint32_t before;
	int status = part_find(job->a, &job->key, copy->part, &job->place);

	if (!status)
		status = copy_layout(job);
	if (status < 0)
		return status;
	before = copy->space->sums_before[copy->part];
	first = probe_range_sums(&job->a->index, job->key.slot, before);
	last = probe_range_sums(&job->a->index, job->key.slot, before + job->ranges - 1);
	if (!first || last != first + job->ranges - 1)
		return -ESTALE;
	for (uint32_t i = 0; i < job->ranges; i++)
		job->sums[i] = LOAD(first[i]);
	return still_there(job->a, &job->key) ? 0 : -ESTALE;
}

/* Does the root speak for this block, this writing and these sums? */
static bool copy_root_holds(const struct copying *job)
{
	struct checksum_root_input input = {.part = job->copy->part,
		.length = job->place.length,
		.incarnation = job->a->incarnation,
		.generation = job->place.write,
		.range_sums = job->sums,
		.range_count = job->ranges};

	/* Put under an earlier daemon and loaded from the ssd: the daemon, who knows that one's
	 * incarnation, has verified the root on the way; the sums below speak for the bytes. */
	if (LOAD(job->entry->origin))
		return true;
	id_bytes(input.block_id,
		(struct block_id){LOAD(job->entry->id_low), LOAD(job->entry->id_high)});
	return checksum_root_equal(checksum_root_make(&input), job->place.root);
}

/* Return: bytes copied, SKEP_ECHECKSUM, -EMSGSIZE. */
static int64_t copy_ranges(struct copying *job)
{
	struct span first = range_span(job->place.length, job->ranges, job->first);
	struct span last = range_span(job->place.length, job->ranges, job->first + job->count - 1);
	uint64_t total = last.at + last.bytes - first.at;
	enum checksum_stores stores = checksum_stores_for(total);
	struct pieces pieces = {.next = job->copy->to, .left = job->copy->to_count};
	bool good = copy_root_holds(job);

	if (!pieces_hold(job->copy, total))
		return -EMSGSIZE;
	for (uint32_t i = job->first; good && i < job->first + job->count; i++) {
		struct span span = range_span(job->place.length, job->ranges, i);

		good = range_copy(&pieces, job->place.bytes + span.at, span.bytes, stores) ==
		       job->sums[i];
	}
	return good ? (int64_t)total : SKEP_STATUS_ECHECKSUM;
}

/* Tells the keeper that a published block has wrong bytes. */
static void quarantine(struct skep *session, const struct skep_copy *copy)
{
	struct submission submission = {.op = SUBMIT_QUARANTINE,
		.slot = copy->ref.slot,
		.generation = copy->ref.frame_generation};

	submission.u.other.part = copy->part;
	/* If there is no room for so long, whoever reads it next finds it as wrong. */
	(void)call_push(session, &submission, clock_ns() + ANSWER_NS);
}

/*
 * Does @work on the block while it is pinned. @sums: room for SKEP_RANGES_MAX. A block that @work
 * finds to be wrong is quarantined.
 */
static int64_t copy_out(struct skep *session, const struct skep_copy *copy, uint64_t *sums,
	int64_t (*work)(struct copying *job))
{
	struct probe_name name = {
		.slot = copy->ref.slot, .frame_generation = copy->ref.frame_generation};
	struct copying job = {.copy = copy, .key = key_of(&copy->ref), .sums = sums};
	struct pin_cell *cell;
	int64_t result;

	job.a = session_incarnation(session, copy->ref.incarnation);
	if (!job.a || name.slot >= job.a->index.head->slot_count || !name.frame_generation)
		return -ESTALE;
	/* A pin of our own for the time of the copy: then it races with nobody's reuse. */
	cell = &job.a->pins[PIN_CELL_COPY];
	if (!pin_run(&job.a->index, cell, &name, 1) &&
		!(index_left(session, job.a) && pin_run(&job.a->index, cell, &name, 1)))
		return -ESTALE;
	job.entry = &job.a->index.entries[name.slot];
	result = copy_prepare(&job);
	if (!result)
		result = work(&job);
	/* Forced removal does not wait for pins to unpublish: then it was no fault of the bytes. */
	if (result == SKEP_STATUS_ECHECKSUM && job.a == session->current) {
		if (!still_there(job.a, &job.key))
			result = -ESTALE;
		else if (!session_away(session))
			quarantine(session, copy);
	}
	pin_clear(cell);
	return result;
}

/* Inside a call. Return: as skep_copy(). */
static int64_t copy_one(struct skep *session, const struct skep_copy *copy)
{
	uint64_t sums[SKEP_RANGES_MAX];
	struct skep_copy mine;
	int status = struct_take(&mine, copy, sizeof(mine));

	if (status)
		return status;
	if (!mine.space || mine.space->session != session || (mine.to_count && !mine.to))
		return -EINVAL;
	return copy_out(session, &mine, sums, copy_ranges);
}

int64_t skep_copy(struct skep *session, const struct skep_copy *copy)
{
	int64_t result = session_enter(session);

	if (result)
		return result;
	result = copy ? copy_one(session, copy) : -EINVAL;
	session_exit(session);
	return result;
}

int skep_copies(
	struct skep *session, const struct skep_copy *copies, int64_t *results, unsigned count)
{
	int status = session_enter(session), copied = 0;

	if (status)
		return status;
	if (count && (!copies || !results || copies->struct_bytes < sizeof(*copies)))
		status = -EINVAL;
	for (unsigned i = 0; !status && i < count; i++) {
		/* Those of a caller built with a longer struct lie further apart. */
		const struct skep_copy *copy =
			(const void *)((const uint8_t *)copies + i * copies->struct_bytes);

		results[i] = copy->struct_bytes == copies->struct_bytes ? copy_one(session, copy)
									: -EINVAL;
		copied += results[i] >= 0;
	}
	session_exit(session);
	return status ? status : copied;
}

/*
 * Of block @block of a load that has not brought it whole yet. Nothing holds its frames: the sums
 * alone say whether what was copied is the block's.
 */
static int64_t load_copy_one(
	struct skep *session, const struct skep_copy *copy, uint64_t handle, uint32_t block)
{
	uint64_t sums[SKEP_RANGES_MAX];
	struct copying job = {.a = session->current, .copy = copy, .sums = sums};
	const struct load_part *part;
	uint32_t ranges;
	int64_t result = load_find_block(session, handle, block, &part);

	if (result < 0)
		return result;
	job.key = (struct block_key){
		.slot = part->slot, .by_name = true, .generation = part->name_generation};
	if (job.key.slot >= job.a->index.head->slot_count)
		return -ESTALE;
	job.entry = &job.a->index.entries[job.key.slot];
	/* Acquire pairs with the daemon's release: frames and bytes are in place. */
	ranges = atomic_load_explicit(&part->ranges, memory_order_acquire);
	if (!ranges)
		return -EAGAIN;
	result = copy_prepare(&job);
	if (!result && ranges < job.first + job.count)
		result = -EAGAIN;
	if (!result)
		result = copy_ranges(&job);
	return result == SKEP_STATUS_ECHECKSUM ? -ESTALE : result;
}

static int load_copy(struct skep *session, const struct skep_load_copy *of)
{
	struct skep_copy copy = {.space = of->space,
		.part = of->part,
		.first_range = of->first_range,
		.range_count = of->range_count,
		.to_count = of->pieces ? of->pieces : 1};
	int64_t result = 0;
	uint32_t done = 0;

	while (done < of->count && result >= 0) {
		copy.to = of->to + (size_t)done * copy.to_count;
		result = load_copy_one(session, &copy, of->handle, of->block + done);
		done += result >= 0;
	}
	return done ? (int)done : (int)result;
}

int skep_load_copy(struct skep *session, const struct skep_load_copy *copy)
{
	struct skep_load_copy mine;
	int status = session_enter(session);

	if (status)
		return status;
	status = copy ? struct_take(&mine, copy, sizeof(mine)) : -EINVAL;
	if (!status && (!mine.space || mine.space->session != session || !mine.to || !mine.count))
		status = -EINVAL;
	if (!status)
		status = load_copy(session, &mine);
	session_exit(session);
	return status;
}

/* --------------------------------------------------------------------------------------- sums */

uint64_t skep_range_sum(const void *bytes, size_t length)
{
	return checksum_range(bytes, length);
}

uint64_t skep_copy_sum(void *to, const void *from, size_t length)
{
	return checksum_copy(to, from, length);
}

/* Return: how many sums the part has; SKEP_ECHECKSUM. */
static int64_t sums_agree(struct copying *job)
{
	return copy_root_holds(job) ? (int64_t)job->ranges : SKEP_STATUS_ECHECKSUM;
}

int skep_sums(struct skep *session, struct skep_space *space, const struct skep_ref *ref,
	uint32_t part, uint64_t *sums, unsigned sums_max)
{
	uint64_t had[SKEP_RANGES_MAX];
	struct skep_copy copy = {.space = space, .part = part};
	int64_t result = session_enter(session);

	if (result)
		return (int)result;
	if (!space || !ref || !sums || space->session != session) {
		result = -EINVAL;
	} else {
		copy.ref = *ref;
		result = copy_out(session, &copy, had, sums_agree);
	}
	if (result > (int64_t)sums_max)
		result = -EMSGSIZE;
	if (result > 0)
		memcpy(sums, had, (size_t)result * sizeof(*sums));
	session_exit(session);
	return (int)result;
}
