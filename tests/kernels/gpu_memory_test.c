/* SPDX-License-Identifier: Apache-2.0 */
/* The half of gpu_test that is about memory and copies. */
#include <sys/mman.h>

#include "tests/kernels/device.h"
#include "tests/kernels/gpu_test.h"

static void memory_holds_what_was_copied(struct gpu *gpu, uint64_t seed)
{
	enum { BYTES = 300000 };
	unsigned char *mine = malloc(BYTES), *back = malloc(BYTES);
	struct gpu_stream *stream;
	uint64_t a, b, state = seed;

	REQUIRE(mine && back);
	REQUIRE_EQ(gpu_stream_create(gpu, &stream), 0);
	REQUIRE_EQ(gpu_alloc(gpu, BYTES, &a), 0);
	REQUIRE_EQ(gpu_alloc(gpu, BYTES, &b), 0);
	REQUIRE(a % 256 == 0 && b % 256 == 0);
	for (size_t i = 0; i < BYTES; i++)
		mine[i] = (unsigned char)unit_random(&state, 256);
	memset(back, 0, BYTES);
	REQUIRE_EQ(gpu_copy_in(stream, a, mine, BYTES), 0);
	REQUIRE_EQ(gpu_fill(stream, b, 0x5a, BYTES), 0);
	REQUIRE_EQ(gpu_copy(stream, b + 1, a + 7, BYTES - 100), 0);
	REQUIRE_EQ(gpu_copy_out(stream, back, b, BYTES), 0);
	REQUIRE_EQ(gpu_stream_sync(stream), 0);
	REQUIRE(back[0] == 0x5a && back[BYTES - 99] == 0x5a && back[BYTES - 1] == 0x5a);
	REQUIRE(memcmp(back + 1, mine + 7, BYTES - 100) == 0);
	gpu_free(gpu, a);
	gpu_free(gpu, b);
	gpu_stream_destroy(stream);
	free(mine);
	free(back);
}

/* Memory that is not page-locked may be used again as soon as the call is back. */
static void plain_memory_is_free_after_the_call(struct gpu *gpu)
{
	enum { BYTES = 1 << 20 };
	unsigned char *mine = malloc(BYTES), *back = malloc(BYTES);
	struct gpu_stream *stream;
	uint64_t at;

	REQUIRE(mine && back);
	REQUIRE_EQ(gpu_stream_create(gpu, &stream), 0);
	REQUIRE_EQ(gpu_alloc(gpu, 4 * BYTES, &at), 0);
	for (unsigned i = 0; i < 4; i++) {
		memset(mine, (int)(i + 1), BYTES);
		REQUIRE_EQ(gpu_copy_in(stream, at + i * BYTES, mine, BYTES), 0);
	}
	memset(mine, 0xee, BYTES);
	for (unsigned i = 0; i < 4; i++) {
		REQUIRE_EQ(gpu_copy_out(stream, back, at + i * BYTES, BYTES), 0);
		for (size_t j = 0; j < BYTES; j++)
			REQUIRE_EQ(back[j], i + 1);
	}
	gpu_free(gpu, at);
	gpu_stream_destroy(stream);
	free(mine);
	free(back);
}

static void page_locked_memory_is_copied(struct gpu *gpu)
{
	enum { BYTES = 1 << 20 };
	void *pinned, *chunk = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			      -1, 0);
	struct gpu_stream *stream;
	uint64_t at;

	REQUIRE(chunk != MAP_FAILED);
	REQUIRE_EQ(gpu_stream_create(gpu, &stream), 0);
	REQUIRE_EQ(gpu_alloc(gpu, BYTES, &at), 0);
	REQUIRE_EQ(gpu_pinned_alloc(gpu, BYTES, &pinned), 0);
	REQUIRE_EQ(gpu_register(gpu, chunk, BYTES, false), 0);
	REQUIRE_EQ(gpu_register(gpu, chunk, BYTES, false), -EEXIST);
	REQUIRE_EQ(gpu_register(gpu, (char *)chunk + BYTES / 2, BYTES / 2, false), -EEXIST);
	memset(pinned, 0x11, BYTES);
	memset(chunk, 0x22, BYTES);
	REQUIRE_EQ(gpu_copy_in(stream, at, pinned, BYTES), 0);
	REQUIRE_EQ(gpu_copy_out(stream, chunk, at, BYTES), 0);
	REQUIRE_EQ(gpu_stream_sync(stream), 0);
	REQUIRE(memcmp(chunk, pinned, BYTES) == 0);
	gpu_unregister(gpu, chunk);
	REQUIRE_EQ(gpu_register(gpu, chunk, BYTES, false), 0);
	gpu_unregister(gpu, chunk);
	gpu_pinned_free(gpu, pinned);
	gpu_free(gpu, at);
	gpu_stream_destroy(stream);
	munmap(chunk, BYTES);
}

