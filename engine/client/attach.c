/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/client/client_priv.h"
#include "engine/client/embedded.h"

/* Index and pool start on a boundary on which large pages can lie. */
#define MAP_ALIGN_BYTES	    (2ull << 20)
#define MAP_ALIGN_BYTES_MAX (1ull << 30)
/* Page tables are set up in steps that take about a millisecond. */
#define PREPARE_STEP_BYTES (16ull << 20)

struct attachment attachment_nowhere = {.down = 1, .gone = true};

/* --------------------------------------------------------------------------------- mappings */

static bool file_has(int fd, uint64_t bytes)
{
	struct stat file;

	return fstat(fd, &file) == 0 && file.st_size >= 0 && (uint64_t)file.st_size >= bytes;
}

/* An address range with nothing in it yet, on a boundary that suits its pages. */
static int range_reserve(struct mapping *mapping, uint64_t bytes, uint64_t align)
{
	uint8_t *base, *start;

	if (memory_should_fail())
		return -ENOMEM;
	base = mmap(
		NULL, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return -errno;
	start = base + (align_up((uintptr_t)base, align) - (uintptr_t)base);
	if (start > base)
		munmap(base, (size_t)(start - base));
	munmap(start + bytes, (size_t)(base + align - start));
	mapping->base = start;
	mapping->bytes = bytes;
	return 0;
}

/* Maps the beginning of a memory file into a reserved range. The file must be as long: beyond its
 * end a touch would be a SIGBUS. */
static int file_map(uint8_t *place, int fd, uint64_t bytes, int protection)
{
	if (!file_has(fd, bytes))
		return -EPROTO;
	if (memory_should_fail())
		return -ENOMEM;
	if (mmap(place, bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return -errno;
	return memory_seclude(place, bytes);
}

static int index_map(struct attachment *a, const struct local_welcome *welcome)
{
	uint64_t bytes = align_up(welcome->answer.index_bytes, 4096);
	const struct index_head *head;
	int status = range_reserve(&a->index_map, bytes, MAP_ALIGN_BYTES);

	if (!status)
		status = file_map(a->index_map.base, welcome->index_fd, welcome->answer.index_bytes,
			PROT_READ);
	if (!status)
		status = index_view_open(&a->index, a->index_map.base, welcome->answer.index_bytes);
	if (status < 0)
		return status == -EINVAL ? -EPROTO : status;
	head = a->index.head;
	if (head->incarnation != welcome->answer.incarnation ||
		head->pool_bytes != welcome->answer.pool_bytes)
		return -EPROTO;
	a->id_bits = head->id_bits;
	return 0;
}

static int pool_map(struct attachment *a, const struct local_welcome *welcome, bool readonly)
{
	const struct wire_hello_answer *answer = &welcome->answer;
	uint64_t align = MAP_ALIGN_BYTES;
	struct stat file;
	int status;

	/* Files of huge pages tell their page as their block size. */
	if (fstat(welcome->chunk_fds[0], &file) == 0 && file.st_blksize > (blksize_t)align &&
		file.st_blksize <= (blksize_t)MAP_ALIGN_BYTES_MAX &&
		(file.st_blksize & (file.st_blksize - 1)) == 0)
		align = (uint64_t)file.st_blksize;
	status = range_reserve(&a->pool_map, answer->chunk_count * answer->chunk_bytes, align);
	for (uint32_t i = 0; !status && i < answer->chunk_count; i++) {
		uint64_t at = i * answer->chunk_bytes;

		status = file_map((uint8_t *)a->pool_map.base + at, welcome->chunk_fds[i],
			MIN_OF(answer->chunk_bytes, answer->pool_bytes - at),
			readonly ? PROT_READ : PROT_READ | PROT_WRITE);
	}
	a->pool = a->pool_map.base;
	a->pool_bytes = answer->pool_bytes;
	a->chunk_bytes = answer->chunk_bytes;
	a->chunk_count = answer->chunk_count;
	a->chunk_holds = memory_calloc(a->chunk_count, sizeof(*a->chunk_holds));
	return !status && !a->chunk_holds ? -ENOMEM : status;
}

static void mapping_drop(struct mapping *mapping)
{
	if (mapping->base)
		munmap(mapping->base, mapping->bytes);
	mapping->base = NULL;
}

/* ----------------------------------------------------------------------------- making, ending */

static int socket_open(const struct attach_input *input)
{
	const struct skep *session = input->session;

	if (session->embedded)
		return embedded_connect(session->embedded);
	return local_connect(session->path, input->connect_deadline_ns);
}

static int attachment_connect(
	struct attachment *a, const struct attach_input *input, struct local_welcome *welcome)
{
	struct skep *session = input->session;
	int fd = socket_open(input), status;

	if (fd < 0)
		return fd;
	status = local_hello(&(struct local_hello){.fd = fd,
				     .hello = &session->hello,
				     .wait = input->wait,
				     .deadline_ns = input->deadline_ns},
		welcome);
	if (!status)
		status = local_client_open(&a->local, fd, welcome);
	if (status < 0) {
		local_bye(fd);
		close(fd);
	}
	return status;
}

int attachment_create(const struct attach_input *input, struct attachment **out)
{
	struct local_welcome welcome = {.page_fd = -1, .index_fd = -1, .wake_fd = -1};
	struct attachment *a = memory_zalloc(sizeof(*a));
	int status;

	if (!a)
		return -ENOMEM;
	list_init(&a->link);
	pthread_mutex_init(&a->ask_lock, NULL);
	for (unsigned i = 0; i < QUEUES_MAX; i++)
		a->queue_fds[i] = -1;
	a->epoch = input->epoch;
	a->session = input->session;
	status = attachment_connect(a, input, &welcome);
	if (status < 0) {
		local_welcome_drop(&welcome);
		pthread_mutex_destroy(&a->ask_lock);
		memory_free(a);
		return status;
	}
	a->incarnation = welcome.answer.incarnation;
	a->born_ns = clock_ns();
	a->pins = a->local.pins;
	a->pins_used = PIN_CELL_COPY + 1;
	atomic_store_explicit(&a->local.page->pins_used, a->pins_used, memory_order_release);
	status = index_map(a, &welcome);
	if (!status)
		status = pool_map(a, &welcome, input->session->hello.flags & WIRE_HELLO_READONLY);
	local_welcome_drop(&welcome);
	if (status < 0) {
		attachment_destroy(input->session, a);
		return status;
	}
	*out = a;
	return 0;
}

void attachment_unmap(struct skep *session, struct attachment *a)
{
	pthread_mutex_lock(&session->lock);
	for (unsigned i = 0; i < QUEUES_MAX; i++) {
		if (a->queue_fds[i] < 0)
			continue;
		/* Closing alone would leave it in the set while the daemon has it open. */
		if (session->queues[i])
			epoll_ctl(
				session->queues[i]->epoll_fd, EPOLL_CTL_DEL, a->queue_fds[i], NULL);
		close(a->queue_fds[i]);
		a->queue_fds[i] = -1;
	}
	pthread_mutex_unlock(&session->lock);
	local_client_close(&a->local);
	mapping_drop(&a->index_map);
	mapping_drop(&a->moved_map);
	mapping_drop(&a->pool_map);
	atomic_store_explicit(&a->moved, 0, memory_order_relaxed);
	a->pool = NULL;
	a->pins = NULL;
}

void attachment_destroy(struct skep *session, struct attachment *a)
{
	if (!a || a == &attachment_nowhere)
		return;
	if (!a->gone) {
		/* One that never got as far as to be used; else it was said before. */
		if (!atomic_load_explicit(&a->down, memory_order_relaxed))
			local_client_bye(&a->local);
		attachment_unmap(session, a);
	}
	pthread_mutex_destroy(&a->ask_lock);
	memory_free(a->chunk_holds);
	memory_free(a);
}

int attachment_move_prepare(struct attachment *a)
{
	const struct index_head *head, *old = a->index.head;
	const struct wire_index *news = &a->local.index;
	uint64_t bytes = align_up(news->index_bytes, 4096);
	int fd = a->local.index_fd, status;

	a->local.index_fd = -1;
	/* One that was not taken up yet is out of date. */
	mapping_drop(&a->moved_map);
	status = range_reserve(&a->moved_map, bytes, MAP_ALIGN_BYTES);
	if (!status)
		status = file_map(a->moved_map.base, fd, news->index_bytes, PROT_READ);
	close(fd);
	if (!status)
		status = index_view_open(&a->moved_index, a->moved_map.base, news->index_bytes);
	if (status < 0)
		return status == -EINVAL ? -EPROTO : status;
	head = a->moved_index.head;
	if (news->incarnation != a->incarnation || head->incarnation != a->incarnation ||
		head->pool_bytes != a->pool_bytes || head->slot_count != old->slot_count ||
		head->id_bits != a->id_bits)
		return -EPROTO;
	a->moved_number = news->number;
	return 0;
}

void attachment_move(struct attachment *a)
{
	mapping_drop(&a->index_map);
	a->index = a->moved_index;
	a->index_map = a->moved_map;
	a->moved_map.base = NULL;
	/* Release: pins that were taken by the old index are in the table before the daemon may
	 * free what it could not take from readers of that one. */
	atomic_store_explicit(&a->local.page->index_number, a->moved_number, memory_order_release);
	/* Pairs with session_enter(): who reads 0 after this reads the new index. */
	atomic_store_explicit(&a->moved, 0, memory_order_seq_cst);
}

bool attachment_prepare(struct skep *session, struct attachment *a)
{
	bool readonly = session->hello.flags & WIRE_HELLO_READONLY;
	uint64_t ready, step;

	/* The session's thread may come to read another index meanwhile. */
	pthread_mutex_lock(&session->lock);
	/* Acquire pairs with the keeper's release: pages below it are there, charged to the daemon.
	 * Beyond it a touch would make them ours to pay for. */
	ready = atomic_load_explicit(&a->index.head->pool_ready_bytes, memory_order_acquire);
	pthread_mutex_unlock(&session->lock);
	ready = MIN_OF(ready, a->pool_bytes) & ~4095ull;
	if (a->prepared_bytes >= ready)
		return false;
	step = MIN_OF(ready - a->prepared_bytes, PREPARE_STEP_BYTES);
	if (madvise(a->pool + a->prepared_bytes, step,
		    readonly ? MADV_POPULATE_READ : MADV_POPULATE_WRITE) < 0) {
		/* An older kernel, or no memory for page tables: the first touch does it then. */
		a->prepared_bytes = a->pool_bytes;
		return false;
	}
	a->prepared_bytes += step;
	return a->prepared_bytes < ready;
}

int attachment_ask(struct attachment *a, const struct local_ask *ask)
{
	int status;

	/* Held by the other thread for one exchange at most, and hardly ever. */
	while (pthread_mutex_trylock(&a->ask_lock)) {
		struct timespec step = {.tv_nsec = NS_PER_MS};

		if (clock_ns() >= ask->deadline_ns)
			return -ETIMEDOUT;
		nanosleep(&step, NULL);
	}
	status = local_client_ask(&a->local, ask);
	if (a->local.index_fd >= 0)
		atomic_store_explicit(&a->told, 1, memory_order_release);
	pthread_mutex_unlock(&a->ask_lock);
	/* Before it is in the library the watcher does not know the session; it looks then. */
	if (atomic_load_explicit(&a->told, memory_order_relaxed) && a->session->library)
		watcher_kick(a->session);
	return status;
}
