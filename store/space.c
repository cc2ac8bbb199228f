/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spaces: closed worlds of blocks. What must agree for two engines to share blocks is written as
 * one canonical text, a field a line; the text is the fingerprint: it keys the ids and is compared
 * when a space is opened, so that a refusal can name the field.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/hash.h"
#include "store/store_priv.h"

enum { OPAQUE_FLAG = 1 };

struct field_at {
	const char *text;
	size_t length;
};

/* Takes the next "field=value" line; false at the end. */
static bool line_take(const char **at, struct field_at *line)
{
	const char *end;

	if (!**at)
		return false;
	end = strchr(*at, '\n');
	SKEP_CHECK(end != NULL);
	line->text = *at;
	line->length = (size_t)(end - *at);
	*at = end + 1;
	return true;
}

void space_difference(const char *a, const char *b, char field[WIRE_NAME_MAX])
{
	struct field_at one, two;

	field[0] = 0;
	for (;;) {
		bool more_a = line_take(&a, &one), more_b = line_take(&b, &two);
		const struct field_at *line = more_a ? &one : &two;

		if (!more_a && !more_b)
			return;
		if (more_a && more_b && one.length == two.length &&
			!memcmp(one.text, two.text, one.length))
			continue;
		snprintf(field, WIRE_NAME_MAX, "%.*s", (int)strcspn(line->text, "="), line->text);
		return;
	}
}

/* Every text of the request ends inside its array and holds no control characters. */
static const char *request_text_check(const struct wire_space_open *request)
{
	const struct {
		const char *name, *text;
		size_t room;
	} texts[] = {
		{"name", request->name, sizeof(request->name)},
		{"model", request->model, sizeof(request->model)},
		{"weights", request->weights, sizeof(request->weights)},
		{"rope", request->rope, sizeof(request->rope)},
		{"layout", request->layout, sizeof(request->layout)},
		{"engine", request->engine, sizeof(request->engine)},
	};

	for (unsigned i = 0; i < ARRAY_COUNT(texts); i++) {
		size_t length = strnlen(texts[i].text, texts[i].room);

		if (length == texts[i].room)
			return texts[i].name;
		for (size_t k = 0; k < length; k++)
			if ((unsigned char)texts[i].text[k] < 0x20)
				return texts[i].name;
	}
	return request->name[0] ? NULL : "name";
}

/* Bounds of the numbers. Return: 0, or negative with @field. */
static int request_check(
	const struct realm *realm, const struct wire_space_open *request, char field[WIRE_NAME_MAX])
{
	const char *text = request_text_check(request);

	if (text) {
		snprintf(field, WIRE_NAME_MAX, "%s", text);
		return -EINVAL;
	}
	if (request->groups > 1) {
		snprintf(field, WIRE_NAME_MAX, "groups");
		return -ENOTSUP;
	}
	if (request->flags & ~(uint32_t)OPAQUE_FLAG)
		snprintf(field, WIRE_NAME_MAX, "flags");
	else if (!request->block_tokens || request->block_tokens > INDEX_BLOCK_TOKENS_MAX)
		snprintf(field, WIRE_NAME_MAX, "block_tokens");
	else if (!request->part_count || request->part_count > INDEX_PARTS_MAX)
		snprintf(field, WIRE_NAME_MAX, "part_count");
	else if (request->ranks > 65536)
		snprintf(field, WIRE_NAME_MAX, "ranks");
	if (field[0])
		return -EINVAL;
	for (uint32_t i = 0; i < request->part_count; i++) {
		const struct wire_part *part = &request->parts[i];
		uint32_t ranges = part->ranges ? part->ranges : 1;

		if (!part->bytes || part->bytes > dram_bytes(realm->dram) ||
			part->bytes > UINT32_MAX)
			snprintf(field, WIRE_NAME_MAX, "parts[%u].bytes", i);
		else if (ranges > 1024 || part->bytes % ranges ||
			 (ranges > 1 && part->bytes / ranges < FRAME_GRANULE_BYTES))
			snprintf(field, WIRE_NAME_MAX, "parts[%u].ranges", i);
		else if (part->group)
			snprintf(field, WIRE_NAME_MAX, "parts[%u].group", i);
		if (field[0])
			return -EINVAL;
	}
	return 0;
}

/* The canonical text. Return: 0, or -E2BIG. */
static int fingerprint_make(const struct wire_space_open *request, char out[FINGERPRINT_BYTES])
{
	int used = snprintf(out, FINGERPRINT_BYTES,
		"model=%s\nweights=%s\nrope=%s\nlayout=%s\nengine=%s\nblock_tokens=%u\nranks=%u\n"
		"kind=%s\npart_count=%u\n",
		request->model, request->weights, request->rope, request->layout, request->engine,
		request->block_tokens, request->ranks ? request->ranks : 1,
		request->flags & OPAQUE_FLAG ? "opaque" : "tokens", request->part_count);

	for (uint32_t i = 0; i < request->part_count && used < FINGERPRINT_BYTES; i++)
		used += snprintf(out + used, (size_t)(FINGERPRINT_BYTES - used),
			"parts[%u]=%llu/%u/%u\n", i, (unsigned long long)request->parts[i].bytes,
			request->parts[i].ranges ? request->parts[i].ranges : 1,
			request->parts[i].rank);
	return used < FINGERPRINT_BYTES ? 0 : -E2BIG;
}

