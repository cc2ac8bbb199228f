/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TRANSPORT_LOCAL_SERVER_PAGE_H
#define SKEP_TRANSPORT_LOCAL_SERVER_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "transport/local/page.h"

/*
 * The daemon's end of a session page. Cursors that decide anything are kept here; what the client
 * writes is read once and bounds-checked. The keeper's thread alone.
 */
struct page_end {
	uint8_t *base; /* page_bytes() of shared memory */
	uint32_t submission_head;
	uint32_t completion_tail[PAGE_QUEUES];
	int queue_fds[PAGE_QUEUES]; /* eventfds of queues 1 and up; -1: not created */
};

/* Lays a zeroed page out. @memory has page_bytes(). */
void page_end_init(struct page_end *end, void *memory);

/* Takes the next submission. Return: 1; 0 none; -EPROTO: the client wrote nonsense. */
int page_end_take(struct page_end *end, struct submission *out);

/* Anything to take? Reads the tail alone. */
bool page_end_waiting(const struct page_end *end);

/* Gives a completion and wakes whoever waits for it. Return: 0; -EPROTO: no room, the client has
 * more under way than it may. */
int page_end_complete(struct page_end *end, unsigned queue, const struct completion *completion);

/* Wakes who polls a queue (from 1), without a completion. */
void page_end_wake(const struct page_end *end, unsigned queue);

/* Tells the client what is durable (page_head.durable_ns). */
void page_end_durable(const struct page_end *end, uint64_t durable_ns);

/* @bytes of the scratch at offset @at, or NULL if they do not lie inside or are not 8-aligned. */
void *page_end_scratch(const struct page_end *end, uint32_t at, uint64_t bytes);

/* The number of the index that the client says it reads. */
uint32_t page_end_index(const struct page_end *end);

/* The pin table and how many of its cells may be in use. */
const void *page_end_pins(const struct page_end *end, uint32_t *count);

/*
 * Before sleeping: sets the flag and fences. Return: true if a submission came in meanwhile (do not
 * sleep). After waking: page_end_awake().
 */
bool page_end_asleep(struct page_end *end);
void page_end_awake(struct page_end *end);

#endif
