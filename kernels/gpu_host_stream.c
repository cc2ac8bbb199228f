/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <signal.h>
#include <stdalign.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "kernels/gpu_host_priv.h"

/*
 * A stream is a thread that does what was submitted, in order, out of a ring of fixed length; a
 * full ring makes the submitter wait, as a device's does. An event counts its records: who waits
 * for it waits for the record that was the last when he asked.
 */
#define RING_SLOTS 64

enum host_work { WORK_MOVE, WORK_FILL, WORK_CALL, WORK_LAUNCH, WORK_RECORD, WORK_WAIT };

struct host_event {
	struct gpu_event event;
	pthread_mutex_t lock;
	pthread_cond_t moved;
	unsigned references; /* the owner, and each operation under way that names it */
	uint64_t submitted,
		finished;  /* records; finished ≤ submitted, in the order of one stream */
	uint64_t stamp_ns; /* of the record that finished last */
};

struct host_operation {
	enum host_work work;
	unsigned char byte;
	uint64_t to, from;
	size_t bytes;
	struct host_event *event;
	uint64_t record; /* the number of the event's record that is made or waited for */
	const struct gpu_kernel *kernel;
	void (*call)(void *argument);
	void *argument;
};

struct host_slot {
	struct host_operation operation;
	alignas(64) unsigned char args[GPU_ARGS_BYTES_MAX];
};

/* @begun and @done count operations; the slots between them belong to the stream's thread. */
struct host_stream {
	struct gpu_stream stream;
	pthread_mutex_t lock;
	pthread_cond_t more, less;
	pthread_t thread;
	uint64_t begun, done;
	bool closing;
	void *memory;
	struct host_slot *slots; /* inside @memory, on their boundary */
};

static struct host_stream *stream_of(struct gpu_stream *stream)
{
	return (struct host_stream *)stream;
}

static struct host_event *event_of(struct gpu_event *event)
{
	return (struct host_event *)event;
}

/* ------------------------------------------------------------------------------------- events */

/* Ends the use of one reference; the last one frees. Called with the event's lock, which it
 * ends. */
static void event_put(struct host_event *event)
{
	bool last = --event->references == 0;

	pthread_mutex_unlock(&event->lock);
	if (!last)
		return;
	pthread_cond_destroy(&event->moved);
	pthread_mutex_destroy(&event->lock);
	memory_free(event);
}

/* A record is done: records of one event may be made on several streams, and the later counts. */
static void event_finish(struct host_event *event, uint64_t record)
{
	pthread_mutex_lock(&event->lock);
	if (record > event->finished) {
		event->finished = record;
		event->stamp_ns = clock_ns();
	}
	pthread_cond_broadcast(&event->moved);
	event_put(event);
}

static void event_await(struct host_event *event, uint64_t record)
{
	while (event->finished < record)
		pthread_cond_wait(&event->moved, &event->lock);
}

int host_event_create(struct gpu *gpu, struct gpu_event **event)
{
	struct host_event *made = memory_zalloc(sizeof(*made));

	(void)gpu;
	if (!made)
		return -ENOMEM;
	pthread_mutex_init(&made->lock, NULL);
	pthread_cond_init(&made->moved, NULL);
	made->references = 1;
	*event = &made->event;
	return 0;
}

void host_event_destroy(struct gpu_event *event)
{
	pthread_mutex_lock(&event_of(event)->lock);
	event_put(event_of(event));
}

int host_event_done(struct gpu_event *event)
{
	struct host_event *of = event_of(event);
	int done;

	pthread_mutex_lock(&of->lock);
	done = of->finished == of->submitted;
	pthread_mutex_unlock(&of->lock);
	return done;
}

int host_event_sync(struct gpu_event *event)
{
	struct host_event *of = event_of(event);

	pthread_mutex_lock(&of->lock);
	event_await(of, of->submitted);
	pthread_mutex_unlock(&of->lock);
	return 0;
}

/* The stamp of the last record, or -EAGAIN while that is under way. */
static int event_stamp(struct host_event *event, uint64_t *stamp_ns)
{
	int rc;

	pthread_mutex_lock(&event->lock);
	rc = event->finished == event->submitted ? 0 : -EAGAIN;
	*stamp_ns = event->stamp_ns;
	pthread_mutex_unlock(&event->lock);
	return rc;
}

