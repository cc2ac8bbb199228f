/* SPDX-License-Identifier: Apache-2.0 */
#include "base/config/units.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"

enum { FRACTION_DIGITS_MAX = 18 };

/* Smallest first. */
struct unit {
	const char *word;
	uint64_t each;
};

static const struct unit size_units[] = {
	{"B", 1},
	{"KiB", 1ull << 10},
	{"MiB", 1ull << 20},
	{"GiB", 1ull << 30},
	{"TiB", 1ull << 40},
	{"PiB", 1ull << 50},
};

static const struct unit duration_units[] = {
	{"ns", 1},
	{"us", NS_PER_US},
	{"ms", NS_PER_MS},
	{"s", NS_PER_S},
	{"m", 60 * NS_PER_S},
	{"h", 3600 * NS_PER_S},
	{"d", 86400 * NS_PER_S},
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* A number as digits / scale. */
struct number {
	uint64_t digits;
	uint64_t scale; /* a power of ten */
};

/* Reads a number at *@text and moves past it. 0, -EINVAL or -ERANGE. */
static int number_parse(const char **text, struct number *number)
{
	const char *at = *text;
	unsigned fraction = 0;
	bool point = false;

	*number = (struct number){.scale = 1};
	if (!is_digit(*at))
		return -EINVAL;
	for (; is_digit(*at) || (*at == '.' && !point); at++) {
		if (*at == '.') {
			point = true;
			continue;
		}
		if (point && ++fraction > FRACTION_DIGITS_MAX)
			return -EINVAL;
		if (point)
			number->scale *= 10;
		if (__builtin_mul_overflow(number->digits, 10, &number->digits) ||
			__builtin_add_overflow(
				number->digits, (uint64_t)(*at - '0'), &number->digits))
			return -ERANGE;
	}
	if (point && !fraction)
		return -EINVAL;
	*text = at;
	return 0;
}

struct unit_list {
	const struct unit *units;
	size_t count;
	bool bare; /* a number without a unit counts in the first one */
};

static const struct unit_list sizes = {size_units, ARRAY_COUNT(size_units), true};
static const struct unit_list durations = {duration_units, ARRAY_COUNT(duration_units), false};

/* The unit that @word names; NULL: none. */
static const struct unit *unit_find(const struct unit_list *list, const char *word)
{
	for (size_t i = 0; i < list->count; i++)
		if (!strcmp(word, list->units[i].word))
			return &list->units[i];
	return NULL;
}

static int units_parse(const char *text, const struct unit_list *list, uint64_t *value)
{
	const struct unit *unit;
	struct number number;
	unsigned __int128 product;
	int rc = number_parse(&text, &number);

	if (rc)
		return rc;
	if (!*text && (list->bare || !number.digits)) {
		unit = &list->units[0];
	} else {
		while (*text == ' ')
			text++;
		unit = unit_find(list, text);
	}
	if (!unit)
		return -EINVAL;
	product = (unsigned __int128)number.digits * unit->each;
	if (product % number.scale)
		return -EINVAL;
	product /= number.scale;
	if (product > UINT64_MAX)
		return -ERANGE;
	*value = (uint64_t)product;
	return 0;
}

int size_parse(const char *text, uint64_t *bytes)
{
	return units_parse(text, &sizes, bytes);
}

int duration_parse(const char *text, uint64_t *ns)
{
	return units_parse(text, &durations, ns);
}

/* In the largest unit that leaves a whole number. */
static struct unit_text units_format(uint64_t value, const struct unit_list *list, size_t zero)
{
	size_t at = value ? list->count - 1 : zero;
	struct unit_text text;

	while (value % list->units[at].each)
		at--;
	snprintf(text.text, sizeof(text.text), "%" PRIu64 "%s", value / list->units[at].each,
		list->units[at].word);
	return text;
}

struct unit_text size_format(uint64_t bytes)
{
	return units_format(bytes, &sizes, 0);
}

struct unit_text duration_format(uint64_t ns)
{
	return units_format(ns, &durations, 3); /* 0 is "0s" */
}
