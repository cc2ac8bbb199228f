/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_SKEP_H
#define SKEP_SKEP_H

/**
 * DOC: libskep, the client library of skep
 *
 * skep keeps the KV blocks of prompt prefixes and hands them back. This header is the whole of the
 * C interface for an inference engine: open a session, open a space, hash the tokens of a prompt
 * into a chain, match it, read the blocks where they lie, put what was missing.
 *
 * Threads: a session (struct skep) and everything made from it belong to one thread at a time;
 * open a session for each thread that uses the store. Different sessions need no locks. A second
 * thread that enters a session while a call is under way there is told -EBUSY.
 *
 * Results: 0 or a count, else a negative errno or one of enum skep_code. A block that is not there
 * is a result, not an error. Every call that may wait takes a deadline: nanoseconds of
 * CLOCK_MONOTONIC (skep_deadline_ms() makes one), 0 = do not wait, SKEP_FOREVER = no end. Where the
 * daemon must be asked it has 100 ms to answer, however short the deadline; a daemon that does not
 * answer in time costs -ETIMEDOUT.
 *
 * Structs that begin with struct_bytes are filled by the caller: set it to sizeof the struct, and
 * leave what you do not use 0. A library newer than the caller reads no further than that size; one
 * that is older answers -E2BIG where a field that it does not know is not 0.
 *
 * After fork() a handle of the parent answers -EOWNERDEAD in the child and touches nothing.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SKEP_API __attribute__((visibility("default")))

/** SKEP_FOREVER - a deadline that never comes. */
#define SKEP_FOREVER UINT64_MAX

/** SKEP_PARTS_MAX - the most parts a block can have. */
#define SKEP_PARTS_MAX 64

/** SKEP_RANGES_MAX - the most ranges (layers) a part can declare. */
#define SKEP_RANGES_MAX 1024

/** SKEP_EXTRA_BYTES_MAX - the longest extra key of one block, in bytes. */
#define SKEP_EXTRA_BYTES_MAX 1024

/**
 * enum skep_code - the results that errno has no word for, as negative numbers
 * @SKEP_EPARENT: the parent of a block is neither present nor pending; put the chain from the
 *	first missing block, which the call names
 * @SKEP_EPENDING: another writer is writing this block: nothing to do, or skep_wait() for it
 * @SKEP_EDIFFERS: a space of that name exists and one field differs (skep_space_field())
 * @SKEP_EVERSION: library and daemon speak different versions
 * @SKEP_ECHECKSUM: the bytes do not match their checksum; the block is quarantined: a miss
 * @SKEP_EDOWN: the daemon is away; the library reconnects by itself: a miss
 * @SKEP_EGIVENUP: the writer of the awaited block gave up; reserve it yourself or go on without
 */
enum skep_code {
	SKEP_EPARENT = -4096,
	SKEP_EPENDING = -4097,
	SKEP_EDIFFERS = -4098,
	SKEP_EVERSION = -4099,
	SKEP_ECHECKSUM = -4100,
	SKEP_EDOWN = -4101,
	SKEP_EGIVENUP = -4102,
};

struct skep;
struct skep_space;
struct skep_chain;
struct skep_queue;

/**
 * skep_version() - the version of the library as text, "0.1.0". Any thread.
 * Return: a static string.
 */
SKEP_API const char *skep_version(void);

/**
 * skep_status_text() - what a negative result means, as one sentence
 * @status: a result of any call here
 * Return: a static string. Any thread.
 */
SKEP_API const char *skep_status_text(int status);

/**
 * skep_reason_text() - the word for a reason of a miss ("never_seen", "evicted", …)
 * @reason: from struct skep_match or struct skep_explanation
 * Return: a static string. Any thread.
 */
SKEP_API const char *skep_reason_text(unsigned reason);

/**
 * skep_deadline_ms() - the deadline so many milliseconds from now
 * @ms: milliseconds
 * Return: nanoseconds of CLOCK_MONOTONIC. Any thread.
 */
SKEP_API uint64_t skep_deadline_ms(uint64_t ms);

/* ------------------------------------------------------------------------------ sessions */

/**
 * enum skep_open_flag - how a session is opened
 * @SKEP_OPEN_READONLY: the pool is mapped for reading alone; skep_reserve() answers -EROFS
 * @SKEP_OPEN_NO_WAIT: return a session although no daemon is there yet; it connects by itself
 */
enum skep_open_flag {
	SKEP_OPEN_READONLY = 1,
	SKEP_OPEN_NO_WAIT = 2,
};

/**
 * struct skep_open_options - how to open a session
 * @struct_bytes: sizeof(struct skep_open_options)
 * @realm: the tenant; NULL = what the socket or the uid stands for
 * @token: the realm's token; NULL where socket or uid decide
 * @flags: of enum skep_open_flag
 * @name: shown by `skep status`; NULL = the program's name
 * @deadline_ns: for the connection; 0 = five seconds from now
 */
struct skep_open_options {
	size_t struct_bytes;
	const char *realm;
	const char *token;
	uint32_t flags;
	const char *name;
	uint64_t deadline_ns;
};

/**
 * skep_open() - open a session with the daemon beside this process
 * @where: the path of the daemon's socket, or "unix:PATH"; NULL = $SKEP_SOCKET, else
 *	/run/skep/skepd.sock. libskep-node.so also takes "embedded:dram=SIZE": a node inside this
 *	process; libskep.so answers that with -ENOTSUP.
 * @options: may be NULL
 * @out: the session; set only on success
 *
 * The pool of the realm is mapped into this process; its memory stays charged to the daemon. A
 * background thread (one a process) watches the daemon, reconnects, and lets go of an old pool once
 * its last pointer was released. May block until the deadline; allocates.
 *
 * Return: 0; -ENOENT or -ECONNREFUSED (no daemon there), -EACCES (realm or token refused),
 * SKEP_EVERSION, -EMFILE, -ENOMEM, -EUSERS (too many sessions), -ETIMEDOUT, -ENOTSUP (embedded),
 * -ENAMETOOLONG (path, realm or token), -EPROTO (what answers there is no daemon of ours),
 * SKEP_EDOWN (it hung up), -EINVAL.
 */
SKEP_API int skep_open(
	const char *where, const struct skep_open_options *options, struct skep **out);

/**
 * skep_close() - end a session, its spaces, chains, queues and pins
 * @session: NULL is nothing. Pointers got through it must not be used afterwards. Reservations that
 *	were not committed are aborted. Does not wait.
 */
