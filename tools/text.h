/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_TEXT_H
#define SKEP_TOOLS_TEXT_H

#include <stdbool.h>
#include <stdint.h>

/*
 * How tools write ids and quantities, the same in flags, commands and tables. Any thread; nothing
 * is allocated.
 */

enum {
	TEXT_ID_BYTES = 33, /* 32 hex digits and the end */
	TEXT_SHORT_BYTES = 32,
};

/* An id as text: the 16 bytes of skep_chain_id() in their order. @id is {low, high}. */
void text_id_write(char text[TEXT_ID_BYTES], const uint64_t id[2]);

/* The other way; false for anything that is not 32 hex digits. */
bool text_id_read(const char *text, uint64_t id[2]);

/* For people: "512 B", "1.50 GiB", with three digits that count. */
void text_bytes(char text[TEXT_SHORT_BYTES], uint64_t bytes);

/* For people: "12.4 us", "31 s", "2 h 10 min", "never". */
void text_span(char text[TEXT_SHORT_BYTES], uint64_t ns);

/* For people: 1234567 becomes "1,234,567". */
void text_count(char text[TEXT_SHORT_BYTES], uint64_t count);

#endif
