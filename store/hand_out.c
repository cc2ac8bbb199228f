/* SPDX-License-Identifier: Apache-2.0 */
/* Packs a node's state for its successor; hand_priv.h says what. The keeper stands still. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/hand_priv.h"
#include "transport/local/server_hand.h"

enum { BUFFER_BYTES = 256 << 10 };

struct packing {
	struct node *node;
	struct hand_parcel *parcel;
	int status; /* of the first thing that failed */
	size_t used;
	uint8_t *buffer;
	struct hand_fd *inventory;
	uint32_t fd_room;
};

uint32_t hand_shape(void)
{
	static const uint32_t sizes[] = {sizeof(struct hand_head), sizeof(struct hand_fd),
		sizeof(struct hand_listener), sizeof(struct hand_link), sizeof(struct hand_realm),
		sizeof(struct hand_slab), sizeof(struct hand_pending),
		sizeof(struct hand_reservation), sizeof(struct hand_wait), sizeof(struct hand_hbm),
		sizeof(struct space), sizeof(struct slot), sizeof(struct gone),
		sizeof(struct submission)};

	return (uint32_t)XXH3_64bits(sizes, sizeof(sizes));
}

/* ------------------------------------------------------------------------------- the file */

static void file_write(struct packing *p, const void *bytes, size_t count)
{
	const uint8_t *at = bytes;

	while (count && !p->status) {
		ssize_t wrote = write(p->parcel->state_fd, at, count);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote < 0) {
			p->status = -errno;
			return;
		}
		at += wrote;
		count -= (size_t)wrote;
	}
}

static void pack_flush(struct packing *p)
{
	file_write(p, p->buffer, p->used);
	p->used = 0;
}

static void pack_bytes(struct packing *p, const void *bytes, size_t count)
{
	if (count > BUFFER_BYTES - p->used)
		pack_flush(p);
	if (count > BUFFER_BYTES) {
		file_write(p, bytes, count);
		return;
	}
	if (count)
		memcpy(p->buffer + p->used, bytes, count);
	p->used += count;
}

static void pack_begin(
	struct packing *p, enum hand_section_kind kind, uint32_t each, uint64_t count)
{
	struct hand_section section = {.kind = kind, .each_bytes = each, .count = count};

	pack_bytes(p, &section, sizeof(section));
}

static void pack_end(struct packing *p, uint32_t each, uint64_t count)
{
	static const uint8_t zeros[8];

	pack_bytes(p, zeros, (size_t)(align_up(each * count, 8) - each * count));
}

static void pack_array(struct packing *p, enum hand_section_kind kind, uint32_t each,
	const void *array, uint64_t count)
{
	pack_begin(p, kind, each, count);
	pack_bytes(p, array, (size_t)(each * count));
	pack_end(p, each, count);
}

/* A descriptor joins the parcel; -1 is none. */
static void pack_fd(struct packing *p, int fd, const struct hand_fd *what)
{
	struct hand_parcel *parcel = p->parcel;

	if (fd < 0 || p->status)
		return;
	if (parcel->fd_count == p->fd_room) {
		uint32_t room = p->fd_room ? 2 * p->fd_room : 256;
		int *fds = memory_realloc(parcel->fds, room * sizeof(*fds));
		struct hand_fd *inventory;

		if (fds)
			parcel->fds = fds;
		inventory = memory_realloc(p->inventory, room * sizeof(*inventory));
		if (inventory)
			p->inventory = inventory;
		if (!fds || !inventory) {
			p->status = -ENOMEM;
			return;
		}
		p->fd_room = room;
	}
	p->inventory[parcel->fd_count] = *what;
	parcel->fds[parcel->fd_count++] = fd;
}

/* ------------------------------------------------------------------------- sockets, sessions */

static uint32_t realm_number(const struct keeper *keeper, const struct realm *realm)
{
	uint32_t i = 0;

	while (keeper->realms[i] != realm)
		i++;
	return i;
}