SKEP_API void skep_close(struct skep *session);

/**
 * skep_attached() - is the daemon there now?
 * @session: the session
 * Return: 1 attached, 0 away (calls miss at once; the library reconnects by itself).
 */
SKEP_API int skep_attached(struct skep *session);

/* -------------------------------------------------------------------------------- chunks */

/**
 * enum skep_chunk_state - what becomes of a chunk
 * @SKEP_CHUNK_LIVE: it is of the daemon that serves
 * @SKEP_CHUNK_OLD: its daemon has gone; the session still holds pins or reserved frames of it
 * @SKEP_CHUNK_LEAVING: … none any more, and none will come: it is unmapped once nobody holds it
 */
enum skep_chunk_state {
	SKEP_CHUNK_LIVE,
	SKEP_CHUNK_OLD,
	SKEP_CHUNK_LEAVING,
};

/**
 * struct skep_chunk - a piece of the pool that is registered with a device as a whole
 * @id: names it; never used again in this session
 * @memory: where it lies here, page-aligned; touched by nobody who does not hold it
 * @bytes: its length, whole pages, all of them there
 * @state: of enum skep_chunk_state
 * @readonly: 1: mapped without the right to write (SKEP_OPEN_READONLY), else 0
 */
struct skep_chunk {
	uint64_t id;
	void *memory;
	uint64_t bytes;
	uint32_t state;
	uint32_t readonly;
};

/**
 * skep_chunks() - which memory the pool is made of, as far as the daemon has filled it with pages
 * @session: the session
 * @chunks: out, room for @max; NULL with 0
 * @max: of them
 *
 * For who makes that memory known to a device in the background. It is asked again from time to
 * time (a tenth of a second is often enough): chunks come as a pool grows and with every new
 * daemon, and each that is held should be let go within a second of being told SKEP_CHUNK_LEAVING,
 * as the next daemon may want its memory.
 *
 * Threads: this call and the next two may come from a thread of their own, beside the session's,
 * one at a time. It must have ended before skep_close(), which unmaps what is held too.
 *
 * Return: chunks there are, of which @max at most were written; -EINVAL, -EOWNERDEAD.
 */
SKEP_API int skep_chunks(struct skep *session, struct skep_chunk *chunks, unsigned max);

/**
 * skep_chunk_hold() - keep a chunk mapped, however long its daemon has gone
 * @session: the session
 * @id: of the chunk; each hold is let go once
 * Return: 0; -ENOENT (it has gone, or is about to: SKEP_CHUNK_LEAVING), -EINVAL, -EOWNERDEAD.
 */
SKEP_API int skep_chunk_hold(struct skep *session, uint64_t id);

/**
 * skep_chunk_release() - let go of a chunk; its memory may be gone when the call is back
 * @session: the session
 * @id: of the chunk
 * Return: 0; -ENOENT (it is not held), -EINVAL, -EOWNERDEAD.
 */
SKEP_API int skep_chunk_release(struct skep *session, uint64_t id);

/* -------------------------------------------------------------------------------- spaces */

/**
 * struct skep_part_layout - what the bytes of one part of a block are
 * @bytes: length of the part; in a space of opaque keys the most it can be
 * @ranges: into how many equal shares (layers) the part is cut that can be verified alone; 0 = 1.
 *	@bytes must be a multiple of it, and a share at least 4 KiB if there are several.
 * @rank: which rank of the engine writes it
 * @group: which cache group it belongs to (0 in this release)
 */
struct skep_part_layout {
	uint64_t bytes;
	uint32_t ranges;
	uint16_t rank;
	uint16_t group;
};

/**
 * enum skep_space_flag - what kind of names a space has
 * @SKEP_SPACE_OPAQUE: blocks are named by keys of the engine (16 to 64 bytes), not by tokens
 */
enum skep_space_flag {
	SKEP_SPACE_OPAQUE = 1,
};

/**
 * struct skep_space_options - everything that makes the blocks of two engines interchangeable
 * @struct_bytes: sizeof(struct skep_space_options)
 * @name: of the space, 1 to 63 characters; the rest must agree with whoever opened it before
 * @model: name and revision of the model
 * @weights: digest of the weights, as text
 * @rope: RoPE and scale parameters, as text
 * @layout: dtype, layers, KV heads, head size and order of the bytes, as text
 * @engine: hash kind, seed and whatever else must agree, as text
 * @block_tokens: tokens of a block, 1 to 16384
 * @ranks: ranks of the engine, 0 = 1
 * @groups: cache groups, 0 = 1; more are refused by name in this release (-ENOTSUP)
 * @part_count: 1 to SKEP_PARTS_MAX
 * @parts: of @part_count layouts; read during the call alone
 * @flags: of enum skep_space_flag
 *
 * The texts may be NULL (= ""), are compared to the letter and may have 255 characters each.
 */
struct skep_space_options {
	size_t struct_bytes;
	const char *name;
	const char *model;
	const char *weights;
	const char *rope;
	const char *layout;
	const char *engine;
	uint32_t block_tokens;
	uint32_t ranks;
	uint32_t groups;
	uint32_t part_count;
	const struct skep_part_layout *parts;
	uint32_t flags;
};

/**
 * skep_space_open() - open a space, making it if it is new
 * @session: the session
 * @options: what the space is
 * @out: the space; belongs to the session
 *
 * Asks the daemon; waits up to two seconds. While the daemon is away: SKEP_EDOWN.
 *
 * Return: 0; SKEP_EDIFFERS (skep_space_field() names the field), -EINVAL (a field out of bounds;
 * skep_space_field() names it), -ENOTSUP (groups), -ENOSPC (too many spaces), -ENOMEM, SKEP_EDOWN.
 */
SKEP_API int skep_space_open(
	struct skep *session, const struct skep_space_options *options, struct skep_space **out);

/**
 * skep_space_field() - the field that the last skep_space_open() of this session refused
 * @session: the session
 * Return: "model", "block_tokens", "parts[1].bytes", …; "" if the last one succeeded.
 */
SKEP_API const char *skep_space_field(struct skep *session);

/**
 * skep_space_close() - let go of a space; the blocks stay
 * @space: NULL is nothing; chains of it must be gone
 */
SKEP_API void skep_space_close(struct skep_space *space);

/**
 * skep_space_purge() - remove every block of the space; pinned bytes stay until released
 * @space: the space
 * @deadline_ns: for the daemon's answer
 * Where the realm has an ssd it waits until the removal is durable.
 *
 * Return: blocks removed; SKEP_EDOWN, -ETIMEDOUT, -EIO: perhaps they are removed, but a crash of
 * the daemon may bring them back: call again.
 */