/* Pieces of many sizes, in and out by one call each, to places in another order. */
static void a_batch_copies_every_piece(struct gpu *gpu, uint64_t seed)
{
	enum { PIECES = 300, PIECE_BYTES = 4096 };
	uint64_t in_to[PIECES], in_from[PIECES], out_to[PIECES], out_from[PIECES], at, state = seed;
	size_t bytes[PIECES];
	const struct gpu_batch in = {.to = in_to, .from = in_from, .bytes = bytes, .count = PIECES};
	const struct gpu_batch out = {
		.to = out_to, .from = out_from, .bytes = bytes, .count = PIECES};
	struct gpu_stream *stream;
	unsigned char *mine, *back;

	REQUIRE_EQ(gpu_stream_create(gpu, &stream), 0);
	REQUIRE_EQ(gpu_alloc(gpu, PIECES * PIECE_BYTES, &at), 0);
	REQUIRE_EQ(gpu_pinned_alloc(gpu, PIECES * PIECE_BYTES, (void **)&mine), 0);
	REQUIRE_EQ(gpu_pinned_alloc(gpu, PIECES * PIECE_BYTES, (void **)&back), 0);
	for (size_t i = 0; i < PIECES * PIECE_BYTES; i++)
		mine[i] = (unsigned char)unit_random(&state, 256);
	memset(back, 0, PIECES * PIECE_BYTES);
	for (size_t i = 0; i < PIECES; i++) {
		size_t place = (i * 7 + 3) % PIECES; /* 7 and 300 share no divisor */

		bytes[i] = 1 + unit_random(&state, PIECE_BYTES);
		in_from[i] = (uintptr_t)mine + i * PIECE_BYTES;
		in_to[i] = out_from[i] = at + place * PIECE_BYTES;
		out_to[i] = (uintptr_t)back + i * PIECE_BYTES;
	}
	REQUIRE_EQ(gpu_fill(stream, at, 0x5a, PIECES * PIECE_BYTES), 0);
	REQUIRE_EQ(gpu_copy_batch(stream, &in), 0);
	REQUIRE_EQ(gpu_copy_batch(stream, &out), 0);
	REQUIRE_EQ(gpu_copy_batch(stream, &(struct gpu_batch){.count = 0}), 0);
	REQUIRE_EQ(gpu_stream_sync(stream), 0);
	for (size_t i = 0; i < PIECES; i++) {
		REQUIRE(memcmp(back + i * PIECE_BYTES, mine + i * PIECE_BYTES, bytes[i]) == 0);
		REQUIRE(bytes[i] == PIECE_BYTES || back[i * PIECE_BYTES + bytes[i]] == 0);
	}
	gpu_pinned_free(gpu, mine);
	gpu_pinned_free(gpu, back);
	gpu_free(gpu, at);
	gpu_stream_destroy(stream);
}

struct called {
	unsigned char *memory;
	unsigned before, calls;
};

static void called(void *argument)
{
	struct called *it = argument;

	it->before = it->memory[0];
	it->memory[0] = (unsigned char)(it->before + 1);
	it->calls++;
}

/* What was copied before is there, what is copied afterwards is what the call left. */
static void a_call_comes_in_its_turn(struct gpu *gpu)
{
	enum { BYTES = 1 << 20, TIMES = 100 };
	struct called it = {0};
	struct gpu_stream *stream;
	uint64_t at;

	REQUIRE_EQ(gpu_stream_create(gpu, &stream), 0);
	REQUIRE_EQ(gpu_alloc(gpu, BYTES, &at), 0);
	REQUIRE_EQ(gpu_pinned_alloc(gpu, BYTES, (void **)&it.memory), 0);
	REQUIRE_EQ(gpu_fill(stream, at, 7, BYTES), 0);
	for (unsigned i = 0; i < TIMES; i++) {
		REQUIRE_EQ(gpu_copy_out(stream, it.memory, at, BYTES), 0);
		REQUIRE_EQ(gpu_call(stream, called, &it), 0);
		REQUIRE_EQ(gpu_copy_in(stream, at, it.memory, BYTES), 0);
	}
	REQUIRE_EQ(gpu_stream_sync(stream), 0);
	REQUIRE_EQ(it.calls, TIMES);
	REQUIRE_EQ(it.before, 7 + TIMES - 1);
	gpu_pinned_free(gpu, it.memory);
	gpu_free(gpu, at);
	gpu_stream_destroy(stream);
}

