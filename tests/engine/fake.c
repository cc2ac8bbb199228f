/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/fake.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/status.h"
#include "engine/client/client_priv.h"
#include "kernels/checksum.h"
#include "tests/base/unit.h"

enum { PARTS_AT = 4096 + 4096 + FAKE_SLOTS * 64 };

static int memory_file(const char *name, uint64_t bytes, uint8_t **mapped)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	REQUIRE(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	if (mapped) {
		*mapped = mmap(*mapped, bytes, PROT_READ | PROT_WRITE,
			MAP_SHARED | (*mapped ? MAP_FIXED : 0), fd, 0);
		REQUIRE(*mapped != MAP_FAILED);
	}
	return fd;
}

static void index_make(struct fake *fake)
{
	struct index_head *head;

	fake->index_bytes = PARTS_AT + FAKE_SLOTS * sizeof(struct index_part) + FAKE_HEAP_BYTES;
	fake->index = NULL;
	fake->index_fd = memory_file("fake-index", fake->index_bytes, &fake->index);
	head = (struct index_head *)(void *)fake->index;
	*head = (struct index_head){.magic = INDEX_MAGIC,
		.version = INDEX_LAYOUT_VERSION,
		.head_bytes = sizeof(*head),
		.incarnation = fake->incarnation,
		.file_bytes = fake->index_bytes,
		.slot_count = FAKE_SLOTS,
		.bucket_count = 64,
		.buckets_at = 4096,
		.entries_at = 8192,
		.parts_at = PARTS_AT,
		.heap_at = PARTS_AT + FAKE_SLOTS * sizeof(struct index_part),
		.heap_bytes = FAKE_HEAP_BYTES,
		.pool_bytes = FAKE_CHUNKS * FAKE_CHUNK_BYTES,
		.chunk_bytes = FAKE_CHUNK_BYTES,
		.chunk_count = FAKE_CHUNKS,
		.id_bits = 128,
		.pool_ready_bytes = FAKE_CHUNKS * FAKE_CHUNK_BYTES};
	head->spaces[0].generation = fake->generation;
	for (unsigned i = 0; i < 64; i++)
		((struct index_bucket *)(void *)(fake->index + 4096))[i].word = SLOT_NONE;
	fake->slots_used = fake->heap_used = 0;
}

static void pool_make(struct fake *fake)
{
	fake->pool = mmap(NULL, FAKE_CHUNKS * FAKE_CHUNK_BYTES, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(fake->pool != MAP_FAILED);
	for (unsigned i = 0; i < FAKE_CHUNKS; i++) {
		uint8_t *at = fake->pool + i * (size_t)FAKE_CHUNK_BYTES;

		fake->chunk_fds[i] = memory_file("fake-chunk", FAKE_CHUNK_BYTES, &at);
	}
}

/* ---------------------------------------------------------------------------------- answers */

struct reply {
	union {
		struct wire_head head;
		struct wire_hello_answer hello;
		struct wire_space_answer space;
		struct wire_number number;
		struct wire_stats stats;
		uint8_t room[1024];
	} u;
	uint32_t bytes;
	int fds[FAKE_FDS_MAX + 1];
	unsigned fd_count;
};

static void reply_send(const struct fake_client *client, const struct reply *reply)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(reply->fds))];
	} control = {0};
	struct iovec body = {.iov_base = (void *)(uintptr_t)reply->u.room, .iov_len = reply->bytes};
	struct msghdr message = {.msg_iov = &body, .msg_iovlen = 1};

	if (reply->fd_count) {
		struct cmsghdr *head;

		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(reply->fd_count * sizeof(int));
		head = CMSG_FIRSTHDR(&message);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(reply->fd_count * sizeof(int));
		memcpy(CMSG_DATA(head), reply->fds, reply->fd_count * sizeof(int));
	}
	if (sendmsg(client->fd, &message, MSG_NOSIGNAL) < 0) {
		/* The client gave up meanwhile. */
	}
}