SKEP_API int64_t skep_space_purge(struct skep_space *space, uint64_t deadline_ns);

/**
 * skep_space_step() - the weights changed in place: step the space's version
 * @space: the space
 * @deadline_ns: for the daemon's answer
 *
 * No block of an older version is ever matched again, by any session. Chains go on: they are hashed
 * anew by the next call that uses them. Other sessions find out by themselves; a skep_match() of
 * theirs misses until their library has looked the space up again (milliseconds).
 *
 * Where the realm has an ssd it waits until the step is durable.
 *
 * Return: the new version; SKEP_EDOWN, -ETIMEDOUT, -EIO: perhaps the version was stepped, but a
 * crash of the daemon may take it back: step again before anything new is put.
 */
SKEP_API int64_t skep_space_step(struct skep_space *space, uint64_t deadline_ns);

/* -------------------------------------------------------------------------------- chains */

/**
 * skep_chain_create() - an empty chain: the names of the blocks of one token sequence
 * @space: the space
 * @out: the chain; the caller destroys it before the space
 * Return: 0, -ENOMEM.
 */
SKEP_API int skep_chain_create(struct skep_space *space, struct skep_chain **out);

/**
 * skep_chain_destroy() - free a chain
 * @chain: NULL is nothing
 */
SKEP_API void skep_chain_destroy(struct skep_chain *chain);

/**
 * skep_chain_append() - append tokens; whole blocks are hashed as they fill
 * @chain: of a space named by tokens
 * @tokens: @count token ids; copied
 * @count: tokens
 * Return: the number of whole blocks so far; -ENOMEM (the chain is as before), -EINVAL (a chain of
 * keys), -E2BIG (more than 2^20 blocks).
 */
SKEP_API int skep_chain_append(struct skep_chain *chain, const uint32_t *tokens, size_t count);

/**
 * skep_chain_append64() - skep_chain_append() of tokens that lie as 64-bit numbers
 * @chain: of a space named by tokens
 * @tokens: @count token ids, each below 2^32; copied
 * @count: tokens
 * Return: as skep_chain_append(); -ERANGE (one does not fit 32 bits; the chain is as before).
 */
SKEP_API int skep_chain_append64(struct skep_chain *chain, const uint64_t *tokens, size_t count);

/**
 * skep_chain_extra() - bind extra keys (LoRA, image digests, salt) to the block now being filled
 * @chain: a chain whose open block got no extra keys yet
 * @bytes: copied; part of the block's name, compared byte for byte
 * @length: 1 to SKEP_EXTRA_BYTES_MAX
 * Return: 0, -ENOMEM, -EINVAL, -EEXIST.
 */
SKEP_API int skep_chain_extra(struct skep_chain *chain, const void *bytes, size_t length);

/**
 * skep_chain_append_key() - append a block named by an engine's own key
 * @chain: of a space with SKEP_SPACE_OPAQUE
 * @key: @key_bytes bytes, copied
 * @key_bytes: 16 to 64
 * @tokens: the tokens of the block, kept beside it, or NULL
 * @count: tokens, at most block_tokens of the space
 * Return: blocks so far; -ENOMEM, -EINVAL.
 */
SKEP_API int skep_chain_append_key(struct skep_chain *chain, const void *key, size_t key_bytes,
	const uint32_t *tokens, size_t count);

/**
 * struct skep_keys - an engine's own keys of a run of blocks
 * @struct_bytes: sizeof(struct skep_keys)
 * @keys: @count keys of @key_bytes each, one after the other; copied
 * @key_bytes: 16 to 64
 * @count: keys
 * @tokens: @token_count tokens of each block, one block after the other, kept beside them; or NULL
 * @token_count: at most block_tokens of the space; 0 without @tokens
 */
struct skep_keys {
	size_t struct_bytes;
	const void *keys;
	uint32_t key_bytes;
	uint32_t count;
	const uint32_t *tokens;
	uint32_t token_count;
};

/**
 * skep_chain_append_keys() - append many blocks named by an engine's own keys
 * @chain: of a space with SKEP_SPACE_OPAQUE
 * @keys: what
 * Return: blocks so far; -ENOMEM, -EINVAL, -E2BIG (more than 2^20 blocks): the chain is as before.
 */
SKEP_API int skep_chain_append_keys(struct skep_chain *chain, const struct skep_keys *keys);

/**
 * skep_chain_truncate() - cut the chain back to its first blocks, for use by another prompt
 * @chain: the chain
 * @blocks: how many stay; the tokens of an unfinished block go
 */
SKEP_API void skep_chain_truncate(struct skep_chain *chain, uint32_t blocks);

/**
 * skep_chain_blocks() - whole blocks of the chain
 * @chain: the chain
 * Return: the count.
 */
SKEP_API uint32_t skep_chain_blocks(const struct skep_chain *chain);

/**
 * skep_chain_id() - the 128-bit id of a block
 * @chain: the chain
 * @block: index
 * @id: 16 bytes out
 * Return: 0, -ERANGE.
 */
SKEP_API int skep_chain_id(const struct skep_chain *chain, uint32_t block, uint8_t id[16]);

/* --------------------------------------------------------------------------------- match */

/**
 * struct skep_ref - a block in the pool, as plain data that another process of the realm can pin
 * @incarnation: of the daemon
 * @frame_generation: drawn when the block was published; never used twice
 * @slot: of the index
 * @reserved: 0
 */
struct skep_ref {
	uint64_t incarnation;
	uint64_t frame_generation;
	uint32_t slot;
	uint32_t reserved;
};

/**
 * struct skep_pin - a counted promise that the bytes of a run stay put
 * @cell: of the session's pin table, from 1; 0 = no pin
 * @epoch: of the attachment it was made in
 */
struct skep_pin {
	uint32_t cell;
	uint32_t epoch;
};

/**
 * enum skep_match_flag - what a match does
 * @SKEP_MATCH_PIN: pin the run; release it with skep_release()
 * @SKEP_MATCH_PEEK: no pin, no touch, not counted; the references are hints
 */
enum skep_match_flag {
	SKEP_MATCH_PIN = 1,
	SKEP_MATCH_PEEK = 2,
};