int host_event_ns(struct gpu_event *from, struct gpu_event *to, uint64_t *ns)
{
	uint64_t begin_ns, end_ns;
	int rc = event_stamp(event_of(from), &begin_ns);

	if (rc == 0)
		rc = event_stamp(event_of(to), &end_ns);
	if (rc == 0)
		*ns = end_ns > begin_ns ? end_ns - begin_ns : 0;
	return rc;
}

/* ------------------------------------------------------------------------------------ streams */

static void slot_run(const struct host_slot *slot)
{
	const struct host_operation *todo = &slot->operation;

	switch (todo->work) {
	case WORK_MOVE:
		memmove((void *)(uintptr_t)todo->to, (const void *)(uintptr_t)todo->from,
			todo->bytes);
		break;
	case WORK_FILL:
		memset((void *)(uintptr_t)todo->to, todo->byte, todo->bytes);
		break;
	case WORK_CALL:
		todo->call(todo->argument);
		break;
	case WORK_LAUNCH:
		todo->kernel->host(slot->args);
		break;
	case WORK_RECORD:
		event_finish(todo->event, todo->record);
		break;
	case WORK_WAIT:
		pthread_mutex_lock(&todo->event->lock);
		event_await(todo->event, todo->record);
		event_put(todo->event);
		break;
	}
}

static void *stream_main(void *argument)
{
	struct host_stream *stream = argument;

	pthread_mutex_lock(&stream->lock);
	for (;;) {
		while (stream->done == stream->begun && !stream->closing)
			pthread_cond_wait(&stream->more, &stream->lock);
		if (stream->done == stream->begun)
			break;
		/* The slot stays as it is until it is counted as done. */
		pthread_mutex_unlock(&stream->lock);
		slot_run(&stream->slots[stream->done % RING_SLOTS]);
		pthread_mutex_lock(&stream->lock);
		stream->done++;
		pthread_cond_broadcast(&stream->less);
	}
	pthread_mutex_unlock(&stream->lock);
	return NULL;
}

/* A thread that takes no signals of the program. */
static int thread_start(struct host_stream *stream)
{
	sigset_t all, before;
	int rc;

	if (memory_should_fail())
		return -ENOMEM;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&stream->thread, NULL, stream_main, stream);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc ? -ENOMEM : 0;
}

static void stream_free(struct host_stream *stream)
{
	pthread_cond_destroy(&stream->less);
	pthread_cond_destroy(&stream->more);
	pthread_mutex_destroy(&stream->lock);
	memory_free(stream->memory);
	memory_free(stream);
}

int host_stream_create(struct gpu *gpu, struct gpu_stream **stream)
{
	const uintptr_t align = alignof(struct host_slot);
	struct host_stream *made = memory_zalloc(sizeof(*made));

	(void)gpu;
	if (!made)
		return -ENOMEM;
	made->memory = memory_calloc(RING_SLOTS + 1, sizeof(made->slots[0]));
	if (!made->memory) {
		memory_free(made);
		return -ENOMEM;
	}
	made->slots = (struct host_slot *)(((uintptr_t)made->memory + align - 1) & ~(align - 1));
	pthread_mutex_init(&made->lock, NULL);
	pthread_cond_init(&made->more, NULL);
	pthread_cond_init(&made->less, NULL);
	if (thread_start(made) < 0) {
		stream_free(made);
		return -ENOMEM;
	}
	*stream = &made->stream;
	return 0;
}

int host_stream_adopt(struct gpu *gpu, uintptr_t native, struct gpu_stream **stream)
{
	(void)gpu;
	(void)native;
	(void)stream;
	return -ENOTSUP;
}

void host_stream_destroy(struct gpu_stream *stream)
{
	struct host_stream *of = stream_of(stream);

	pthread_mutex_lock(&of->lock);
	of->closing = true; /* the thread ends when nothing is left to do */
	pthread_cond_signal(&of->more);
	pthread_mutex_unlock(&of->lock);
	SKEP_CHECK(pthread_join(of->thread, NULL) == 0);
	stream_free(of);
}

/* Waits until @number operations are done. Under the lock. */
static void stream_await(struct host_stream *stream, uint64_t number)
{
	while (stream->done < number)
		pthread_cond_wait(&stream->less, &stream->lock);
}