static struct reply reply_of(uint16_t op, uint32_t bytes)
{
	struct reply reply = {.bytes = bytes};

	reply.u.head = (struct wire_head){
		.magic = WIRE_MAGIC, .version = WIRE_VERSION, .op = op, .bytes = bytes};
	return reply;
}

static void page_make(struct fake *fake, struct fake_client *client)
{
	uint8_t *memory = NULL;

	client->page_fd = memory_file("fake-page", page_bytes(), &memory);
	client->page_memory = memory;
	page_end_init(&client->page, memory);
	if (fake->fault == FAKE_PAGE_MAGIC_WRONG)
		((struct page_head *)(void *)memory)->magic++;
	if (fake->fault == FAKE_PAGE_SMALL)
		REQUIRE(ftruncate(client->page_fd, 4096) == 0);
}

/* Faults of the answer's own bytes. */
static void hello_spoil(enum fake_fault fault, struct reply *reply)
{
	struct wire_hello_answer *answer = &reply->u.hello;
	struct wire_head *head = &answer->head;

	if (fault == FAKE_SHORT || fault == FAKE_LONG) {
		reply->bytes += fault == FAKE_SHORT ? -8u : 8u;
		head->bytes = reply->bytes;
	}
	head->magic += fault == FAKE_MAGIC;
	head->version = (uint16_t)(head->version + (fault == FAKE_VERSION));
	head->op = (uint16_t)(head->op + (fault == FAKE_OP));
	head->status += fault == FAKE_STATUS_POSITIVE;
	head->bytes += fault == FAKE_LENGTH;
	if (fault == FAKE_NO_FDS)
		reply->fd_count = 0;
	if (fault == FAKE_FEW_FDS)
		reply->fd_count = 2;
	if (fault == FAKE_MANY_FDS) {
		reply->fds[reply->fd_count] = reply->fds[0];
		reply->fd_count++;
	}
	if (fault == FAKE_CHUNKS_NONE)
		answer->chunk_count = 0;
	if (fault == FAKE_CHUNKS_MANY)
		answer->chunk_count = UINT32_MAX;
	answer->chunk_bytes += fault == FAKE_CHUNK_ODD;
	answer->pool_bytes += fault == FAKE_POOL_LONG;
	answer->incarnation += fault == FAKE_INCARNATION;
	if (fault == FAKE_REFUSED) {
		*reply = reply_of(WIRE_HELLO, sizeof(struct wire_head));
		head->status = -EACCES;
	}
}

static void index_spoil(struct fake *fake, enum fake_fault fault)
{
	struct index_head *head = (struct index_head *)(void *)fake->index;

	head->magic = INDEX_MAGIC + (fault == FAKE_INDEX_MAGIC_WRONG);
	head->version = INDEX_LAYOUT_VERSION + (fault == FAKE_INDEX_VERSION);
	head->heap_at = PARTS_AT + FAKE_SLOTS * sizeof(struct index_part) +
			(fault == FAKE_INDEX_OFFSET ? 1ull << 40 : 0);
	REQUIRE(ftruncate(fake->index_fd,
			fault == FAKE_INDEX_SMALL ? 4096 : (off_t)fake->index_bytes) == 0);
	REQUIRE(ftruncate(fake->chunk_fds[1],
			fault == FAKE_CHUNKS_SMALL ? 4096 : FAKE_CHUNK_BYTES) == 0);
}

