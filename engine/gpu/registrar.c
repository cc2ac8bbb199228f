/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/gpu/registrar_priv.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"

/* Between two looks: what leaves has two seconds. */
#define LOOK_NS (100 * NS_PER_MS)

#define NODES_MAX 64

/* linux/mempolicy.h, which is not everywhere: the node of the page at an address. */
#define POLICY_OF_NODE 1
#define POLICY_OF_ADDR 2

enum chunk_state {
	CHUNK_WAITING, /* held, to be registered */
	CHUNK_REGISTERED,
	CHUNK_REFUSED, /* by the device; not held */
};

struct chunk {
	uint64_t id;
	uint8_t *memory;
	uint64_t bytes;
	enum chunk_state state;
	bool readonly;
	bool leaves;	   /* the thread's own */
	uint32_t number;   /* from 1; once it is registered */
	unsigned distance; /* of its NUMA node */
};

/* In the order of addresses; of a chunk that has gone and one in its place the older first. */
struct table {
	struct chunk *chunks;
	uint32_t count, room;
};

struct registrar {
	struct skep *session;
	struct gpu *device;
	unsigned distances[NODES_MAX]; /* of each NUMA node from the device */
	pthread_t thread;
	bool started;
	/* The thread's own. */
	struct skep_chunk *told;
	uint32_t told_room;
	struct table next; /* the table as it becomes */
	uint32_t numbers;
	/* Changed by the thread, under the lock; read by others under it. */
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stop;
	struct table table;
	int32_t refusal;
};

/* ------------------------------------------------------------------------------------- distance */

/*
 * Distances of all nodes from the device's, as the system tells them (10 is none). Where it tells
 * nothing, the node's own memory is near and all else is equal.
 */
static void distances_read(struct registrar *registrar, int node)
{
	char path[64], line[512];
	FILE *file;

	for (int i = 0; i < NODES_MAX; i++)
		registrar->distances[i] = i == node ? 0 : UINT_MAX / 2;
	if (node < 0)
		return;
	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/distance", node);
	file = fopen(path, "re");
	if (file && fgets(line, sizeof(line), file)) {
		char *at = line, *end;

		for (int i = 0; i < NODES_MAX; i++, at = end) {
			unsigned long distance = strtoul(at, &end, 10);

			if (end == at)
				break;
			registrar->distances[i] = i == node ? 0 : (unsigned)distance;
		}
	}
	if (file)
		fclose(file);
}

/* Of memory whose pages are there. A container may forbid the question: all is equally far then. */
static unsigned distance_of(const struct registrar *registrar, const void *memory)
{
	int node = -1;

	if (syscall(SYS_get_mempolicy, &node, NULL, 0, memory, POLICY_OF_NODE | POLICY_OF_ADDR) ||
		node < 0 || node >= NODES_MAX)
		return UINT_MAX;
	return registrar->distances[node];
}

/* ------------------------------------------------------------------------------------ the table */

static int told_order(const void *a, const void *b)
{
	const struct skep_chunk *one = a, *two = b;

	if (one->memory != two->memory)
		return (uintptr_t)one->memory < (uintptr_t)two->memory ? -1 : 1;
	return one->id < two->id ? -1 : one->id > two->id;
}

/* How a chunk of the table lies to one that was told: negative, 0 (it is it), positive. */
static int chunk_order(const struct chunk *chunk, const struct skep_chunk *told)
{
	const struct skep_chunk mine = {.id = chunk->id, .memory = chunk->memory};

	return told_order(&mine, told);
}

static int room_make(struct registrar *registrar, uint32_t count)
{
	struct skep_chunk *told;
	struct chunk *chunks;

	if (count > registrar->told_room) {
		told = memory_realloc(registrar->told, count * sizeof(*told));
		if (!told)
			return -ENOMEM;
		registrar->told = told;
		registrar->told_room = count;
	}
	if (count > registrar->next.room) {
		chunks = memory_realloc(registrar->next.chunks, count * sizeof(*chunks));
		if (!chunks)
			return -ENOMEM;
		registrar->next.chunks = chunks;
		registrar->next.room = count;
	}
	return 0;
}