/**
 * struct skep_match - one request of a match
 * @struct_bytes: sizeof(struct skep_match)
 * @chain: the chain asked for
 * @first: the first block wanted; the engine has those before it
 * @count: at most so many blocks, 0 = to the chain's end
 * @flags: SKEP_MATCH_PIN or SKEP_MATCH_PEEK
 * @refs: room for @refs_max references, or NULL
 * @refs_max: references that fit; the first that many of the run are given
 * @matched: out, blocks from @first on that can be had now, without a gap
 * @reason: out, why block @first + @matched was not had (enum of skep_reason_text(); 0 = nothing is
 *	missing). "absent" stands for what the index does not hold: skep_explain() tells more.
 * @pin: out with SKEP_MATCH_PIN; release it also if @matched is 0 (then it is no pin)
 * @stored: out, blocks from @first on that some tier holds, those @matched among them: what lies
 *	behind @matched waits on the ssd, and skep_load() brings it. @reason is then why block
 *	@first + @stored was not had.
 */
struct skep_match {
	size_t struct_bytes;
	struct skep_chain *chain;
	uint32_t first;
	uint32_t count;
	uint32_t flags;
	uint32_t refs_max;
	struct skep_ref *refs;
	uint32_t matched;
	uint32_t reason;
	struct skep_pin pin;
	uint32_t stored;
};

/**
 * skep_match() - find the longest run of each request that can be had now
 * @session: the session
 * @requests: @count requests
 * @count: requests
 *
 * Reads the index where it lies: no system call, no copy, no daemon in the path, never waits.
 * While the daemon is away every request misses with reason "daemon_down".
 *
 * Return: 0; -EINVAL (a request is malformed), -EOWNERDEAD. A miss is 0.
 */
SKEP_API int skep_match(struct skep *session, struct skep_match *requests, unsigned count);

/**
 * skep_pin_refs() - pin references that another process of the realm matched
 * @session: the session
 * @refs: a run as skep_match() gave it, in order
 * @count: references
 * @pin: out
 * The references must be neighbours of one chain, parent before child: where they are not, they are
 * good only so far. While the daemon is away none is good.
 *
 * Return: how many of them, from the first on, are good and now pinned; -EOWNERDEAD, -EMFILE (no
 * free pin), -ENOMEM (a run longer than any before).
 */
SKEP_API int skep_pin_refs(
	struct skep *session, const struct skep_ref *refs, unsigned count, struct skep_pin *pin);

/**
 * skep_release() - end a pin; pointers into its run must not be used afterwards
 * @session: the session
 * @pin: set to no pin; no pin is nothing
 */
SKEP_API void skep_release(struct skep *session, struct skep_pin *pin);

/**
 * enum skep_load_flag - how a run is loaded
 * @SKEP_LOAD_PREFETCH: a hint: start to bring the run in and return at once; nothing is pinned, no
 *	event comes. @handle serves to cancel it.
 * @SKEP_LOAD_ASK: blocks that another session has in its GPU memory alone (reason "hbm") belong to
 *	the run: that session is asked to put them, and waited for until the deadline (skep_hbm.h)
 */
enum skep_load_flag {
	SKEP_LOAD_PREFETCH = 1,
	SKEP_LOAD_ASK = 2,
};

/**
 * struct skep_load - have a run in DRAM
 * @struct_bytes: sizeof(struct skep_load)
 * @chain: the chain
 * @first: the first block wanted
 * @count: blocks, 0 = to the chain's end. What of them is in DRAM already stays there; the others
 *	are read from the ssd and verified.
 * @refs: room for @refs_max references, or NULL
 * @refs_max: references that fit
 * @deadline_ns: then what is there by then is the answer
 * @flags: of enum skep_load_flag
 * @queue: NULL = wait here; else skep_load() returns at once, one event comes by the deadline, and
 *	skep_load_end() gives the results
 * @user: comes back with the event
 * @handle: out, of a load with a queue or a prefetch; for skep_load_end(), skep_load_cancel(),
 *	skep_load_reach() and skep_load_copy()
 * @step_ranges: with a queue: bring the blocks so many ranges (layers) at a time, all blocks' first
 *	ones first; 0 = whole. At each step the queue's descriptor becomes readable, and
 *	skep_load_reach() says what is there. A step is a read of its own for each part of each
 *	block: devices want some hundred KiB of each.
 * @loaded: out, leading blocks that are in DRAM now, all of them held by @pin
 * @reason: out, why it is not all that was asked for (as of struct skep_match)
 * @pin: out; release it with skep_release()
 */
struct skep_load {
	size_t struct_bytes;
	struct skep_chain *chain;
	uint32_t first;
	uint32_t count;
	struct skep_ref *refs;
	uint32_t refs_max;
	uint32_t loaded;
	uint64_t deadline_ns;
	uint32_t reason;
	struct skep_pin pin;
	uint32_t flags;
	struct skep_queue *queue;
	uint64_t user;
	uint64_t handle;
	uint32_t step_ranges;
};

/**
 * skep_load() - bring what a match found on the ssd into DRAM, and pin the whole run
 * @session: the session
 * @load: what
 *
 * One batch of reads, however many blocks; each is verified against its checksum on arrival. A
 * block that does not verify is quarantined and the run ends before it. At most half of the pool,
 * and 4,096 blocks, are loaded by one call: ask again for the rest.
 *
 * Return: 0 (@load says how much is there; a miss is 0); -EAGAIN (the daemon has too many loads, or
 * everything is pinned), -EMFILE (no free pin), SKEP_EDOWN, -ETIMEDOUT (not even one block),
 * -EINVAL. With a queue: 0 = exactly one event comes, with @first as its block and 0 or one of
 * these as its status; negative = none does.
 */
SKEP_API int skep_load(struct skep *session, struct skep_load *load);

/**
 * skep_load_end() - the results of a load with a queue, once its event has come
 * @session: the session
 * @load: as it was given to skep_load(), @handle included; @refs and @refs_max may be others, and
 *	@chain is not looked at. @loaded, @reason and @pin are set.
 *
 * Once for each load, also when the event said that it failed. Never waits.
 *
 * Return: as skep_load(); -EAGAIN (the event has not come), -ENOENT (no such load, or one that has
 * ended).
 */
SKEP_API int skep_load_end(struct skep *session, struct skep_load *load);

/**
 * skep_load_reach() - how far is a load in steps?
 * @session: the session
 * @handle: of a load with a queue that has not been ended
 * @ranges: how many
 * Never waits; no system call.
 *
 * Return: leading blocks of the run of which the first @ranges ranges of every part are there and
 * verified: skep_load_copy() gives them. They become fewer where a block cannot be read on or is
 * removed. -ENOENT (no such load), SKEP_EDOWN.
 */