int host_stream_sync(struct gpu_stream *stream)
{
	struct host_stream *of = stream_of(stream);

	pthread_mutex_lock(&of->lock);
	stream_await(of, of->begun);
	pthread_mutex_unlock(&of->lock);
	return 0;
}

/* Submits @operation and @args. Answers how many were submitted with it. */
static uint64_t submit(struct gpu_stream *stream, const struct host_operation *operation,
	const void *args, size_t args_bytes)
{
	struct host_stream *of = stream_of(stream);
	struct host_slot *slot;
	uint64_t number;

	pthread_mutex_lock(&of->lock);
	if (of->begun >= RING_SLOTS)
		stream_await(of, of->begun - RING_SLOTS + 1);
	slot = &of->slots[of->begun % RING_SLOTS];
	slot->operation = *operation;
	if (args_bytes)
		memcpy(slot->args, args, args_bytes);
	number = ++of->begun;
	pthread_cond_signal(&of->more);
	pthread_mutex_unlock(&of->lock);
	return number;
}

/* Writes an event down in an operation, which holds a reference until it is done. */
static struct host_operation with_event(enum host_work work, struct gpu_event *event)
{
	struct host_event *of = event_of(event);
	struct host_operation operation = {.work = work, .event = of};

	pthread_mutex_lock(&of->lock);
	of->references++;
	if (work == WORK_RECORD)
		of->submitted++;
	operation.record = of->submitted;
	pthread_mutex_unlock(&of->lock);
	return operation;
}

int host_event_record(struct gpu_event *event, struct gpu_stream *stream)
{
	struct host_operation operation = with_event(WORK_RECORD, event);

	submit(stream, &operation, NULL, 0);
	return 0;
}

int host_stream_wait(struct gpu_stream *stream, struct gpu_event *event)
{
	struct host_operation operation = with_event(WORK_WAIT, event);

	submit(stream, &operation, NULL, 0);
	return 0;
}

/* A copy whose side on this machine is @memory: waited for unless that is page-locked. */
static int copy_beside(
	struct gpu_stream *stream, const struct host_operation *operation, const void *memory)
{
	struct host_stream *of = stream_of(stream);
	uint64_t number = submit(stream, operation, NULL, 0);

	if (gpu_pinned_whole(stream->gpu, memory, operation->bytes))
		return 0;
	pthread_mutex_lock(&of->lock);
	stream_await(of, number);
	pthread_mutex_unlock(&of->lock);
	return 0;
}

int host_copy_in(struct gpu_stream *stream, uint64_t to, const void *from, size_t bytes)
{
	return copy_beside(stream,
		&(struct host_operation){
			.work = WORK_MOVE, .to = to, .from = (uintptr_t)from, .bytes = bytes},
		from);
}

int host_copy_out(struct gpu_stream *stream, void *to, uint64_t from, size_t bytes)
{
	return copy_beside(stream,
		&(struct host_operation){
			.work = WORK_MOVE, .to = (uintptr_t)to, .from = from, .bytes = bytes},
		to);
}

int host_copy(struct gpu_stream *stream, uint64_t to, uint64_t from, size_t bytes)
{
	submit(stream,
		&(struct host_operation){.work = WORK_MOVE, .to = to, .from = from, .bytes = bytes},
		NULL, 0);
	return 0;
}

int host_copy_batch(struct gpu_stream *stream, const struct gpu_batch *batch)
{
	for (size_t i = 0; i < batch->count; i++)
		host_copy(stream, batch->to[i], batch->from[i], batch->bytes[i]);
	return 0;
}

int host_call(struct gpu_stream *stream, void (*work)(void *argument), void *argument)
{
	submit(stream,
		&(struct host_operation){.work = WORK_CALL, .call = work, .argument = argument},
		NULL, 0);
	return 0;
}

int host_fill(struct gpu_stream *stream, uint64_t at, unsigned char byte, size_t bytes)
{
	submit(stream,
		&(struct host_operation){.work = WORK_FILL, .to = at, .byte = byte, .bytes = bytes},
		NULL, 0);
	return 0;
}

int host_launch(struct gpu_stream *stream, const struct gpu_kernel *kernel,
	const struct gpu_grid *grid, const void *args, size_t args_bytes)
{
	(void)grid;
	if (!kernel->host)
		return -ENOTSUP;
	submit(stream, &(struct host_operation){.work = WORK_LAUNCH, .kernel = kernel}, args,
		args_bytes);
	return 0;
}