/* The second chunk always travels in a message of its own. */
static void hello_answer(struct fake *fake, struct fake_client *client)
{
	enum fake_fault fault = (enum fake_fault)fake->fault;
	struct reply reply = reply_of(WIRE_HELLO, sizeof(struct wire_hello_answer));
	struct reply more = reply_of(
		fault == FAKE_CHUNKS_OP ? WIRE_STATS : WIRE_CHUNKS, sizeof(struct wire_head));

	fake->hellos++;
	if (fault == FAKE_SILENT)
		return;
	index_spoil(fake, fault);
	page_make(fake, client);
	reply.u.hello.incarnation = fake->incarnation;
	reply.u.hello.session = 1;
	reply.u.hello.page_bytes = page_bytes();
	reply.u.hello.index_bytes = fake->index_bytes;
	reply.u.hello.pool_bytes = FAKE_CHUNKS * FAKE_CHUNK_BYTES;
	reply.u.hello.chunk_bytes = FAKE_CHUNK_BYTES;
	reply.u.hello.chunk_count = FAKE_CHUNKS;
	reply.fds[0] = client->page_fd;
	reply.fds[1] = fake->index_fd;
	reply.fds[2] = eventfd(0, EFD_CLOEXEC);
	reply.fds[3] = fake->chunk_fds[0];
	reply.fd_count = 4;
	if (fault == FAKE_MANY_FDS) {
		reply.fds[4] = fake->chunk_fds[1];
		reply.fd_count = 5;
	}
	int wake_fd = reply.fds[2];

	hello_spoil(fault, &reply);
	if (fault != FAKE_HANGUP)
		reply_send(client, &reply);
	close(wake_fd);
	if (fault != FAKE_CHUNKS_EMPTY) {
		more.fds[0] = fake->chunk_fds[1];
		more.fd_count = 1;
	}
	if (fault == FAKE_HANGUP || fault == FAKE_CHUNKS_HANGUP)
		shutdown(client->fd, SHUT_RDWR);
	else if (fault != FAKE_REFUSED)
		reply_send(client, &more);
	client->greeted = fault == FAKE_NONE;
}

static void space_answer(
	struct fake *fake, struct fake_client *client, const struct wire_space_open *request)
{
	struct reply reply = reply_of(WIRE_SPACE_OPEN, sizeof(struct wire_space_answer));

	fake->spaces++;
	reply.u.space.generation = fake->generation;
	reply.u.space.version = 1;
	memset(reply.u.space.secret, fake->secret, sizeof(reply.u.space.secret));
	if (fake->refusing || !strcmp(request->name, "differs")) {
		reply.u.space.head.status = SKEP_STATUS_EDIFFERS;
		memcpy(reply.u.space.field, "model", 6);
	}
	reply_send(client, &reply);
}

static void number_answer(
	struct fake *fake, struct fake_client *client, const struct wire_number *request)
{
	struct index_head *head = (struct index_head *)(void *)fake->index;
	struct reply reply = reply_of(request->head.op, sizeof(struct wire_number));

	if (request->head.op == WIRE_SPACE_STEP) {
		fake->secret++;
		reply.u.number.number = 2;
		atomic_store(&head->spaces[0].generation, ++fake->generation);
	} else if (request->head.op == WIRE_SPACE_PURGE) {
		reply.u.number.number = 7;
	} else if (client->page.queue_fds[request->number] >= 0) {
		reply.u.number.head.status = -EINVAL;
	} else {
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

		client->page.queue_fds[request->number] = reply.fds[0] = fd;
		reply.fd_count = 1;
	}
	reply_send(client, &reply);
}

static void client_end(struct fake_client *client)
{
	close(client->fd);
	client->fd = -1;
	if (client->page_memory) {
		for (unsigned i = 0; i < PAGE_QUEUES; i++)
			if (client->page.queue_fds[i] >= 0)
				close(client->page.queue_fds[i]);
		munmap(client->page_memory, page_bytes());
		close(client->page_fd);
	}
	client->page_memory = NULL;
	client->greeted = false;
}

