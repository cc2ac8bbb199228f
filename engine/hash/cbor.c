/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "engine/hash/cbor.h"

/* Major types, in the upper three bits of an item's first byte. */
enum { UNSIGNED = 0x00, NEGATIVE = 0x20, BYTES = 0x40, TEXT = 0x60, ARRAY = 0x80, HEAD_MAX = 9 };
enum { VALUE_NULL = 0xf6 };

static void flush(struct cbor *cbor)
{
	sha256_add(&cbor->hash, cbor->buffer, cbor->used);
	cbor->used = 0;
}

/* A type with its number: in the first byte below 24, else in 1, 2, 4 or 8 bytes behind it. */
static void head(struct cbor *cbor, uint8_t type, uint64_t number)
{
	unsigned bytes = number < 24		? 0
			 : number <= UINT8_MAX	? 1
			 : number <= UINT16_MAX ? 2
			 : number <= UINT32_MAX ? 4
						: 8;
	uint8_t *to;

	if (cbor->used + HEAD_MAX > CBOR_BUFFER_BYTES)
		flush(cbor);
	to = cbor->buffer + cbor->used;
	*to++ = type | (uint8_t)(bytes ? 24 + (unsigned)__builtin_ctz(bytes) : number);
	for (unsigned i = bytes; i--;)
		*to++ = (uint8_t)(number >> (8 * i));
	cbor->used += 1 + bytes;
}

static void piece(struct cbor *cbor, uint8_t type, const void *bytes, size_t length)
{
	head(cbor, type, length);
	if (cbor->used + length > CBOR_BUFFER_BYTES) {
		flush(cbor);
		sha256_add(&cbor->hash, bytes, length);
	} else if (length) {
		memcpy(cbor->buffer + cbor->used, bytes, length);
		cbor->used += length;
	}
}

void cbor_begin(struct cbor *cbor)
{
	sha256_begin(&cbor->hash);
	cbor->used = 0;
}

void cbor_number(struct cbor *cbor, uint64_t number)
{
	head(cbor, UNSIGNED, number);
}

void cbor_signed(struct cbor *cbor, int64_t number)
{
	if (number < 0)
		head(cbor, NEGATIVE, (uint64_t)(-1 - number));
	else
		head(cbor, UNSIGNED, (uint64_t)number);
}

void cbor_bytes(struct cbor *cbor, const void *bytes, size_t length)
{
	piece(cbor, BYTES, bytes, length);
}

void cbor_text(struct cbor *cbor, const char *text, size_t bytes)
{
	piece(cbor, TEXT, text, bytes);
}

void cbor_array(struct cbor *cbor, uint64_t items)
{
	head(cbor, ARRAY, items);
}

void cbor_null(struct cbor *cbor)
{
	if (cbor->used == CBOR_BUFFER_BYTES)
		flush(cbor);
	cbor->buffer[cbor->used++] = VALUE_NULL;
}

void cbor_end(struct cbor *cbor, uint8_t out[SHA256_BYTES])
{
	flush(cbor);
	sha256_end(&cbor->hash, out);
}
