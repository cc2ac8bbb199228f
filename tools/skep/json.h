/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEP_JSON_H
#define SKEP_TOOLS_SKEP_JSON_H

#include <stdint.h>

#include <jansson.h>

/* Members of an answer; what is not there counts as 0 or "": a newer skep asks an older daemon. */

static inline uint64_t json_number(const json_t *object, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(object, key));
}

static inline double json_real_of(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

static inline const char *json_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

#endif
