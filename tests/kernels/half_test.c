/* SPDX-License-Identifier: Apache-2.0 */
/*
 * half_test [seed]: every code of every format stands for its value, and every float goes to the
 * nearest code. The second is checked at each boundary between two neighbouring codes (the float at
 * the middle and the two beside it), which, rounding being monotonic, settles all floats between;
 * seeded floats are looked up in the table of values besides.
 */
#include "kernels/half.h"

#include <math.h>
#include <stdbool.h>

#include "tests/base/unit.h"

/* One format, as its definition reads. @finite codes from 0 up are finite, then come @infinite. */
struct kind {
	const char *name;
	int bias, mantissa_bits;
	uint32_t finite, infinite, sign, nan;
	bool saturates;
	uint32_t (*encode)(float value);
	float (*decode)(uint32_t code);
};

#define KIND_FUNCTIONS(name, type)                                                                 \
	static uint32_t name##_encode(float value)                                                 \
	{                                                                                          \
		return half_##name##_from_float(value);                                            \
	}                                                                                          \
	static float name##_decode(uint32_t code)                                                  \
	{                                                                                          \
		return half_##name##_to_float((type)code);                                         \
	}

KIND_FUNCTIONS(bf16, uint16_t)
KIND_FUNCTIONS(fp16, uint16_t)
KIND_FUNCTIONS(e4m3, uint8_t)
KIND_FUNCTIONS(e5m2, uint8_t)

static const struct kind kinds[] = {
	{"bf16", 127, 7, 0x7f80, 1, 0x8000, 0x7fff, false, bf16_encode, bf16_decode},
	{"fp16", 15, 10, 0x7c00, 1, 0x8000, 0x7fff, false, fp16_encode, fp16_decode},
	{"e4m3", 7, 3, 0x7f, 0, 0x80, 0x7f, true, e4m3_encode, e4m3_decode},
	{"e5m2", 15, 2, 0x7c, 1, 0x80, 0x7f, true, e5m2_encode, e5m2_decode},
};

/* By the definition: (1 or 0).mantissa times 2 to the exponent. Finite codes only. */
static double value_of(const struct kind *kind, uint32_t code)
{
	int exponent = (int)(code >> kind->mantissa_bits);
	double mantissa = code & ((1u << kind->mantissa_bits) - 1);

	if (!exponent)
		return ldexp(mantissa, 1 - kind->bias - kind->mantissa_bits);
	return ldexp(ldexp(1, kind->mantissa_bits) + mantissa,
		exponent - kind->bias - kind->mantissa_bits);
}

static void code_is(const struct kind *kind, float value, uint32_t wanted)
{
	for (int negative = 0; negative < 2; negative++) {
		uint32_t is = kind->encode(negative ? -value : value);

		if (is != (negative ? wanted | kind->sign : wanted)) {
			fprintf(stderr, "%s: %a became 0x%x, not 0x%x\n", kind->name,
				negative ? -(double)value : (double)value, is, wanted);
			exit(1);
		}
	}
}

static void every_code_stands_for_its_value(const struct kind *kind)
{
	for (uint32_t code = 0; code < kind->sign; code++) {
		float is = kind->decode(code), negative = kind->decode(code | kind->sign);

		REQUIRE(!signbit(is) && signbit(negative));
		if (code < kind->finite) {
			REQUIRE((double)is == value_of(kind, code) && negative == -is);
			code_is(kind, is, code);
		} else if (code < kind->finite + kind->infinite) {
			REQUIRE(isinf(is) && isinf(negative));
		} else {
			REQUIRE(isnan(is) && isnan(negative));
			REQUIRE_EQ(kind->encode(is), kind->nan);
			REQUIRE_EQ(kind->encode(negative), kind->nan);
		}
	}
}

static void every_float_goes_to_the_nearest_code(const struct kind *kind)
{
	for (uint32_t code = 0; code + 1 < kind->finite; code++) {
		double middle = (value_of(kind, code) + value_of(kind, code + 1)) / 2;

		/* Half of a float's least subnormal is no float; nothing lies between there. */
		REQUIRE((double)(float)middle == middle);
		code_is(kind, (float)middle, code % 2 ? code + 1 : code);
		code_is(kind, nextafterf((float)middle, 0), code);
		code_is(kind, nextafterf((float)middle, INFINITY), code + 1);
	}
}

static void what_is_too_large_is_infinite_or_saturates(const struct kind *kind)
{
	uint32_t last = kind->finite - 1, past = kind->saturates ? last : kind->finite;
	double step = value_of(kind, last) - value_of(kind, last - 1);
	float middle = (float)(value_of(kind, last) + step / 2);

	code_is(kind, nextafterf(middle, 0), last);
	code_is(kind, middle, past);
	code_is(kind, nextafterf(middle, INFINITY), past);
	code_is(kind, INFINITY, past);
}

static void seeded_floats_agree_with_the_table(const struct kind *kind, uint64_t seed)
{
	for (int n = 0; n < 300000; n++) {
		uint32_t low = 0, high = kind->finite - 1;
		float value = half_bits_float(unit_random(&seed, UINT32_MAX) & 0x7fffffff);
		double below, above;

		if (!((double)value <= value_of(kind, high)))
			continue;
		while (high - low > 1) {
			uint32_t middle = (low + high) / 2;

			if (value_of(kind, middle) <= (double)value)
				low = middle;
			else
				high = middle;
		}
		below = (double)value - value_of(kind, low);
		above = value_of(kind, high) - (double)value;
		code_is(kind, value,
			below < above || (below == above && low % 2 == 0) ? low : high);
	}
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
		every_code_stands_for_its_value(&kinds[i]);
		every_float_goes_to_the_nearest_code(&kinds[i]);
		what_is_too_large_is_infinite_or_saturates(&kinds[i]);
		seeded_floats_agree_with_the_table(&kinds[i], seed);
	}
	return 0;
}
