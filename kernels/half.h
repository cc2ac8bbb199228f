/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_KERNELS_HALF_H
#define SKEP_KERNELS_HALF_H

#include <stdint.h>
#include <string.h>

/*
 * The short floating-point formats of KV caches, to and from float: bf16, fp16 and the two of fp8
 * (OCP: e4m3 without infinities, e5m2). To float is exact. From float rounds to nearest, ties to
 * even, subnormals included, as the device's cvt.rn does; where a value is too large, bf16 and fp16
 * give infinity, fp8 its largest finite value (cvt.rn.satfinite). Every NaN becomes the one that
 * the device makes, so that both sides can be compared bit by bit.
 */

/* @mantissa_bits beside the hidden one; @max is the code that stands for all that is larger. */
struct half_format {
	unsigned exponent_bits, mantissa_bits;
	uint32_t max, nan;
};

static inline uint32_t half_float_bits(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

static inline float half_bits_float(uint32_t bits)
{
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/* The code of @value's magnitude: the sign is the caller's. */
static inline uint32_t half_encode_magnitude(struct half_format format, float value)
{
	uint32_t bits = half_float_bits(value) & 0x7fffffff;
	uint32_t least =
		128 - ((1u << (format.exponent_bits - 1)) - 1); /* of a normal, float's bias */
	uint32_t exponent = bits >> 23, significand = bits & 0x7fffff;
	uint32_t shift = 23 - format.mantissa_bits;
	uint32_t code;

	if (bits > 0x7f800000)
		return format.nan;
	if (exponent)
		significand |= 0x800000;
	else
		exponent = 1;
	if (exponent < least) {
		shift += least - exponent;
		if (shift > 25) /* below half of the least subnormal however far: rounds to 0 */
			shift = 25;
		exponent = least;
	}
	/* The hidden bit, where there is one, adds 1 to the exponent field; so does a carry. */
	code = (significand + ((1u << (shift - 1)) - 1) + (significand >> shift & 1)) >> shift;
	code += (exponent - least) << format.mantissa_bits;
	return code < format.max ? code : format.max;
}

/* What a code without its sign stands for, infinities and NaN left to the caller. */
static inline float half_decode_magnitude(struct half_format format, uint32_t code)
{
	uint32_t bias = (1u << (format.exponent_bits - 1)) - 1;
	uint32_t exponent = code >> format.mantissa_bits;
	uint32_t mantissa = code & ((1u << format.mantissa_bits) - 1);

	if (!exponent) /* times 2 to the power of 1 - bias - mantissa_bits */
		return (float)mantissa * half_bits_float((128 - bias - format.mantissa_bits) << 23);
	return half_bits_float(
		(exponent + 127 - bias) << 23 | mantissa << (23 - format.mantissa_bits));
}

static inline float half_signed(float magnitude, uint32_t negative)
{
	return half_bits_float(half_float_bits(magnitude) | (negative ? 0x80000000 : 0));
}

static inline uint16_t half_bf16_from_float(float value)
{
	const struct half_format format = {8, 7, 0x7f80, 0x7fff};
	uint32_t code = half_encode_magnitude(format, value);

	if (code == format.nan)
		return (uint16_t)code;
	return (uint16_t)(code | (half_float_bits(value) >> 31) << 15);
}

static inline float half_bf16_to_float(uint16_t code)
{
	return half_bits_float((uint32_t)code << 16);
}

static inline uint16_t half_fp16_from_float(float value)
{
	const struct half_format format = {5, 10, 0x7c00, 0x7fff};
	uint32_t code = half_encode_magnitude(format, value);

	if (code == format.nan)
		return (uint16_t)code;
	return (uint16_t)(code | (half_float_bits(value) >> 31) << 15);
}

static inline float half_fp16_to_float(uint16_t code)
{
	const struct half_format format = {5, 10, 0x7c00, 0x7fff};
	uint32_t magnitude = code & 0x7fff;

	if (magnitude >= 0x7c00) /* infinity, and NaN with its payload */
		return half_bits_float(
			(uint32_t)(code >> 15) << 31 | 0x7f800000 | (magnitude & 0x3ff) << 13);
	return half_signed(half_decode_magnitude(format, magnitude), code >> 15);
}

static inline uint8_t half_e4m3_from_float(float value)
{
	const struct half_format format = {4, 3, 0x7e, 0x7f};
	uint32_t code = half_encode_magnitude(format, value);

	if (code == format.nan)
		return (uint8_t)code;
	return (uint8_t)(code | (half_float_bits(value) >> 31) << 7);
}

static inline float half_e4m3_to_float(uint8_t code)
{
	const struct half_format format = {4, 3, 0x7e, 0x7f};
	uint32_t magnitude = code & 0x7f;

	if (magnitude == format.nan)
		return half_signed(half_bits_float(0x7fc00000), code >> 7);
	return half_signed(half_decode_magnitude(format, magnitude), code >> 7);
}

static inline uint8_t half_e5m2_from_float(float value)
{
	const struct half_format format = {5, 2, 0x7b, 0x7f};
	uint32_t code = half_encode_magnitude(format, value);

	if (code == format.nan)
		return (uint8_t)code;
	return (uint8_t)(code | (half_float_bits(value) >> 31) << 7);
}

static inline float half_e5m2_to_float(uint8_t code)
{
	/* The upper byte of fp16. */
	return half_fp16_to_float((uint16_t)(code << 8));
}

#endif