static void client_request(struct fake *fake, struct fake_client *client)
{
	_Alignas(16) uint8_t message[WIRE_MESSAGE_MAX];
	const struct wire_head *head = (const void *)message;
	ssize_t got = recv(client->fd, message, sizeof(message), MSG_DONTWAIT);
	struct reply reply;

	if (got < 0 && errno == EAGAIN)
		return;
	if (got < (ssize_t)sizeof(*head)) {
		client_end(client);
		return;
	}
	REQUIRE(head->magic == WIRE_MAGIC && head->bytes == (uint32_t)got);
	if (head->op == WIRE_HELLO) {
		hello_answer(fake, client);
	} else if (head->op == WIRE_BYE) {
		/* No answer. */
	} else if (head->op == WIRE_SPACE_OPEN) {
		space_answer(fake, client, (const void *)message);
	} else if (head->op == WIRE_STATS) {
		reply = reply_of(WIRE_STATS, sizeof(struct wire_stats));
		reply.u.stats.blocks = fake->slots_used;
		reply_send(client, &reply);
	} else {
		number_answer(fake, client, (const void *)message);
	}
}

/* ------------------------------------------------------------------------------ submissions */

static int32_t reserve_answer(
	struct fake *fake, struct fake_client *client, const struct submission *submission)
{
	struct reserve_block *blocks =
		page_end_scratch(&client->page, submission->scratch_at, submission->scratch_bytes);

	REQUIRE(blocks && submission->count && submission->count <= FAKE_SLOTS);
	for (uint32_t i = 0; i < submission->count; i++) {
		blocks[i].status = 0;
		blocks[i].slot = i;
		blocks[i].name_generation = 1000 + i;
		blocks[i].write = ++fake->writes;
		blocks[i].frame = i * 4096u;
		blocks[i].bytes = 4096;
	}
	return (int32_t)submission->count;
}

static int32_t commit_answer(struct fake_client *client, const struct submission *submission)
{
	struct commit_part *parts =
		page_end_scratch(&client->page, submission->scratch_at, submission->scratch_bytes);

	REQUIRE(parts);
	for (uint32_t i = 0; i < submission->count; i++) {
		struct completion each = {.tag = submission->tag, .value = i};

		if (submission->u.other.kind == COMMIT_SUMS_MOVER)
			page_end_complete(&client->page, submission->queue, &each);
		else
			parts[i].status = 0;
	}
	return (int32_t)submission->count;
}

static void last_set(
	struct fake *fake, struct submission *which, const struct submission *submission)
{
	pthread_mutex_lock(&fake->lock);
	*which = *submission;
	pthread_mutex_unlock(&fake->lock);
}

struct submission fake_last(struct fake *fake, const struct submission *which)
{
	struct submission copy;

	pthread_mutex_lock(&fake->lock);
	copy = *which;
	pthread_mutex_unlock(&fake->lock);
	return copy;
}

static void submission_take(
	struct fake *fake, struct fake_client *client, const struct submission *submission)
{
	struct completion answer = {.tag = submission->tag};

	switch (submission->op) {
	case SUBMIT_TOUCH:
		last_set(fake, &fake->last_touch, submission);
		fake->touches++;
		return;
	case SUBMIT_ABORT:
		last_set(fake, &fake->last_abort, submission);
		fake->aborts++;
		return;
	case SUBMIT_QUARANTINE:
		fake->quarantines++;
		return;
	case SUBMIT_HINT:
		fake->hints++;
		return;
	case SUBMIT_RESERVE:
		fake->reserves++;
		answer.status = reserve_answer(fake, client, submission);
		break;
	case SUBMIT_COMMIT:
		fake->commits++;
		answer.status = commit_answer(client, submission);
		if (submission->u.other.kind == COMMIT_SUMS_MOVER)
			return;
		break;
	case SUBMIT_WAIT:
		if (!fake->waits_end)
			return;
		break;
	case SUBMIT_CANCEL:
		answer.status = -ECANCELED;
		break;
	case SUBMIT_SYNC:
		answer.status = fake->sync_failure ? fake->sync_failure : -ENOTSUP;
		break;
	default:
		answer.status = -ENOSYS;
	}
	page_end_complete(&client->page, submission->queue, &answer);
}