static void link_fds(struct packing *p, uint32_t number, const struct local_link_image *image)
{
	const struct {
		int fd;
		enum hand_fd_kind kind;
	} own[] = {{image->fd, HAND_FD_SOCKET}, {image->pidfd, HAND_FD_PROCESS},
		{image->page_fd, HAND_FD_PAGE}, {image->kick_fd, HAND_FD_KICK}};

	for (unsigned i = 0; i < ARRAY_COUNT(own); i++)
		pack_fd(p, own[i].fd, &(struct hand_fd){own[i].kind, number, 0});
	for (unsigned i = 1; i < PAGE_QUEUES; i++)
		pack_fd(p, image->queue_fds[i], &(struct hand_fd){HAND_FD_QUEUE, number, i});
}

static struct hand_link link_image(
	const struct keeper *keeper, const struct local_link_image *image, uint32_t number)
{
	struct hand_link out = {.realm = NONE32,
		.peer_pid = image->peer.pid,
		.peer_uid = image->peer.uid,
		.peer_gid = image->peer.gid,
		.bye = image->bye};
	struct session *session = image->session;

	memcpy(out.bound_realm, image->bound_realm, sizeof(out.bound_realm));
	if (!session)
		return out;
	session->number = number;
	out.realm = realm_number(keeper, session->realm);
	out.session_id = session->id;
	out.blocked_at_ns = session->blocked_at_ns;
	out.blocked_on = session->blocked_on;
	out.asks = session->asks;
	out.hears_asks = session->hears_asks;
	out.opened_ns = session->opened_ns;
	out.submission_count = session->submission_count;
	out.spaces = session->spaces;
	out.pid = session->pid;
	out.uid = session->uid;
	out.submission_head = session->page.submission_head;
	memcpy(out.completion_tail, session->page.completion_tail, sizeof(out.completion_tail));
	out.readonly = session->readonly;
	out.said_bye = session->said_bye;
	out.stopped = session->stopped;
	memcpy(out.name, session->name, sizeof(out.name));
	return out;
}

static void pack_links(struct packing *p)
{
	const struct local_server *server = p->node->server;
	struct local_link_image image;
	uint32_t count = 0, number = 0;

	for (uint64_t id = 0; (id = local_link_read(server, id, &image));)
		count++;
	pack_begin(p, HAND_LINKS, sizeof(struct hand_link), count);
	for (uint64_t id = 0; (id = local_link_read(server, id, &image)); number++) {
		struct hand_link out = link_image(p->node->keeper, &image, number);

		pack_bytes(p, &out, sizeof(out));
		link_fds(p, number, &image);
	}
	pack_end(p, sizeof(struct hand_link), count);
}

static void pack_listeners(struct packing *p)
{
	struct local_listener_image image;
	uint32_t count = 0;

	while (local_listener_read(p->node->server, count, &image))
		count++;
	pack_begin(p, HAND_LISTENERS, sizeof(struct hand_listener), count);
	for (uint32_t i = 0; local_listener_read(p->node->server, i, &image); i++) {
		struct hand_listener out;

		memcpy(out.path, image.path, sizeof(out.path));
		memcpy(out.realm, image.realm, sizeof(out.realm));
		pack_bytes(p, &out, sizeof(out));
		pack_fd(p, image.fd, &(struct hand_fd){HAND_FD_LISTENER, i, 0});
	}
	pack_end(p, sizeof(struct hand_listener), count);
}

/* ---------------------------------------------------------------------------------- slabs */

struct slab_walk {
	struct packing *p;
	uint64_t offset, object_bytes; /* of the slab */
	bool owners;
};

static void slab_object_pack(void *context, uint64_t offset, uint32_t owner)
{
	struct slab_walk *walk = context;
	uint32_t number = (uint32_t)((offset - walk->offset) / walk->object_bytes);

	pack_bytes(walk->p, walk->owners ? &owner : &number, sizeof(number));
}