/* A new generation and a new secret: what was named before is never found again. */
static void space_version_set(struct realm *realm, uint32_t index, uint64_t version)
{
	struct space *space = &realm->spaces[index];
	char named[sizeof(space->name) + sizeof(space->fingerprint) + 1];
	struct id_secret_input in = {.realm_secret = realm->config.secret,
		.realm_secret_bytes = realm->config.secret_bytes,
		.fingerprint = named,
		.version = version};

	/* The name too: an id shown to an operator names one block of the realm. */
	snprintf(named, sizeof(named), "%s\n%s", space->name, space->fingerprint);
	/* The record of the version before stands until this one's has its place. */
	realm->ssd.spaces_unwritten = true;
	space->version = version;
	space->key = XXH3_64bits_withSeed(named, strlen(named), version);
	space->generation = realm_draw(realm);
	id_secret_make(space->secret, &in);
	atomic_store_explicit(&realm->index.head->spaces[index].generation, space->generation,
		memory_order_release);
}

/* A place for a new space; the emptiest unused one goes if there is no free one. */
static int space_place(struct realm *realm)
{
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		if (!realm->spaces[i].used)
			return (int)i;
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++) {
		const struct space *space = &realm->spaces[i];

		/* Removed blocks still name their space until their last pin is gone. */
		if (!space->blocks && !space->open_sessions && !realm->removed.count)
			return (int)i;
	}
	return -ENOSPC;
}

static int space_make(struct realm *realm, const struct wire_space_open *request, uint64_t version,
	char field[WIRE_NAME_MAX])
{
	char fingerprint[FINGERPRINT_BYTES];
	int place, class, status = fingerprint_make(request, fingerprint);
	struct space *space;

	if (status < 0)
		return status;
	place = space_place(realm);
	if (place < 0)
		return place;
	space = &realm->spaces[place];
	if (space->used)
		space_record_drop(realm, (uint32_t)place);
	memset(space, 0, sizeof(*space));
	space->ssd_at = SSD_NONE;
	space->request = *request;
	snprintf(space->name, sizeof(space->name), "%s", request->name);
	snprintf(space->fingerprint, sizeof(space->fingerprint), "%s", fingerprint);
	space->block_tokens = request->block_tokens;
	space->part_count = request->part_count;
	space->opaque = request->flags & OPAQUE_FLAG;
	space->first_root = NONE32;
	for (uint32_t i = 0; i < request->part_count; i++) {
		space->part_bytes[i] = request->parts[i].bytes;
		space->part_ranges[i] = request->parts[i].ranges ? request->parts[i].ranges : 1;
		space->ranges += space->part_ranges[i];
		class = dram_class(realm->dram, request->parts[i].bytes);
		if (class < 0) { /* no chunk holds it, or the pool knows too many sizes */
			snprintf(field, WIRE_NAME_MAX, "parts[%u].bytes", i);
			memset(space, 0, sizeof(*space));
			space->ssd_at = SSD_NONE;
			space->first_root = NONE32;
			return -ENOSPC;
		}
		space->classes[i] = (uint8_t) class;
		realm->lru_of_class[class] |= 1ull << space->classes[0];
	}
	space->used = true;
	space_version_set(realm, (uint32_t)place, version);
	space->made = space->generation;
	return place;
}

static int space_find(const struct realm *realm, const char *name)
{
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		if (realm->spaces[i].used && !strcmp(realm->spaces[i].name, name))
			return (int)i;
	return -ENOENT;
}

int space_open(struct session *session, const struct wire_space_open *request,
	struct wire_space_answer *answer)
{
	struct realm *realm = session->realm;
	char fingerprint[FINGERPRINT_BYTES];
	struct space *space;
	int status, place;

	status = request_check(realm, request, answer->field);
	if (status == 0)
		status = fingerprint_make(request, fingerprint);
	if (status < 0)
		return status;
	place = space_find(realm, request->name);
	if (place >= 0) {
		space_difference(realm->spaces[place].fingerprint, fingerprint, answer->field);
		if (answer->field[0])
			return SKEP_STATUS_EDIFFERS;
	} else {
		place = space_make(realm, request, 1, answer->field);
		if (place < 0)
			return place;
	}
	space = &realm->spaces[place];
	if (!(session->spaces & 1ull << place)) {
		session->spaces |= 1ull << place;
		space->open_sessions++;
	}
	answer->space = (uint32_t)place;
	answer->generation = space->generation;
	answer->version = space->version;
	memcpy(answer->secret, space->secret, sizeof(answer->secret));
	return 0;
}

int space_restore(struct realm *realm, const struct wire_space_open *request, uint64_t version)
{
	char field[WIRE_NAME_MAX] = "";
	int status = request_check(realm, request, field);

	if (status == 0 && space_find(realm, request->name) >= 0)
		status = -EEXIST;
	return status < 0 ? status : space_make(realm, request, version, field);
}

int64_t space_step(struct realm *realm, uint32_t space)
{
	uint64_t version = realm->spaces[space].version + 1;

	remove_space(realm, space, SKEP_REASON_REMOVED);
	space_version_set(realm, space, version);
	return (int64_t)version;
}

void space_session_gone(struct session *session)
{
	for (unsigned i = 0; i < INDEX_SPACES_MAX; i++)
		if (session->spaces & 1ull << i) {
			SKEP_CHECK(session->realm->spaces[i].open_sessions > 0);
			session->realm->spaces[i].open_sessions--;
		}
	session->spaces = 0;
}
