/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Builds a node from what its predecessor packed; hand_priv.h says what. Nothing of it runs yet,
 * and whatever does not fit ends the attempt with the predecessor none the worse: descriptors are
 * copies, and the memory behind them is only read, but for what a pool's mapping sets up.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/hash.h"
#include "base/memory.h"
#include "store/hand_priv.h"
#include "store/hbm_priv.h"
#include "transport/local/server_hand.h"

/* ------------------------------------------------------------------------------- sections */

struct reading {
	const uint8_t *base;
	uint64_t bytes, at;
};

struct unpacking {
	const struct hand_arrival *arrival;
	struct keeper *keeper;
	const struct hand_head *head;
	const struct hand_listener *listeners;
	const struct hand_link *links;
	const struct hand_fd *inventory;
	uint64_t listener_count, link_count, fd_at;
	struct hand_sessions sessions;
	struct realm_sections realms[NODE_REALMS_MAX];
};

/* The section that lies next, whatever it is; NULL: the file ends. */
static const struct hand_section *section_next(struct reading *r)
{
	const struct hand_section *section = (const void *)(r->base + r->at);
	uint64_t room = r->bytes - r->at, data;

	if (room < sizeof(*section))
		return NULL;
	room -= sizeof(*section);
	if (section->each_bytes && section->count > room / section->each_bytes)
		return NULL;
	data = align_up(section->count * section->each_bytes, 8);
	if (data > room)
		return NULL;
	r->at += sizeof(*section) + data;
	return section;
}

/* The section that must come next. NULL: it does not. */
static const void *section_take(
	struct reading *r, enum hand_section_kind kind, uint32_t each, uint64_t *count)
{
	const struct hand_section *section = section_next(r);

	*count = 0;
	if (!section || section->kind != kind || section->each_bytes != each)
		return NULL;
	*count = section->count;
	return section + 1;
}

static const void *section_exact(
	struct reading *r, enum hand_section_kind kind, uint32_t each, uint64_t count)
{
	uint64_t found = 0;
	const void *data = section_take(r, kind, each, &found);

	return data && found == count ? data : NULL;
}

static bool slab_take(struct reading *r, struct slab_sections *out)
{
	uint64_t owners, sum = 0;

	out->classes = section_take(r, HAND_CLASSES, sizeof(*out->classes), &out->class_count);
	out->slabs = section_take(r, HAND_SLABS, sizeof(*out->slabs), &out->slab_count);
	out->numbers = section_take(r, HAND_NUMBERS, sizeof(*out->numbers), &out->object_count);
	out->owners = section_take(r, HAND_OWNERS, sizeof(*out->owners), &owners);
	if (!out->classes || !out->slabs || !out->numbers || !out->owners ||
		owners != out->object_count)
		return false;
	for (uint64_t i = 0; i < out->slab_count; i++)
		sum += out->slabs[i].count;
	return sum == out->object_count;
}

static bool realm_take(struct reading *r, struct realm_sections *out)
{
	uint64_t slots, ring, heads;

	out->image = section_exact(r, HAND_REALM, sizeof(*out->image), 1);
	out->spaces = section_exact(r, HAND_SPACES, sizeof(*out->spaces), INDEX_SPACES_MAX);
	out->slots = section_take(r, HAND_SLOTS, sizeof(*out->slots), &slots);
	out->free_slots =
		section_take(r, HAND_FREE_SLOTS, sizeof(*out->free_slots), &out->free_count);
	out->gone = section_take(r, HAND_GONE, sizeof(*out->gone), &ring);
	out->gone_heads = section_take(r, HAND_GONE_HEADS, sizeof(*out->gone_heads), &heads);
	if (!out->image || !out->spaces || !out->slots || !out->free_slots || !out->gone ||
		!out->gone_heads || slots != out->image->slot_count || out->free_count > slots ||
		ring != heads || !slab_take(r, &out->frames) || !slab_take(r, &out->records))
		return false;
	out->pendings = section_take(r, HAND_PENDINGS, sizeof(*out->pendings), &out->pending_count);
	out->reservations = section_take(
		r, HAND_RESERVATIONS, sizeof(*out->reservations), &out->reservation_count);
	out->waits = section_take(r, HAND_WAITS, sizeof(*out->waits), &out->wait_count);
	out->blocked = section_take(r, HAND_BLOCKED, sizeof(*out->blocked), &out->blocked_count);
	out->ssd_at = section_take(r, HAND_SSD_AT, sizeof(*out->ssd_at), &out->ssd_at_count);
	out->origins = section_take(r, HAND_ORIGINS, sizeof(*out->origins), &out->origin_count);
	out->hbm = section_take(r, HAND_HBM, sizeof(*out->hbm), &out->hbm_count);
	return out->pendings && out->reservations && out->waits && out->blocked && out->ssd_at &&
	       out->origins && out->hbm && (!out->ssd_at_count || out->ssd_at_count == slots) &&
	       out->origin_count <= UINT16_MAX + 1u && !out->image->name[NODE_NAME_MAX - 1] &&
	       out->image->gone_at <= ring;
}