static void slab_objects_pack(struct packing *p, struct slab *slab, bool owners)
{
	struct slab_stats stats;

	slab_stats_get(slab, &stats);
	pack_begin(p, owners ? HAND_OWNERS : HAND_NUMBERS, sizeof(uint32_t), stats.live);
	for (int64_t at = slab_next(slab, 0); at >= 0; at = slab_next(slab, (uint32_t)at + 1)) {
		struct slab_info info = slab_info(slab, (uint32_t)at);
		struct slab_walk walk = {.p = p,
			.offset = info.offset,
			.object_bytes = slab_object_bytes(slab, info.class),
			.owners = owners};

		slab_each_in(slab, (uint32_t)at, slab_object_pack, &walk);
	}
	pack_end(p, sizeof(uint32_t), stats.live);
}

static void pack_slab(struct packing *p, struct slab *slab)
{
	struct slab_stats stats;

	slab_stats_get(slab, &stats);
	pack_begin(p, HAND_CLASSES, sizeof(uint64_t), slab_classes(slab));
	for (unsigned i = 0; i < slab_classes(slab); i++) {
		uint64_t bytes = slab_object_bytes(slab, i);

		pack_bytes(p, &bytes, sizeof(bytes));
	}
	pack_begin(p, HAND_SLABS, sizeof(struct hand_slab), stats.slabs);
	for (int64_t at = slab_next(slab, 0); at >= 0; at = slab_next(slab, (uint32_t)at + 1)) {
		struct slab_info info = slab_info(slab, (uint32_t)at);
		struct hand_slab out = {(uint32_t)at, info.class, info.live};

		pack_bytes(p, &out, sizeof(out));
	}
	pack_end(p, sizeof(struct hand_slab), stats.slabs);
	slab_objects_pack(p, slab, false);
	slab_objects_pack(p, slab, true);
}

/* ------------------------------------------------------------------------- blocks being put */

static void pending_pack(struct packing *p, const struct pending *pending, bool idle)
{
	struct hand_pending out = {.last_ns = pending->last_ns,
		.give_up_ns = pending->give_up_ns,
		.slot = pending->slot,
		.idle = idle};

	pack_bytes(p, &out, sizeof(out));
}

/* Those that nobody writes first, in their order. */
static void pack_pendings(struct packing *p, const struct realm *realm)
{
	pack_begin(p, HAND_PENDINGS, sizeof(struct hand_pending), realm->pending_count);
	list_each (node, &realm->pending_idle)
		pending_pack(p, list_item(node, const struct pending, by_age), true);
	for (uint32_t i = 0; i < realm->reservation_max; i++)
		if (realm->pendings[i].slot != NONE32 && list_empty(&realm->pendings[i].by_age))
			pending_pack(p, &realm->pendings[i], false);
	pack_end(p, sizeof(struct hand_pending), realm->pending_count);
}

static void reservation_pack(struct packing *p, const struct reservation *r)
{
	struct hand_reservation out = {.write = r->write,
		.frame = r->frame,
		.at_ns = r->at_ns,
		.bytes = r->bytes,
		.slot = r->slot,
		.link = r->session->number,
		.part = r->part,
		.state = r->state,
		.class = r->class,
		.verdict = r->verdict};

	pack_bytes(p, &out, sizeof(out));
}

/* The live ones first, oldest first. */
static void pack_reservations(struct packing *p, const struct realm *realm)
{
	pack_begin(p, HAND_RESERVATIONS, sizeof(struct hand_reservation), realm->reservation_count);
	list_each (node, &realm->reservation_age)
		reservation_pack(p, list_item(node, const struct reservation, by_age));
	for (uint32_t i = 0; i < realm->reservation_max; i++)
		if (realm->reservations[i].state != RESERVATION_FREE &&
			realm->reservations[i].state != RESERVATION_LIVE)
			reservation_pack(p, &realm->reservations[i]);
	pack_end(p, sizeof(struct hand_reservation), realm->reservation_count);
}

static void pack_waits(struct packing *p, const struct realm *realm)
{
	pack_begin(p, HAND_WAITS, sizeof(struct hand_wait), realm->wait_count);
	for (uint32_t i = 0; i < WAITS_MAX; i++) {
		const struct wait *wait = &realm->waits[i];
		struct hand_wait out;

		if (!wait->used)
			continue;
		out = (struct hand_wait){.deadline_ns = wait->deadline_ns,
			.slot = wait->slot,
			.link = wait->session->number,
			.tag = wait->tag,
			.queue = wait->queue};
		pack_bytes(p, &out, sizeof(out));
	}
	pack_end(p, sizeof(struct hand_wait), realm->wait_count);
}