SKEP_API int skep_load_reach(struct skep *session, uint64_t handle, uint32_t ranges);

/**
 * struct skep_load_copy - ranges of blocks that are being loaded in steps
 * @struct_bytes: sizeof(struct skep_load_copy)
 * @space: the space of the load's chain
 * @handle: of a load with a queue that has not been ended
 * @block: index in the run of the first block wanted, 0 = the load's first one
 * @count: blocks
 * @part: part number
 * @first_range: first range wanted
 * @range_count: ranges, 0 = to the end
 * @to: where to: @pieces for each block in turn, filled in order
 * @pieces: of each block; 0 = 1
 */
struct skep_load_copy {
	size_t struct_bytes;
	struct skep_space *space;
	uint64_t handle;
	uint32_t block;
	uint32_t count;
	uint32_t part;
	uint32_t first_range;
	uint32_t range_count;
	uint32_t pieces;
	const struct iovec *to;
};

/**
 * skep_load_copy() - copy ranges out before their blocks are whole, and verify them on the way
 * @session: the session
 * @copy: what
 * Return: blocks that were copied, from the first on; where there is none, why: -EAGAIN (its ranges
 * are not there yet), -ESTALE (it was removed meanwhile: what was written to @to is not to be
 * used), -ENOENT (no such load), -ERANGE, -EMSGSIZE (@to is too small), -EINVAL (not a block of
 * @space), SKEP_EDOWN.
 */
SKEP_API int skep_load_copy(struct skep *session, const struct skep_load_copy *copy);

/**
 * skep_load_cancel() - ask for no more of a load or a prefetch
 * @session: the session
 * @handle: from struct skep_load; one that has ended is nothing
 *
 * The event of a load with a queue comes at once, with what was there; skep_load_end() as ever.
 * Blocks on their way are published when they come, but nothing waits for them. Never waits.
 *
 * Return: 0; -EAGAIN (the daemon is behind: again), SKEP_EDOWN.
 */
SKEP_API int skep_load_cancel(struct skep *session, uint64_t handle);

/**
 * struct skep_view - the bytes of one part where they lie
 * @bytes: read-only; valid until the pin that covers the block is released, also when the daemon
 *	dies meanwhile
 * @length: bytes
 */
struct skep_view {
	const void *bytes;
	uint64_t length;
};

/**
 * skep_view() - the pointer to a part of a pinned block: no copy, no check of the bytes
 * @session: the session
 * @ref: of a pinned run
 * @part: part number
 * @view: out
 * Works on a pinned block also while the daemon is away, and after another one has come.
 *
 * Return: 0; -ESTALE (not the block it was; was it pinned?), -ERANGE (no such part).
 */
SKEP_API int skep_view(
	struct skep *session, const struct skep_ref *ref, uint32_t part, struct skep_view *view);

/**
 * skep_views() - the pointers to a part of many pinned blocks
 * @session: the session
 * @part: part number
 * @refs: @count references of pinned runs
 * @views: out, room for @count
 * @count: references
 *
 * Return: how many of them, from the first on, @views holds; where that is not even one, what
 * skep_view() answers for it.
 */
SKEP_API int skep_views(struct skep *session, uint32_t part, const struct skep_ref *refs,
	struct skep_view *views, unsigned count);

/**
 * struct skep_copy - a verified copy out of the pool
 * @struct_bytes: sizeof(struct skep_copy)
 * @space: the space of the block
 * @ref: the block; need not be pinned (-ESTALE if it left meanwhile)
 * @part: part number
 * @first_range: first range wanted
 * @range_count: ranges, 0 = to the end
 * @to: where to; the pieces are filled in order
 * @to_count: pieces
 */
struct skep_copy {
	size_t struct_bytes;
	struct skep_space *space;
	struct skep_ref ref;
	uint32_t part;
	uint32_t first_range;
	uint32_t range_count;
	const struct iovec *to;
	unsigned to_count;
};

/**
 * skep_copy() - copy ranges of a part out and verify them on the way
 * @session: the session
 * @copy: what
 * Return: bytes copied; SKEP_ECHECKSUM (the block is quarantined; what was written to @to is not
 * to be used), -ESTALE, -ERANGE, -EMSGSIZE (@to is too small), -EINVAL (not a block of @space).
 */
SKEP_API int64_t skep_copy(struct skep *session, const struct skep_copy *copy);

/**
 * skep_copies() - many skep_copy() in one call
 * @session: the session
 * @copies: @count copies, all of one struct_bytes
 * @results: out, of each what skep_copy() would answer: one that fails does so alone
 * @count: copies
 * Return: how many were copied; -EINVAL (@copies is malformed from the first on, or @results is
 * NULL), -EOWNERDEAD: @results is as before.
 */
SKEP_API int skep_copies(
	struct skep *session, const struct skep_copy *copies, int64_t *results, unsigned count);

/**
 * skep_sums() - the range sums that the bytes of a part must have
 * @session: the session
 * @space: the space of the block
 * @ref: the block; need not be pinned (-ESTALE if it left meanwhile)
 * @part: part number
 * @sums: out, in the order of the ranges
 * @sums_max: sums that fit
 *
 * For who verifies a part where it takes it (a GPU that scatters it). The sums are checked against
 * the root of the part. Where bytes turn out wrong, skep_copy() of the part says whether the pool
 * has them wrong too, and quarantines the block.
 *
 * Return: how many sums; -EMSGSIZE (more than fit), SKEP_ECHECKSUM (they are not what the root
 * says; the block is quarantined), -ESTALE, -ERANGE (no such part), -EINVAL (not a block of
 * @space).
 */
SKEP_API int skep_sums(struct skep *session, struct skep_space *space, const struct skep_ref *ref,
	uint32_t part, uint64_t *sums, unsigned sums_max);

/* ----------------------------------------------------------------------------------- put */

/**
 * struct skep_frame - one part of one block being put
 * @bytes: where to write, @length bytes; NULL unless @status is 0
 * @length: bytes
 * @status: 0 reserved; -EEXIST already there; SKEP_EPENDING another writer writes it; after
 *	skep_commit(): 0 committed (then @bytes is NULL), -ESTALE given to another writer meanwhile,
 *	SKEP_EPARENT, SKEP_EDOWN, -ETIMEDOUT, SKEP_EPENDING its event comes on the queue; after
 *	skep_abort(): -ECANCELED
 * @block: index in the chain
 * @part: part number
 * @slot: of the index (for the library)
 * @write: number of the write generation (for the library)
 * @epoch: of the attachment (for the library)
 * @ranges: of the part (for the library)
 * @id: of the block (for the library)
 */