/* A pool that this process may only read, as a client's view of another's chunk. */
static void read_only_memory_registers_or_says_so(struct gpu *gpu)
{
	enum { BYTES = 1 << 20 };
	int file = memfd_create("chunk", MFD_CLOEXEC);
	struct gpu_stream *stream;
	unsigned char *own, *view;
	uint64_t at;
	int rc;

	REQUIRE(file >= 0 && ftruncate(file, BYTES) == 0);
	own = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	view = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, file, 0);
	REQUIRE(own != MAP_FAILED && view != MAP_FAILED);
	memset(own, 0x37, BYTES);
	REQUIRE_EQ(gpu_stream_create(gpu, &stream), 0);
	REQUIRE_EQ(gpu_alloc(gpu, BYTES, &at), 0);
	rc = gpu_register(gpu, view, BYTES, true);
	if (rc == -ENOTSUP) {
		printf("%s: registers no read-only memory\n", gpu_info(gpu)->name);
	} else {
		REQUIRE_EQ(rc, 0);
		REQUIRE_EQ(gpu_copy_in(stream, at, view, BYTES), 0);
		REQUIRE_EQ(gpu_fill(stream, at, 0x38, 1), 0);
		REQUIRE_EQ(gpu_copy_out(stream, own, at, BYTES), 0);
		REQUIRE_EQ(gpu_stream_sync(stream), 0);
		REQUIRE(view[0] == 0x38 && view[1] == 0x37 && view[BYTES - 1] == 0x37);
		gpu_unregister(gpu, view);
	}
	gpu_free(gpu, at);
	gpu_stream_destroy(stream);
	munmap(own, BYTES);
	munmap(view, BYTES);
	close(file);
}

static void wrong_arguments_are_refused(struct gpu *gpu)
{
	size_t page_bytes = gpu_info(gpu)->page_bytes;
	char *room =
		mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct gpu_page *page;
	void *memory;
	uint64_t at;

	REQUIRE(room != MAP_FAILED);
	REQUIRE_EQ(gpu_alloc(gpu, 0, &at), -EINVAL);
	REQUIRE_EQ(gpu_alloc(gpu, (size_t)gpu_info(gpu)->memory_bytes + (1u << 30), &at), -ENOMEM);
	REQUIRE_EQ(gpu_pinned_alloc(gpu, 0, &memory), -EINVAL);
	REQUIRE_EQ(gpu_register(gpu, room + 1, 4096, false), -EINVAL);
	REQUIRE_EQ(gpu_register(gpu, room, 4095, false), -EINVAL);
	REQUIRE_EQ(gpu_register(gpu, NULL, 4096, false), -EINVAL);
	REQUIRE(munmap(room, 1 << 20) == 0);
	REQUIRE(gpu_register(gpu, room, 1 << 20, false) < 0);
	REQUIRE_EQ(gpu_reserve(gpu, 0, &at), -EINVAL);
	REQUIRE_EQ(gpu_reserve(gpu, page_bytes + 4096, &at), -EINVAL);
	REQUIRE_EQ(gpu_page_create(gpu, 0, &page), -EINVAL);
	REQUIRE_EQ(gpu_page_create(gpu, page_bytes / 2, &page), -EINVAL);
	REQUIRE_EQ(gpu_open(GPU_CUDA + 1, 0, &gpu), -EINVAL);
}

void gpu_memory(struct gpu *gpu, uint64_t seed)
{
	memory_holds_what_was_copied(gpu, seed);
	plain_memory_is_free_after_the_call(gpu);
	page_locked_memory_is_copied(gpu);
	a_batch_copies_every_piece(gpu, seed);
	a_call_comes_in_its_turn(gpu);
	read_only_memory_registers_or_says_so(gpu);
	wrong_arguments_are_refused(gpu);
}