/* Asks for all chunks there are, in the order of the table. Return: how many, or negative. */
static int told_ask(struct registrar *registrar)
{
	int count = skep_chunks(registrar->session, registrar->told, registrar->told_room);

	while (count > 0 && ((uint32_t)count > registrar->told_room ||
				    (uint32_t)count > registrar->next.room)) {
		int rc = room_make(registrar, (uint32_t)count);

		if (rc < 0)
			return rc;
		count = skep_chunks(registrar->session, registrar->told, registrar->told_room);
	}
	if (count > 0)
		qsort(registrar->told, (size_t)count, sizeof(*registrar->told), told_order);
	return count;
}

/* A chunk that was not known: held from now on, unless it is about to go. */
static void chunk_come(struct registrar *registrar, const struct skep_chunk *told)
{
	if (told->state != SKEP_CHUNK_LIVE || skep_chunk_hold(registrar->session, told->id))
		return;
	registrar->next.chunks[registrar->next.count++] = (struct chunk){.id = told->id,
		.memory = told->memory,
		.bytes = told->bytes,
		.readonly = told->readonly,
		.distance = distance_of(registrar, told->memory)};
}

/* A known one: it stays as it is, or leaves. One that waits does not outlive its daemon. */
static void chunk_go_on(
	struct registrar *registrar, struct chunk *chunk, const struct skep_chunk *told)
{
	bool leaves = told->state == SKEP_CHUNK_LEAVING ||
		      (told->state == SKEP_CHUNK_OLD && chunk->state == CHUNK_WAITING);

	chunk->leaves = leaves;
	if (!leaves)
		registrar->next.chunks[registrar->next.count++] = *chunk;
}

static void chunk_end(struct registrar *registrar, const struct chunk *chunk)
{
	if (chunk->state == CHUNK_REGISTERED)
		gpu_unregister(registrar->device, chunk->memory);
	if (chunk->state != CHUNK_REFUSED)
		SKEP_CHECK(!skep_chunk_release(registrar->session, chunk->id));
}

/* Brings the table in line with the @count chunks that were told; what left is ended. */
static void table_renew(struct registrar *registrar, uint32_t count)
{
	struct table was = registrar->table;
	uint32_t i = 0, j = 0;

	registrar->next.count = 0;
	while (i < was.count || j < count) {
		int order = i == was.count ? 1
			    : j == count   ? -1
					   : chunk_order(&was.chunks[i], &registrar->told[j]);

		/* One that is held is told: what is not any more was refused. */
		SKEP_CHECK(order >= 0 || was.chunks[i].state == CHUNK_REFUSED);
		if (order == 0)
			chunk_go_on(registrar, &was.chunks[i], &registrar->told[j]);
		else if (order > 0)
			chunk_come(registrar, &registrar->told[j]);
		i += order <= 0;
		j += order >= 0;
	}
	pthread_mutex_lock(&registrar->lock);
	registrar->table = registrar->next;
	pthread_mutex_unlock(&registrar->lock);
	registrar->next = was;
	/* Nobody finds them any more. */
	for (i = 0; i < was.count; i++)
		if (was.chunks[i].leaves)
			chunk_end(registrar, &was.chunks[i]);
}

/* ---------------------------------------------------------------------------------- registering */

/* The nearest chunk that waits, or NULL. */
static struct chunk *chunk_pick(struct registrar *registrar)
{
	struct chunk *picked = NULL;

	for (uint32_t i = 0; i < registrar->table.count; i++) {
		struct chunk *chunk = &registrar->table.chunks[i];

		if (chunk->state == CHUNK_WAITING &&
			(!picked || chunk->distance < picked->distance))
			picked = chunk;
	}
	return picked;
}

static void chunk_register(struct registrar *registrar, struct chunk *chunk)
{
	int rc = gpu_register(registrar->device, chunk->memory, chunk->bytes, chunk->readonly);

	if (rc < 0 && !registrar->refusal)
		log_warn("gpu",
			"%s does not register a chunk of the pool (%d): what lies in it passes "
			"through page-locked memory",
			gpu_info(registrar->device)->name, rc);
	pthread_mutex_lock(&registrar->lock);
	chunk->state = rc < 0 ? CHUNK_REFUSED : CHUNK_REGISTERED;
	if (rc < 0)
		registrar->refusal = rc;
	else
		chunk->number = ++registrar->numbers;
	pthread_mutex_unlock(&registrar->lock);
	if (rc < 0)
		SKEP_CHECK(!skep_chunk_release(registrar->session, chunk->id));
}

