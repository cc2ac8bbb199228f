/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"

void text_id_write(char text[TEXT_ID_BYTES], const uint64_t id[2])
{
	static const char digits[] = "0123456789abcdef";
	uint8_t bytes[16];

	memcpy(bytes, id, sizeof(bytes));
	for (unsigned i = 0; i < sizeof(bytes); i++) {
		text[2 * i] = digits[bytes[i] >> 4];
		text[2 * i + 1] = digits[bytes[i] & 15];
	}
	text[TEXT_ID_BYTES - 1] = 0;
}

static int digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool text_id_read(const char *text, uint64_t id[2])
{
	uint8_t bytes[16];

	if (strlen(text) != TEXT_ID_BYTES - 1)
		return false;
	for (unsigned i = 0; i < sizeof(bytes); i++) {
		int high = digit_of(text[2 * i]), low = digit_of(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		bytes[i] = (uint8_t)(high << 4 | low);
	}
	memcpy(id, bytes, sizeof(bytes));
	return true;
}

/* @value with three digits that count. */
static void number_write(char text[TEXT_SHORT_BYTES], double value, const char *unit)
{
	int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;

	snprintf(text, TEXT_SHORT_BYTES, "%.*f %s", decimals, value, unit);
}

void text_bytes(char text[TEXT_SHORT_BYTES], uint64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes;
	unsigned unit = 0;

	while (value >= 1023.5 && unit + 1 < ARRAY_COUNT(units)) {
		value /= 1024;
		unit++;
	}
	if (unit == 0)
		snprintf(text, TEXT_SHORT_BYTES, "%" PRIu64 " B", bytes);
	else
		number_write(text, value, units[unit]);
}

void text_span(char text[TEXT_SHORT_BYTES], uint64_t ns)
{
	uint64_t s = ns / NS_PER_S;

	if (ns == CLOCK_NEVER)
		snprintf(text, TEXT_SHORT_BYTES, "never");
	else if (ns < NS_PER_US)
		snprintf(text, TEXT_SHORT_BYTES, "%" PRIu64 " ns", ns);
	else if (ns < NS_PER_MS)
		number_write(text, (double)ns / NS_PER_US, "us");
	else if (ns < NS_PER_S)
		number_write(text, (double)ns / NS_PER_MS, "ms");
	else if (s < 60)
		number_write(text, (double)ns / NS_PER_S, "s");
	else if (s < 3600)
		snprintf(text, TEXT_SHORT_BYTES, "%u min %u s", (unsigned)(s / 60),
			(unsigned)(s % 60));
	else if (s < 86400)
		snprintf(text, TEXT_SHORT_BYTES, "%u h %u min", (unsigned)(s / 3600),
			(unsigned)(s / 60 % 60));
	else
		snprintf(text, TEXT_SHORT_BYTES, "%" PRIu64 " d %u h", s / 86400,
			(unsigned)(s / 3600 % 24));
}

void text_count(char text[TEXT_SHORT_BYTES], uint64_t count)
{
	char digits[TEXT_SHORT_BYTES];
	int length = snprintf(digits, sizeof(digits), "%" PRIu64, count), used = 0;

	for (int i = 0; i < length; i++) {
		if (i > 0 && (length - i) % 3 == 0)
			text[used++] = ',';
		text[used++] = digits[i];
	}
	text[used] = 0;
}