struct skep_frame {
	void *bytes;
	uint64_t length;
	int32_t status;
	uint32_t block;
	uint32_t part;
	uint32_t slot;
	uint64_t write;
	uint32_t epoch;
	uint32_t ranges;
	uint8_t id[16];
};

/**
 * struct skep_reserve - a request for frames
 * @struct_bytes: sizeof(struct skep_reserve)
 * @chain: the chain
 * @first: first block to put; the one before it must be present or pending
 * @count: blocks; the first that many of @frames are written
 * @part: which part of each
 * @length: bytes of the part in a space of opaque keys, a multiple of its ranges; 0 = what the
 *	layout says
 * @deadline_ns: how long to wait when not even one frame can be had
 * @first_missing: out with SKEP_EPARENT, the block from which the chain must be put
 */
struct skep_reserve {
	size_t struct_bytes;
	struct skep_chain *chain;
	uint32_t first;
	uint32_t count;
	uint32_t part;
	uint64_t length;
	uint64_t deadline_ns;
	uint32_t first_missing;
};

/**
 * skep_reserve() - get frames of the pool to write blocks into
 * @session: the session
 * @request: what
 * @frames: room for @request->count
 *
 * Frames can be had for a leading part of what was asked: commit these, then ask for the rest. Of
 * what is reserved each frame must be committed or aborted; after the age limit (30 s) another
 * writer may take the block.
 *
 * Return: how many of @frames are answered (at least 1), each with its status; SKEP_EPARENT
 * (@first_missing is set), -EAGAIN (everything is pinned or pending and the deadline has passed),
 * -ENOSPC (the block can never fit this realm), -EROFS, SKEP_EDOWN, -ETIMEDOUT, -EINVAL, -ERANGE.
 */
SKEP_API int skep_reserve(
	struct skep *session, struct skep_reserve *request, struct skep_frame *frames);

/**
 * enum skep_sums - who computes the checksums of what is committed
 * @SKEP_SUMS_HERE: the library, now, on this thread
 * @SKEP_SUMS_GIVEN: the caller gives the range sums (its gather kernel made them)
 * @SKEP_SUMS_MOVER: a mover thread of the daemon; the call waits for it, or completes on a queue
 */
enum skep_sums {
	SKEP_SUMS_HERE,
	SKEP_SUMS_GIVEN,
	SKEP_SUMS_MOVER,
};

/**
 * struct skep_commit - how to commit
 * @struct_bytes: sizeof(struct skep_commit)
 * @sums: of enum skep_sums
 * @given: with SKEP_SUMS_GIVEN: for each frame in turn the sums of its ranges (skep_range_sum()
 *	says what a range sum is)
 * @queue: completes there, one event a frame with @user, instead of waiting; NULL = wait. The
 *	status of the frames is SKEP_EPENDING then.
 * @user: given back with the event
 * @deadline_ns: for the answer
 */
struct skep_commit {
	size_t struct_bytes;
	uint32_t sums;
	const uint64_t *given;
	struct skep_queue *queue;
	uint64_t user;
	uint64_t deadline_ns;
};

/**
 * skep_commit() - the bytes are in place: make the blocks visible
 * @session: the session
 * @frames: @count frames of skep_reserve() whose status is 0; others are passed over
 * @count: frames
 * @commit: how; NULL = SKEP_SUMS_HERE, two seconds
 *
 * The frames are not to be written any more. A block becomes visible when its last part is
 * committed and its parent is present.
 *
 * Return: frames committed, with a queue frames submitted (each @frames[i].status says how it
 * went); -ETIMEDOUT, SKEP_EDOWN, -EAGAIN (more events than the queue has room for: take some
 * first).
 */
SKEP_API int skep_commit(struct skep *session, struct skep_frame *frames, unsigned count,
	const struct skep_commit *commit);

/**
 * struct skep_put - a run of blocks to put from memory
 * @struct_bytes: sizeof(struct skep_put)
 * @chain: the chain
 * @first: first block to put; the one before it must be present or pending
 * @count: blocks
 * @part: which part of each
 * @pieces: of each block in @from; 0 = 1
 * @from: @pieces for each of the @count blocks in turn, which make up its part in order. In a space
 *	of opaque keys their sum is the length of the block's part.
 * @statuses: out, @count of them: 0 put; -EEXIST already there; SKEP_EPENDING another writer writes
 *	it; -EMSGSIZE (@from does not make up a part); else what ended the put before this block was
 *	in
 * @deadline_ns: how long to wait for frames while none can be had
 * @first_missing: out where a status is SKEP_EPARENT, the block from which the chain must be put
 */
struct skep_put {
	size_t struct_bytes;
	struct skep_chain *chain;
	uint32_t first;
	uint32_t count;
	uint32_t part;
	uint32_t pieces;
	const struct iovec *from;
	int32_t *statuses;
	uint64_t deadline_ns;
	uint32_t first_missing;
};

/**
 * skep_put() - reserve, copy and sum, and commit blocks whose bytes lie in memory
 * @session: the session
 * @put: what
 *
 * skep_reserve(), skep_copy_sum() and skep_commit() for as many blocks at a time as frames can be
 * had, until all are in or the deadline has passed. What is there or being written is passed over.
 * Nothing stays reserved.
 *
 * Return: how many blocks it put (each of @statuses says how it went); where there is neither one
 * that it put nor one that it passed over, what the first of them came to: as skep_reserve() and
 * skep_commit(), -EMSGSIZE. -EINVAL, -ERANGE, -EROFS, -EOWNERDEAD and -EBUSY: @statuses is as
 * before.
 */
SKEP_API int skep_put(struct skep *session, struct skep_put *put);

/**
 * skep_abort() - give reserved frames back unwritten
 * @session: the session
 * @frames: @count frames; those whose status is not 0 are passed over. Their bytes must not be
 *	touched any more.
 * @count: frames
 * Return: 0; SKEP_EDOWN; -EAGAIN (the daemon is behind: call again for those that are left).
 */
SKEP_API int skep_abort(struct skep *session, struct skep_frame *frames, unsigned count);

/**
 * skep_range_sum() - the checksum of one range: XXH3-64 over the XXH3-64 sums of its 4 KiB leaves
 * @bytes: the range
 * @length: bytes
 * Return: the sum. Any thread.
 */