bool registrar_turn(struct registrar *registrar)
{
	int count = told_ask(registrar);
	struct chunk *chunk;

	/* Without memory for the list it stays as it is until the next look. */
	if (count >= 0)
		table_renew(registrar, (uint32_t)count);
	chunk = chunk_pick(registrar);
	if (chunk)
		chunk_register(registrar, chunk);
	return chunk;
}

static void *registrar_main(void *argument)
{
	struct registrar *registrar = argument;
	bool stop, more;

	do {
		struct timespec until;
		uint64_t until_ns;

		more = registrar_turn(registrar);
		until_ns = clock_ns() + LOOK_NS;
		until.tv_sec = (time_t)(until_ns / NS_PER_S);
		until.tv_nsec = (long)(until_ns % NS_PER_S);
		pthread_mutex_lock(&registrar->lock);
		if (!more && !registrar->stop)
			pthread_cond_timedwait(&registrar->wake, &registrar->lock, &until);
		stop = registrar->stop;
		pthread_mutex_unlock(&registrar->lock);
	} while (!stop);
	return NULL;
}

/* -------------------------------------------------------------------------------- start and end */

int registrar_create(struct skep *session, struct gpu *device, bool start, struct registrar **out)
{
	struct registrar *registrar = memory_zalloc(sizeof(*registrar));
	pthread_condattr_t clock;
	int rc = 0;

	if (!registrar)
		return -ENOMEM;
	registrar->session = session;
	registrar->device = device;
	distances_read(registrar, gpu_info(device)->numa_node);
	pthread_mutex_init(&registrar->lock, NULL);
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&registrar->wake, &clock);
	pthread_condattr_destroy(&clock);
	if (start && thread_start(&registrar->thread, registrar_main, registrar, "skep-gpu"))
		rc = -ENOMEM;
	registrar->started = start && !rc;
	if (rc < 0) {
		registrar_destroy(registrar);
		return rc;
	}
	*out = registrar;
	return 0;
}

void registrar_destroy(struct registrar *registrar)
{
	if (!registrar)
		return;
	if (registrar->started) {
		pthread_mutex_lock(&registrar->lock);
		registrar->stop = true;
		pthread_cond_signal(&registrar->wake);
		pthread_mutex_unlock(&registrar->lock);
		SKEP_CHECK(pthread_join(registrar->thread, NULL) == 0);
	}
	for (uint32_t i = 0; i < registrar->table.count; i++)
		chunk_end(registrar, &registrar->table.chunks[i]);
	pthread_cond_destroy(&registrar->wake);
	pthread_mutex_destroy(&registrar->lock);
	memory_free(registrar->table.chunks);
	memory_free(registrar->next.chunks);
	memory_free(registrar->told);
	memory_free(registrar);
}

/* ------------------------------------------------------------------------------------ questions */

/* Lock. The last chunk that begins at or before @place, or NULL. */
static const struct chunk *chunk_before(const struct registrar *registrar, const uint8_t *place)
{
	const struct chunk *chunks = registrar->table.chunks;
	uint32_t low = 0, high = registrar->table.count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (chunks[middle].memory <= place)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? &chunks[low - 1] : NULL;
}

void registrar_find(
	struct registrar *registrar, const struct registrar_pieces *pieces, uint32_t *numbers)
{
	pthread_mutex_lock(&registrar->lock);
	for (uint32_t i = 0; i < pieces->count; i++) {
		const uint8_t *place = pieces->places[i];
		const struct chunk *chunk = chunk_before(registrar, place);

		numbers[i] = 0;
		if (chunk && chunk->state == CHUNK_REGISTERED &&
			(uint64_t)(place - chunk->memory) + pieces->bytes <= chunk->bytes)
			numbers[i] = chunk->number;
	}
	pthread_mutex_unlock(&registrar->lock);
}

void registrar_counts(struct registrar *registrar, struct registrar_counts *counts)
{
	memset(counts, 0, sizeof(*counts));
	pthread_mutex_lock(&registrar->lock);
	for (uint32_t i = 0; i < registrar->table.count; i++) {
		const struct chunk *chunk = &registrar->table.chunks[i];

		counts->waiting += chunk->state == CHUNK_WAITING;
		counts->refused += chunk->state == CHUNK_REFUSED;
		counts->registered += chunk->state == CHUNK_REGISTERED;
		if (chunk->state == CHUNK_REGISTERED)
			counts->registered_bytes += chunk->bytes;
	}
	counts->refusal = registrar->refusal;
	pthread_mutex_unlock(&registrar->lock);
}