static bool sections_take(struct unpacking *u, struct reading r)
{
	uint64_t none;

	u->head = section_exact(&r, HAND_HEAD, sizeof(*u->head), 1);
	u->listeners = section_take(&r, HAND_LISTENERS, sizeof(*u->listeners), &u->listener_count);
	u->links = section_take(&r, HAND_LINKS, sizeof(*u->links), &u->link_count);
	if (!u->head || !u->listeners || !u->links || u->head->realm_count > NODE_REALMS_MAX)
		return false;
	for (uint32_t i = 0; i < u->head->realm_count; i++)
		if (!realm_take(&r, &u->realms[i]))
			return false;
	u->inventory = section_exact(
		&r, HAND_INVENTORY, sizeof(*u->inventory), u->arrival->parcel->fd_count);
	return u->inventory && section_take(&r, HAND_END, 0, &none);
}

static int no(const struct unpacking *u, int status, const char *text)
{
	snprintf(u->arrival->why, u->arrival->why_bytes, "%s", text);
	return status;
}

static int torn(const struct unpacking *u)
{
	return no(u, -EPROTO, "the state that the running daemon sent is not sound");
}

/* Where the parcel has a descriptor; NULL: it has none. They lie in about this order. */
static int *fd_find(struct unpacking *u, struct hand_fd what)
{
	uint32_t count = u->arrival->parcel->fd_count;

	for (uint32_t i = 0; i < count; i++, u->fd_at++) {
		const struct hand_fd *at = &u->inventory[u->fd_at % count];

		if (at->kind == what.kind && at->owner == what.owner && at->index == what.index)
			return &u->arrival->parcel->fds[u->fd_at % count];
	}
	return NULL;
}

static int fd_value(struct unpacking *u, struct hand_fd what)
{
	const int *fd = fd_find(u, what);

	return fd ? *fd : -1;
}

static void fd_used(struct unpacking *u, struct hand_fd what)
{
	int *fd = fd_find(u, what);

	if (fd)
		*fd = -1;
}

/* ------------------------------------------------------------------------------ the sockets */

static bool path_wanted(const struct unpacking *u, const struct hand_listener *listener)
{
	const struct node_config *config = u->arrival->config;

	if (!listener->realm[0])
		return !strcmp(config->socket_path, listener->path);
	for (unsigned i = 0; i < config->realm_count; i++)
		if (!strcmp(config->realms[i].name, listener->realm))
			return !strcmp(config->realms[i].socket_path, listener->path);
	return false;
}

static int listeners_restore(struct unpacking *u)
{
	const struct node_config *config = u->arrival->config;
	unsigned wanted = config->socket_path[0] != 0;
	int status = 0;

	for (unsigned i = 0; i < config->realm_count; i++)
		wanted += config->realms[i].socket_path[0] != 0;
	if (wanted != u->listener_count)
		return no(u, -EINVAL, "the running daemon listens on other sockets");
	for (uint32_t i = 0; i < u->listener_count && status == 0; i++) {
		const struct hand_listener *from = &u->listeners[i];
		struct hand_fd what = {HAND_FD_LISTENER, i, 0};
		struct local_listener_image image = {.fd = fd_value(u, what)};

		if (from->path[sizeof(from->path) - 1] || from->realm[sizeof(from->realm) - 1] ||
			image.fd < 0)
			return torn(u);
		if (!path_wanted(u, from))
			return no(u, -EINVAL, "the running daemon listens on other sockets");
		memcpy(image.path, from->path, sizeof(image.path));
		memcpy(image.realm, from->realm, sizeof(image.realm));
		status = local_listener_restore(u->arrival->node->server, &image);
		if (status == 0)
			fd_used(u, what);
	}
	return status < 0 ? no(u, status, "no listening socket could be taken over") : 0;
}

/* ----------------------------------------------------------------------------- the sessions */

