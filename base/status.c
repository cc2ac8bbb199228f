/* SPDX-License-Identifier: Apache-2.0 */
#include "base/status.h"

#include <string.h>

static const char *const reason_words[] = {
#define X(name, word, text) word,
	SKEP_REASON_TABLE(X)
#undef X
};

static const char *const reason_texts[] = {
#define X(name, word, text) text,
	SKEP_REASON_TABLE(X)
#undef X
};

const char *reason_word(unsigned reason)
{
	return reason < SKEP_REASON_COUNT ? reason_words[reason] : "unknown";
}

const char *reason_text(unsigned reason)
{
	return reason < SKEP_REASON_COUNT ? reason_texts[reason] : "unknown reason";
}

const char *status_text(int status)
{
	switch (status) {
#define X(name, number, text)                                                                      \
	case SKEP_STATUS_##name:                                                                   \
		return text;
		SKEP_STATUS_TABLE(X)
#undef X
	default: {
		const char *text = strerrordesc_np(-status);

		return text ? text : "unknown error";
	}
	}
}

const char *status_name(int status)
{
	switch (status) {
#define X(name, number, text)                                                                      \
	case SKEP_STATUS_##name:                                                                   \
		return #name;
		SKEP_STATUS_TABLE(X)
#undef X
	default: {
		const char *name = status == 0 ? "OK" : strerrorname_np(-status);

		return name ? name : "E?";
	}
	}
}