SKEP_API uint64_t skep_range_sum(const void *bytes, size_t length);

/**
 * skep_copy_sum() - copy and sum in one pass, the fastest way to fill a frame from memory
 * @to: the frame
 * @from: the source; does not overlap
 * @length: bytes
 * Return: the range sum of what now stands at @to. Any thread.
 */
SKEP_API uint64_t skep_copy_sum(void *to, const void *from, size_t length);

/**
 * skep_missing() - which blocks of a chain the store lacks
 * @session: the session
 * @chain: the chain
 * @first: from this block on
 * @part: a block that lacks this part counts as missing; UINT32_MAX = any part
 * @blocks: out, indices in order
 * @blocks_max: indices that fit
 * Return: how many were written; 0 = nothing lacks. While the daemon is away, and for the moment in
 * which a space that was stepped is looked up again, SKEP_EDOWN. -ERANGE. Blocks that another
 * writer is writing are not listed. Never waits.
 */
SKEP_API int skep_missing(struct skep *session, struct skep_chain *chain, uint32_t first,
	uint32_t part, uint32_t *blocks, unsigned blocks_max);

/**
 * struct skep_wait - wait for a block that another writer is writing
 * @struct_bytes: sizeof(struct skep_wait)
 * @chain: the chain
 * @block: index
 * @first_range: 0; streaming of ranges answers -ENOTSUP in this release
 * @range_count: 0 = the whole block
 * @queue: completes there with @user instead of waiting; NULL = wait
 * @user: given back with the event
 * @deadline_ns: the end of waiting
 */
struct skep_wait {
	size_t struct_bytes;
	struct skep_chain *chain;
	uint32_t block;
	uint32_t first_range;
	uint32_t range_count;
	struct skep_queue *queue;
	uint64_t user;
	uint64_t deadline_ns;
};

/**
 * skep_wait() - wait until a pending block is there rather than compute it
 * @session: the session
 * @wait: what
 * Return: 0 it is present (or, with a queue, submitted: exactly one event follows);
 * SKEP_EGIVENUP, -ETIMEDOUT, -ENOENT (neither present nor pending), SKEP_EDOWN, -EAGAIN (too many
 * waits under way).
 */
SKEP_API int skep_wait(struct skep *session, const struct skep_wait *wait);

/**
 * skep_sync() - wait until all that was put before is durable
 * @space: the space (today everything of its realm is waited for)
 * @deadline_ns: the end of waiting
 *
 * Blocks are written to the ssd soon after their commit; this waits until those that were visible
 * when it was called are there, and what names them too: they are found after a kill -9 or a loss
 * of power, unless they were evicted since.
 *
 * Return: 0; -ENOTSUP (the realm has no ssd tier), -ETIMEDOUT, -EIO (the devices fail), -EAGAIN
 * (too many wait), SKEP_EDOWN.
 */
SKEP_API int skep_sync(struct skep_space *space, uint64_t deadline_ns);

/**
 * skep_durable() - is what was acknowledged to this session by a moment durable?
 * @session: the session
 * @at_ns: of CLOCK_MONOTONIC, read after the acknowledgement
 *
 * The durable mark: the daemon makes what was put durable by itself, about once a second, and tells
 * each session how far it is; this reads it, without a system call. skep_sync() is for who cannot
 * wait. A realm without an ssd has nothing durable.
 *
 * Return: 1: all blocks that could be had at @at_ns survive the end of the daemon; 0: not yet known
 * to; -ESTALE: the daemon of that moment has ended: what was not durable then is gone, match anew;
 * SKEP_EDOWN.
 */
SKEP_API int skep_durable(struct skep *session, uint64_t at_ns);

/* -------------------------------------------------------------- keys that form no chain */

/**
 * enum skep_keyed_state - what skep_keyed_find() says of a key that can be had
 * @SKEP_KEYED_HERE: its block lies in DRAM
 * @SKEP_KEYED_STORED: its block waits on the ssd; skep_keyed_get() brings it
 */
enum skep_keyed_state {
	SKEP_KEYED_HERE = 1,
	SKEP_KEYED_STORED = 2,
};

/**
 * struct skep_keyed - blocks of which each is a chain of one, by the engine's own keys
 * @struct_bytes: sizeof(struct skep_keyed)
 * @space: with SKEP_SPACE_OPAQUE
 * @keys: @count keys of @key_bytes each, one after the other; in any order
 * @key_bytes: 16 to 64
 * @count: keys
 * @part: which part of each
 * @pieces: of each block in @bytes; 0 = 1
 * @bytes: of skep_keyed_get() and skep_keyed_put(): @pieces for each key in turn, which make up its
 *	part in order. Their sum is the length of the block's part.
 * @statuses: out, @count of them
 * @deadline_ns: the end of waiting
 *
 * For engines whose keys come without the sequence that they belong to. A key names the same block
 * as a chain of that key alone. Gets and puts work from the last key to the first, so that of keys
 * in the order of a sequence those of its begin stay longest. Where all of the sequence is known,
 * chains serve better: they are evicted from their ends.
 */
struct skep_keyed {
	size_t struct_bytes;
	struct skep_space *space;
	const void *keys;
	uint32_t key_bytes;
	uint32_t count;
	uint32_t part;
	uint32_t pieces;
	const struct iovec *bytes;
	int32_t *statuses;
	uint64_t deadline_ns;
};

/**
 * skep_keyed_find() - which of the keys can be had
 * @keyed: what; @bytes and @deadline_ns are not used
 *
 * Never waits. Nothing is pinned, counted or kept from eviction. @statuses: of enum
 * skep_keyed_state; -ENOENT no such block, SKEP_EPENDING another writer writes it, SKEP_EDOWN.
 *
 * Return: how many can be had; -EINVAL, -ERANGE, -ENOMEM, -EOWNERDEAD, -E2BIG: @statuses is as
 * before.
 */
SKEP_API int skep_keyed_find(const struct skep_keyed *keyed);

/**
 * skep_keyed_get() - copy blocks out and verify them on the way
 * @keyed: what
 *
 * Each is matched, brought from the ssd where it waits there, and copied; the ssd reads some of
 * them at a time. @statuses: 0 copied; -ENOENT no such block, SKEP_EPENDING, -EMSGSIZE (it has
 * another length than its place, which is as before), SKEP_ECHECKSUM (the block is quarantined; its
 * place is not to be used), -ESTALE, -EMFILE, -EAGAIN, -ETIMEDOUT, SKEP_EDOWN. One that fails does
 * so alone.
 *
 * Return: how many were copied; else as skep_keyed_find().
 */