static struct local_link_image link_image(
	struct unpacking *u, uint32_t number, const struct hand_link *from)
{
	struct local_link_image image = {
		.fd = fd_value(u, (struct hand_fd){HAND_FD_SOCKET, number, 0}),
		.pidfd = fd_value(u, (struct hand_fd){HAND_FD_PROCESS, number, 0}),
		.page_fd = fd_value(u, (struct hand_fd){HAND_FD_PAGE, number, 0}),
		.kick_fd = fd_value(u, (struct hand_fd){HAND_FD_KICK, number, 0}),
		.peer = {from->peer_pid, from->peer_uid, from->peer_gid},
		.bye = from->bye};

	image.queue_fds[0] = -1;
	for (uint32_t i = 1; i < PAGE_QUEUES; i++)
		image.queue_fds[i] = fd_value(u, (struct hand_fd){HAND_FD_QUEUE, number, i});
	memcpy(image.bound_realm, from->bound_realm, sizeof(image.bound_realm));
	image.bound_realm[sizeof(image.bound_realm) - 1] = 0;
	return image;
}

static void link_fds_used(struct unpacking *u, uint32_t number)
{
	for (uint32_t kind = HAND_FD_SOCKET; kind <= HAND_FD_KICK; kind++)
		fd_used(u, (struct hand_fd){kind, number, 0});
	for (uint32_t i = 1; i < PAGE_QUEUES; i++)
		fd_used(u, (struct hand_fd){HAND_FD_QUEUE, number, i});
}

static void session_fill(struct session *session, const struct hand_link *from)
{
	session->id = from->session_id;
	session->blocked_at_ns = from->blocked_at_ns;
	session->blocked_on = from->blocked_on;
	session->opened_ns = from->opened_ns;
	session->submission_count = from->submission_count;
	session->spaces = from->spaces;
	session->pid = from->pid;
	session->uid = from->uid;
	session->readonly = from->readonly;
	session->said_bye = from->said_bye;
	session->stopped = from->stopped;
	session->page.submission_head = from->submission_head;
	memcpy(session->page.completion_tail, from->completion_tail,
		sizeof(session->page.completion_tail));
	memcpy(session->name, from->name, sizeof(session->name));
	session->name[sizeof(session->name) - 1] = 0;
	session->hears_asks = from->hears_asks;
	if (hbm_asks_sound(session, &from->asks))
		session->asks = from->asks;
	/* It reads the old index until it says otherwise. */
	session->unmoved = true;
	session->realm->unmoved++;
}

static int link_restore(struct unpacking *u, uint32_t number)
{
	const struct hand_link *from = &u->links[number];
	struct local_link_image image = link_image(u, number, from);
	struct local_link *link;
	int status;

	if (from->realm != NONE32 &&
		(from->realm >= u->head->realm_count || image.page_fd < 0 || image.kick_fd < 0))
		return torn(u);
	status = local_link_restore(u->arrival->node->server, &image, &link);
	if (status < 0)
		return no(u, status, "a session's connection could not be taken over");
	link_fds_used(u, number);
	if (from->realm == NONE32)
		return 0;
	u->sessions.of_link[number] =
		session_add(u->realms[from->realm].realm, local_link_page(link));
	if (!u->sessions.of_link[number])
		return no(u, -ENOMEM, "out of memory");
	u->sessions.of_link[number]->link = link;
	local_link_session_set(link, u->sessions.of_link[number]);
	session_fill(u->sessions.of_link[number], from);
	return 0;
}

/* ------------------------------------------------------------------------------- the realms */

static const struct realm_config *realm_config_find(
	const struct unpacking *u, const struct hand_realm *image)
{
	const struct node_config *config = u->arrival->config;

	for (unsigned i = 0; i < config->realm_count; i++)
		if (!strcmp(config->realms[i].name, image->name))
			return &config->realms[i];
	return NULL;
}

/* What a successor's configuration may not change. */
static int realm_agrees(const struct unpacking *u, const struct hand_realm *image,
	const struct realm_config *config)
{
	XXH128_hash_t secret = XXH3_128bits(config->secret, config->secret_bytes);
	const struct hand_arrival *arrival = u->arrival;
	const char *what = NULL;

	if (align_up(config->dram_bytes, DRAM_UNIT_BYTES) != image->dram_bytes)
		what = "dram";
	else if (MIN_OF(node_chunk_bytes(arrival->config, config->dram_bytes), image->dram_bytes) !=
		 image->chunk_bytes)
		what = "chunk";
	else if (index_file_bytes(config) != image->index_file_bytes)
		what = "index_blocks or record_bytes";
	else if (secret.low64 != image->secret_low || secret.high64 != image->secret_high)
		what = "secret";
	if (!what)
		return 0;
	snprintf(arrival->why, arrival->why_bytes,
		"realm %s: another %s than the running daemon has: a takeover cannot change it, "
		"stop cleanly and start",
		image->name, what);
	return -EINVAL;
}