static void pack_blocked(struct packing *p, const struct realm *realm)
{
	uint64_t count = 0;

	list_each (node, &realm->blocked)
		count++;
	pack_begin(p, HAND_BLOCKED, sizeof(uint32_t), count);
	list_each (node, &realm->blocked)
		pack_bytes(p, &list_item(node, const struct session, of_blocked)->number,
			sizeof(uint32_t));
	pack_end(p, sizeof(uint32_t), count);
}

/* Of each session in the order it announced them. */
static void pack_hbm(struct packing *p, const struct realm *realm)
{
	pack_begin(p, HAND_HBM, sizeof(struct hand_hbm), realm->hbm.count);
	list_each (of_realm, &realm->sessions) {
		const struct session *session = list_item(of_realm, const struct session, of_realm);

		list_each (node, &session->hbm_holds) {
			struct hand_hbm out = {
				.slot = list_item(node, const struct hbm_hold, of_session)->slot,
				.link = session->number};

			pack_bytes(p, &out, sizeof(out));
		}
	}
	pack_end(p, sizeof(struct hand_hbm), realm->hbm.count);
}

/* ---------------------------------------------------------------------------------- realms */

static void realm_image(const struct realm *realm, struct hand_realm *out)
{
	XXH128_hash_t secret = XXH3_128bits(realm->config.secret, realm->config.secret_bytes);
	struct dram_status dram;

	dram_status_get(realm->dram, &dram);
	memset(out, 0, sizeof(*out));
	memcpy(out->name, realm->name, sizeof(out->name));
	out->secret_low = secret.low64;
	out->secret_high = secret.high64;
	out->dram_bytes = dram.bytes;
	out->chunk_bytes = dram_chunk_bytes(realm->dram);
	out->ready_bytes = dram.ready_bytes;
	out->chunk_count = dram_chunk_count(realm->dram);
	out->index_file_bytes = realm->index.file_bytes;
	out->heap_bytes = realm->index.head->heap_bytes;
	out->slot_count = realm->index.head->slot_count;
	out->generation = realm->generation;
	out->next_session = realm->next_session;
	memcpy(out->lru, realm->lru, sizeof(out->lru));
	memcpy(out->lru_of_class, realm->lru_of_class, sizeof(out->lru_of_class));
	out->removed = realm->removed;
	out->next_steal = realm->next_steal;
	out->operator_pins = realm->operator_pins;
	memcpy(out->slot_count_by_state, realm->slot_count_by_state,
		sizeof(out->slot_count_by_state));
	out->gone_at = realm->gone.at;
	out->epoch = realm->ssd.epoch;
	out->epoch_oldest = realm->ssd.epoch_oldest;
	out->ssd_lru = realm->ssd.lru;
	out->ssd_dirty = realm->ssd.dirty;
	memcpy(out->unwritten, realm->ssd.unwritten, sizeof(out->unwritten));
	out->dirtied = realm->ssd.dirtied;
	out->marked = realm->ssd.marked;
	out->marked_ns = realm->ssd.marked_ns;
	memcpy(out->counters, realm->counters, sizeof(out->counters));
	memcpy(out->misses, realm->misses, sizeof(out->misses));
	memcpy(out->latencies, realm->latencies, sizeof(out->latencies));
}