static void *fake_main(void *arg)
{
	struct fake *fake = arg;
	struct submission submission;

	while (!fake->stop) {
		struct pollfd polls[1 + FAKE_CLIENTS_MAX] = {
			{.fd = fake->listen_fd, .events = POLLIN}};

		for (unsigned i = 0; i < FAKE_CLIENTS_MAX; i++)
			polls[1 + i] = (struct pollfd){.fd = fake->clients[i].fd, .events = POLLIN};
		poll(polls, 1 + FAKE_CLIENTS_MAX, 1);
		if (fake->mute)
			usleep(1000);
		for (unsigned i = 0; i < FAKE_CLIENTS_MAX; i++) {
			struct fake_client *client = &fake->clients[i];

			while (client->greeted && !fake->deaf &&
				page_end_take(&client->page, &submission) > 0)
				submission_take(fake, client, &submission);
			if (client->fd >= 0 && polls[1 + i].revents && !fake->mute)
				client_request(fake, client);
			else if (client->fd < 0 && polls[0].revents) {
				client->fd = accept4(fake->listen_fd, NULL, NULL, SOCK_CLOEXEC);
				polls[0].revents = 0;
			}
		}
		fake->passes++;
	}
	return NULL;
}

/* ------------------------------------------------------------------------------ life, death */

