/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEPD_ANSWERS_PRIV_H
#define SKEP_TOOLS_SKEPD_ANSWERS_PRIV_H

/* What answers.c and answers_ssd.c share. */

#include "base/clock.h"
#include "tools/skepd/commands.h"

struct request {
	struct daemon *daemon;
	const char *own; /* the session's realm; NULL: an operator, who sees all */
	const char *realm, *space;
	bool has_id, has_below, has_bytes, roots, pinned, all;
	uint64_t id[2], below[2]; /* low, high */
	uint64_t bytes, cursor, limit, device;
	json_t *answer;
};

/* Makes the answer an error; returns @status, so that a command can end with it. */
int request_fail(struct request *request, int status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* An error of the node that has no better words than its own. */
int request_status(struct request *request, int status);

/* The one realm that a change is for. */
int request_realm(struct request *request, const char **realm);

static inline void set_number(json_t *object, const char *key, uint64_t value)
{
	json_object_set_new(object, key, json_integer((json_int_t)value));
}

static inline void set_text(json_t *object, const char *key, const char *text)
{
	/* Texts come from clients: what is not UTF-8 is shown as such, not dropped. */
	json_t *value = json_string(text);

	json_object_set_new(object, key, value ? value : json_string("(not UTF-8)"));
}

json_t *latency_json(const struct histogram *h);

/* answers_ssd.c */
json_t *ssd_json(const struct node_ssd_status *ssd);
int run_verify(struct request *request);
int run_unfence(struct request *request);

#endif