static void pack_realm(struct packing *p, const struct realm *realm, uint32_t number)
{
	const struct index *index = &realm->index;
	struct hand_realm image;

	realm_image(realm, &image);
	pack_array(p, HAND_REALM, sizeof(image), &image, 1);
	pack_array(p, HAND_SPACES, sizeof(struct space), realm->spaces, INDEX_SPACES_MAX);
	pack_array(p, HAND_SLOTS, sizeof(struct slot), index->slots, index->head->slot_count);
	pack_array(p, HAND_FREE_SLOTS, sizeof(uint32_t), index->free_slots, index->free_count);
	pack_array(p, HAND_GONE, sizeof(struct gone), realm->gone.ring, realm->gone.size);
	pack_array(p, HAND_GONE_HEADS, sizeof(uint32_t), realm->gone.heads, realm->gone.size);
	pack_slab(p, dram_slab(realm->dram));
	pack_slab(p, index->records);
	pack_pendings(p, realm);
	pack_reservations(p, realm);
	pack_waits(p, realm);
	pack_blocked(p, realm);
	pack_array(p, HAND_SSD_AT, sizeof(uint32_t), index->ssd_at,
		index->ssd_at ? index->head->slot_count : 0);
	pack_array(p, HAND_ORIGINS, sizeof(uint64_t), realm->ssd.origins, realm->ssd.origin_count);
	pack_hbm(p, realm);
	pack_fd(p, index->fd, &(struct hand_fd){HAND_FD_INDEX, number, 0});
	for (uint32_t i = 0; i < dram_chunk_count(realm->dram); i++)
		pack_fd(p, dram_chunk_fd(realm->dram, i),
			&(struct hand_fd){HAND_FD_CHUNK, number, i});
}

static void pack_all(struct packing *p)
{
	const struct keeper *keeper = p->node->keeper;
	struct hand_head head = {.magic = HAND_MAGIC,
		.version = HAND_VERSION,
		.shape = hand_shape(),
		.incarnation = keeper->incarnation,
		.number = keeper->takeovers,
		.id_bits = keeper->id_bits,
		.realm_count = keeper->realm_count,
		.ssd_set = p->node->ssd_set};

	pack_array(p, HAND_HEAD, sizeof(head), &head, 1);
	pack_listeners(p);
	pack_links(p);
	for (uint32_t i = 0; i < keeper->realm_count; i++)
		pack_realm(p, keeper->realms[i], i);
	/* Behind the rest, which it is gathered from. */
	pack_array(p, HAND_INVENTORY, sizeof(struct hand_fd), p->inventory, p->parcel->fd_count);
	pack_begin(p, HAND_END, 0, 0);
	pack_flush(p);
}

int hand_prepare(const struct node *node, struct hand_parcel *out)
{
	uint64_t bytes = BUFFER_BYTES;

	*out = (struct hand_parcel){.state_fd = -1};
	if (memory_should_fail())
		return -ENOMEM;
	for (unsigned i = 0; i < node->keeper->realm_count; i++) {
		const struct realm *realm = node->keeper->realms[i];

		/* Sizes that do not change: each slot's, its place on the stack of free ones or its
		 * record's number and owner, and what is known of what left. */
		bytes += realm->index.head->slot_count *
			 (sizeof(struct slot) + 2 * sizeof(uint32_t));
		bytes += realm->gone.size * (sizeof(struct gone) + sizeof(uint32_t));
		bytes += INDEX_SPACES_MAX * sizeof(struct space);
	}
	out->state_fd = memfd_create("skep-takeover", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (out->state_fd < 0)
		return -errno;
	/* Where there is no memory for it now there may be when it is written. */
	if (fallocate(out->state_fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes) < 0)
		log_debug("takeover", "no memory ahead for the state: %m");
	return 0;
}

int hand_pack(struct node *node, struct hand_parcel *parcel)
{
	struct packing p = {.node = node, .parcel = parcel};

	p.buffer = memory_calloc(1, BUFFER_BYTES);
	if (p.buffer)
		pack_all(&p);
	else
		p.status = -ENOMEM;
	/* The reader maps it: it must not shrink under him. */
	if (!p.status && fcntl(parcel->state_fd, F_ADD_SEALS,
				 F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		p.status = -errno;
	memory_free(p.buffer);
	memory_free(p.inventory);
	if (p.status)
		hand_parcel_drop(parcel);
	return p.status;
}

void hand_parcel_drop(struct hand_parcel *parcel)
{
	if (parcel->state_fd >= 0)
		close(parcel->state_fd);
	memory_free(parcel->fds);
	*parcel = (struct hand_parcel){.state_fd = -1};
}