SKEP_API int skep_keyed_get(const struct skep_keyed *keyed);

/**
 * skep_keyed_put() - put blocks from memory
 * @keyed: what
 *
 * @statuses: as of skep_put(); one that does not make up a part (-EMSGSIZE) fails alone.
 *
 * Return: as skep_put(); else as skep_keyed_find().
 */
SKEP_API int skep_keyed_put(const struct skep_keyed *keyed);

/**
 * skep_keyed_remove() - take blocks out by name
 * @keyed: what; @part and @bytes are not used: a block goes with all its parts
 *
 * Nobody finds them from now on, those being written are not published, and their room is given
 * back once the last pin of them is released. A chain that begins with such a key goes as a whole.
 * Not waited for is that the removal is durable: a crash of the daemon within about a second may
 * bring a block back that was on the ssd (skep_sync() waits). @statuses: 0 removed; -ENOENT there
 * was none; -ETIMEDOUT (perhaps it is removed), SKEP_EDOWN.
 *
 * Return: how many were removed; where not even one was answered, why; -EROFS; else as
 * skep_keyed_find().
 */
SKEP_API int skep_keyed_remove(const struct skep_keyed *keyed);

/* --------------------------------------------------------------------- hints and insight */

/**
 * enum skep_hint_kind - what the engine expects; soft weights, never promises
 * @SKEP_HINT_OPEN: the conversation goes on: keep the chain a while
 * @SKEP_HINT_DONE: it will not come back: the chain goes to the cold end
 */
enum skep_hint_kind {
	SKEP_HINT_OPEN = 1,
	SKEP_HINT_DONE = 2,
};

/**
 * skep_hint() - tell the store what to expect of a chain
 * @session: the session
 * @chain: the chain
 * @block: its deepest block that the hint is about
 * @kind: of enum skep_hint_kind
 * Return: 0; -ENOENT (not in the index), -EAGAIN (the daemon is behind), SKEP_EDOWN, -ERANGE. Never
 * waits.
 */
SKEP_API int skep_hint(
	struct skep *session, struct skep_chain *chain, uint32_t block, uint32_t kind);

/**
 * struct skep_explanation - why a chain was matched no further
 * @struct_bytes: sizeof(struct skep_explanation), set by the caller
 * @matched: blocks that can be had now
 * @reason: why the next one cannot (skep_reason_text())
 * @seconds_ago: with "evicted", "removed", "checksum", "given_up": how long ago
 * @space: with "other_space": the space that holds a block of the same tokens; with "hbm": the name
 *	of a session that has the block in its GPU memory
 * @field: with "other_space": the first field in which that space differs; with "hbm": the number
 *	of that session
 */
struct skep_explanation {
	size_t struct_bytes;
	uint32_t matched;
	uint32_t reason;
	double seconds_ago;
	char space[64];
	char field[64];
};

/**
 * skep_explain() - why is this chain matched no further?
 * @session: the session
 * @chain: the chain
 * @deadline_ns: for the daemon's answer
 * @out: the answer
 * Return: 0; SKEP_EDOWN, -ETIMEDOUT.
 */
SKEP_API int skep_explain(struct skep *session, struct skep_chain *chain, uint64_t deadline_ns,
	struct skep_explanation *out);

/**
 * struct skep_stats - what this realm holds and did, since the daemon started
 * @struct_bytes: sizeof(struct skep_stats), set by the caller
 * @dram_bytes: size of the pool
 * @dram_bytes_used: in frames, pending ones included
 * @blocks: present
 * @blocks_pending: being written
 * @tokens_asked: in counted matches
 * @tokens_had: in counted matches
 * @puts: parts committed
 * @puts_refused: parts refused
 * @evicted: blocks that left for want of room
 * @pins: pins held by all sessions of the realm
 * @sessions: sessions of the realm
 * @checksum_failures: blocks quarantined
 */
struct skep_stats {
	size_t struct_bytes;
	uint64_t dram_bytes;
	uint64_t dram_bytes_used;
	uint64_t blocks;
	uint64_t blocks_pending;
	uint64_t tokens_asked;
	uint64_t tokens_had;
	uint64_t puts;
	uint64_t puts_refused;
	uint64_t evicted;
	uint64_t pins;
	uint64_t sessions;
	uint64_t checksum_failures;
};

/**
 * skep_stats() - the realm's counters
 * @session: the session
 * @deadline_ns: for the daemon's answer
 * @out: the answer
 * Return: 0; SKEP_EDOWN, -ETIMEDOUT.
 */
SKEP_API int skep_stats(struct skep *session, uint64_t deadline_ns, struct skep_stats *out);

/* -------------------------------------------------------------------------------- queues */

/**
 * struct skep_event - one completion
 * @user: as given at submit
 * @status: 0 or a negative result
 * @block: of a wait: index in the chain; of a commit: index in the frames that were given
 */
struct skep_event {
	uint64_t user;
	int32_t status;
	uint32_t block;
};

/**
 * skep_queue_create() - a queue of completions with a descriptor to poll
 * @session: the session
 * @out: the queue; belongs to the session
 *
 * At most 256 events of a queue can be under way or not taken; a submit beyond that answers
 * -EAGAIN.
 *
 * Return: 0; -EMFILE (eight a session), SKEP_EDOWN, -ENOMEM.
 */
SKEP_API int skep_queue_create(struct skep *session, struct skep_queue **out);

/**
 * skep_queue_fd() - the descriptor that becomes readable when there is an event
 * @queue: the queue
 *
 * It stays the same over a reconnect and can stand in any poll(), select() or epoll set. Do not
 * read from it: it is a set of eventfds, which skep_queue_take() resets.
 *
 * Return: a descriptor, owned by the queue.
 */
SKEP_API int skep_queue_fd(const struct skep_queue *queue);

/**
 * skep_queue_take() - take the events that are there; never waits
 * @queue: the queue
 * @events: room for @events_max
 * @events_max: events that fit
 * Return: how many were taken. Every submit yields exactly one event, by its deadline, also when
 * the daemon dies.
 */
SKEP_API int skep_queue_take(
	struct skep_queue *queue, struct skep_event *events, unsigned events_max);

/**
 * skep_queue_destroy() - drop a queue; events not taken are lost
 * @queue: NULL is nothing
 */
SKEP_API void skep_queue_destroy(struct skep_queue *queue);

#ifdef __cplusplus
}
#endif

#endif