static int realm_make(struct unpacking *u, uint32_t number)
{
	struct realm_sections *from = &u->realms[number];
	const struct hand_realm *image = from->image;
	const struct realm_config *config = realm_config_find(u, image);
	struct realm_memory memory = {
		.chunk_bytes = image->chunk_bytes, .ready_bytes = image->ready_bytes};
	int status, *fds;

	if (!config || image->chunk_count > u->arrival->parcel->fd_count)
		return no(u, config ? -EPROTO : -EINVAL,
			"the running daemon has other realms: stop cleanly and start");
	status = realm_agrees(u, image, config);
	if (status < 0)
		return status;
	fds = memory_calloc(image->chunk_count, sizeof(*fds));
	if (!fds)
		return no(u, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < image->chunk_count; i++) {
		fds[i] = fd_value(u, (struct hand_fd){HAND_FD_CHUNK, number, i});
		if (fds[i] < 0)
			status = -EPROTO;
	}
	memory.chunk_fds = fds;
	if (status == 0)
		status = realm_create(u->keeper, config, &memory, &from->realm);
	for (uint32_t i = 0; i < image->chunk_count && status == 0; i++)
		fd_used(u, (struct hand_fd){HAND_FD_CHUNK, number, i});
	memory_free(fds);
	return status < 0 ? no(u, status, "a realm's memory could not be taken over") : 0;
}

static int realm_fill(struct unpacking *u, uint32_t number)
{
	int fd = fd_value(u, (struct hand_fd){HAND_FD_INDEX, number, 0});
	int status = hand_realm_fill(&u->realms[number], &u->sessions, fd);

	if (status == -EPROTO)
		return torn(u);
	return status < 0 ? no(u, status, "the index could not be copied") : 0;
}

/* -------------------------------------------------------------------------------- the whole */

static int state_map(const struct hand_parcel *parcel, struct reading *out)
{
	struct stat file;
	void *base;

	if (fstat(parcel->state_fd, &file) < 0)
		return -errno;
	if (file.st_size <= 0)
		return -EPROTO;
	base = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE, parcel->state_fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	*out = (struct reading){.base = base, .bytes = (uint64_t)file.st_size};
	return 0;
}

int hand_head_read(const struct hand_parcel *parcel, struct hand_head *out)
{
	const struct hand_head *head;
	struct reading r = {0};
	int status = state_map(parcel, &r);

	if (status < 0)
		return status;
	head = section_exact(&r, HAND_HEAD, sizeof(*head), 1);
	if (head && head->magic == HAND_MAGIC && head->version == HAND_VERSION &&
		head->shape == hand_shape() && head->id_bits >= 1 && head->id_bits <= 128)
		*out = *head;
	else
		status = SKEP_STATUS_EVERSION;
	munmap((void *)(uintptr_t)r.base, r.bytes);
	return status;
}

static int unpack(struct unpacking *u)
{
	const struct node_config *config = u->arrival->config;
	int status = 0;

	if (u->head->realm_count != config->realm_count)
		return no(u, -EINVAL,
			"the running daemon has another number of realms: stop cleanly and start");
	if (u->head->ssd_set != u->arrival->node->ssd_set)
		return no(u, -EINVAL,
			"the running daemon has other ssds or another manifest: a takeover cannot "
			"change them, stop cleanly and start");
	u->sessions = (struct hand_sessions){
		memory_calloc(u->link_count + 1, sizeof(struct session *)), u->link_count};
	if (!u->sessions.of_link)
		return no(u, -ENOMEM, "out of memory");
	status = listeners_restore(u);
	for (uint32_t i = 0; i < u->head->realm_count && status == 0; i++)
		status = realm_make(u, i);
	for (uint32_t i = 0; i < u->link_count && status == 0; i++)
		status = link_restore(u, i);
	for (uint32_t i = 0; i < u->head->realm_count && status == 0; i++)
		status = realm_fill(u, i);
	memory_free(u->sessions.of_link);
	return status;
}

int hand_unpack(const struct hand_arrival *arrival)
{
	struct unpacking *u = memory_zalloc(sizeof(*u));
	struct reading r = {0};
	int status;

	if (!u)
		return -ENOMEM;
	u->arrival = arrival;
	u->keeper = arrival->node->keeper;
	status = state_map(arrival->parcel, &r);
	if (status < 0) {
		memory_free(u);
		return status;
	}
	status = sections_take(u, r) ? unpack(u) : torn(u);
	munmap((void *)(uintptr_t)r.base, r.bytes);
	memory_free(u);
	return status;
}