void fake_start(struct fake *fake)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (!fake->path[0]) {
		uint64_t number;

		REQUIRE(getrandom(&number, sizeof(number), 0) == sizeof(number));
		snprintf(fake->path, sizeof(fake->path), "/tmp/skep-fake-%016llx.sock",
			(unsigned long long)number);
	}
	fake->incarnation += 1 + clock_ns();
	fake->generation += 100;
	index_make(fake);
	pool_make(fake);
	for (unsigned i = 0; i < FAKE_CLIENTS_MAX; i++)
		fake->clients[i].fd = -1;
	unlink(fake->path);
	memcpy(address.sun_path, fake->path, sizeof(fake->path));
	fake->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	REQUIRE(fake->listen_fd >= 0);
	REQUIRE_EQ(bind(fake->listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
	REQUIRE_EQ(listen(fake->listen_fd, 16), 0);
	fake->stop = false;
	pthread_mutex_init(&fake->lock, NULL);
	REQUIRE_EQ(pthread_create(&fake->thread, NULL, fake_main, fake), 0);
}

void fake_kill(struct fake *fake)
{
	fake->stop = true;
	REQUIRE_EQ(pthread_join(fake->thread, NULL), 0);
	close(fake->listen_fd);
	for (unsigned i = 0; i < FAKE_CLIENTS_MAX; i++)
		if (fake->clients[i].fd >= 0)
			client_end(&fake->clients[i]);
	munmap(fake->index, fake->index_bytes);
	munmap(fake->pool, FAKE_CHUNKS * FAKE_CHUNK_BYTES);
	close(fake->index_fd);
	for (unsigned i = 0; i < FAKE_CHUNKS; i++)
		close(fake->chunk_fds[i]);
}

void fake_end(struct fake *fake)
{
	fake_kill(fake);
	unlink(fake->path);
}

void fake_settle(struct fake *fake)
{
	/* The pass under way may have looked into the ring before: the next one has not. */
	fake_await(&fake->passes, atomic_load(&fake->passes) + 2);
}

void fake_await_at(const char *file, int line, _Atomic unsigned *count, unsigned wanted)
{
	uint64_t until = clock_ns() + 5 * NS_PER_S;

	while (atomic_load(count) < wanted) {
		if (clock_ns() > until) {
			fprintf(stderr, "%s:%d: %u came, not %u\n", file, line, atomic_load(count),
				wanted);
			exit(1);
		}
		usleep(1000);
	}
}

/* ----------------------------------------------------------------------------------- blocks */

static void block_record(
	struct fake *fake, struct index_entry *entry, const struct id_input *in, uint64_t sum)
{
	struct index_head *head = (struct index_head *)(void *)fake->index;
	struct record_shape shape = {.parts = 1,
		.token_count = in->token_count,
		.key_bytes = in->key_bytes,
		.extra_bytes = in->extra_bytes,
		.range_sums = 1};
	uint8_t *record = fake->index + head->heap_at + fake->heap_used;
	uint64_t word = (uint64_t)in->token_count | (uint64_t)in->key_bytes << 32 |
			(uint64_t)in->extra_bytes << 48;
	uint8_t *blob = record + sizeof(word) + align_up(in->token_count * 4ull, 8);

	REQUIRE(fake->heap_used + record_bytes(&shape) <= FAKE_HEAP_BYTES);
	entry->record = fake->heap_used / INDEX_RECORD_GRANULE;
	fake->heap_used += (uint32_t)align_up(record_bytes(&shape), INDEX_RECORD_GRANULE);
	memcpy(record, &word, sizeof(word));
	if (in->token_count)
		memcpy(record + sizeof(word), in->tokens, in->token_count * 4ull);
	if (in->key_bytes)
		memcpy(blob, in->key, in->key_bytes);
	if (in->extra_bytes)
		memcpy(blob + in->key_bytes, in->extra, in->extra_bytes);
	memcpy(record + record_sums_at(&shape), &sum, sizeof(sum));
}

static void block_part(
	struct fake *fake, uint32_t slot, struct block_id id, uint32_t bytes, uint64_t *sum)
{
	struct index_head *head = (struct index_head *)(void *)fake->index;
	struct index_part *part =
		&((struct index_part *)(void *)(fake->index + head->parts_at))[slot];
	uint8_t *frame = fake->pool + slot * 16384u;
	struct checksum_root_input input = {.length = bytes,
		.incarnation = fake->incarnation,
		.generation = 500 + slot,
		.range_sums = sum,
		.range_count = 1};
	struct checksum_root root;

	REQUIRE(bytes <= 16384);
	for (uint32_t i = 0; i < bytes; i++)
		frame[i] = (uint8_t)mix64(id.low + i);
	*sum = checksum_range(frame, bytes);
	id_bytes(input.block_id, id);
	root = checksum_root_make(&input);
	part->frame = slot * 16384u / FRAME_GRANULE_BYTES;
	part->bytes = bytes;
	part->write = 500 + slot;
	part->root_low = root.low;
	part->root_high = root.high;
}

uint32_t fake_block(struct fake *fake, struct skep_chain *chain, uint32_t i, enum entry_state state,
	uint32_t bytes)
{
	struct index_head *head = (struct index_head *)(void *)fake->index;
	struct index_bucket *buckets = (struct index_bucket *)(void *)(fake->index + 4096);
	struct block_id id = chain->ids[i];
	struct index_bucket *bucket = &buckets[hash_range((uint32_t)id.low, head->bucket_count)];
	struct id_input in = probe_input(&chain->probe, i);
	uint32_t slot = fake->slots_used++;
	struct index_entry *entry = &fake_entries(fake)[slot];
	uint64_t sum;

	REQUIRE(slot < FAKE_SLOTS);
	block_part(fake, slot, id, bytes, &sum);
	block_record(fake, entry, &in, sum);
	entry->id_low = id.low;
	entry->id_high = id.high;
	entry->parent_slot = i ? slot - 1 : SLOT_ROOT(0);
	entry->parent_generation = i ? entry[-1].name_generation : fake->generation;
	entry->child_slot = SLOT_NONE;
	if (i)
		entry[-1].child_slot = slot;
	entry->parts = 1;
	entry->state = (uint8_t)state;
	entry->next_slot = (uint32_t)bucket->word;
	entry->frame_generation = state == ENTRY_PRESENT ? 2000 + slot : 0;
	atomic_store_explicit(&entry->name_generation, 1000 + slot, memory_order_release);
	atomic_store_explicit(
		&bucket->word, ((bucket->word >> 32) + 1) << 32 | slot, memory_order_release);
	return slot;
}
