/* SPDX-License-Identifier: Apache-2.0 */
#include "base/status.h"

#include <errno.h>
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

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 32)
static const char *errno_text(int number)
{
	return strerrordesc_np(number);
}

static const char *errno_name(int number)
{
	return strerrorname_np(number);
}
#else
/* An older libc tells no names, and its strerror() is safe where the number is known. */
#define ERRNO_TABLE(X)                                                                             \
	X(EPERM)                                                                                   \
	X(ENOENT)                                                                                  \
	X(EINTR)                                                                                   \
	X(EIO)                                                                                     \
	X(ENXIO)                                                                                   \
	X(EBADF)                                                                                   \
	X(EAGAIN)                                                                                  \
	X(ENOMEM)                                                                                  \
	X(EACCES)                                                                                  \
	X(EFAULT)                                                                                  \
	X(EBUSY)                                                                                   \
	X(EEXIST)                                                                                  \
	X(ENODEV)                                                                                  \
	X(ENOTDIR)                                                                                 \
	X(EISDIR)                                                                                  \
	X(EINVAL)                                                                                  \
	X(ENFILE)                                                                                  \
	X(EMFILE)                                                                                  \
	X(EFBIG)                                                                                   \
	X(ENOSPC)                                                                                  \
	X(EROFS)                                                                                   \
	X(EPIPE)                                                                                   \
	X(ERANGE)                                                                                  \
	X(ENAMETOOLONG)                                                                            \
	X(ENOSYS)                                                                                  \
	X(EOVERFLOW)                                                                               \
	X(EUSERS)                                                                                  \
	X(EMSGSIZE)                                                                                \
	X(ENOTSUP)                                                                                 \
	X(EADDRINUSE)                                                                              \
	X(ECONNREFUSED)                                                                            \
	X(ECONNRESET)                                                                              \
	X(ETIMEDOUT)                                                                               \
	X(EALREADY)                                                                                \
	X(ESTALE)                                                                                  \
	X(EDQUOT)                                                                                  \
	X(ECANCELED)                                                                               \
	X(EOWNERDEAD)                                                                              \
	X(E2BIG)                                                                                   \
	X(EPROTO)

static const char *errno_name(int number)
{
	switch (number) {
#define X(name)                                                                                    \
	case name:                                                                                 \
		return #name;
		ERRNO_TABLE(X)
#undef X
	default:
		return NULL;
	}
}

static const char *errno_text(int number)
{
	return errno_name(number) ? strerror(number) : NULL;
}
#endif

const char *status_text(int status)
{
	switch (status) {
#define X(name, number, text)                                                                      \
	case SKEP_STATUS_##name:                                                                   \
		return text;
		SKEP_STATUS_TABLE(X)
#undef X
	default: {
		const char *text = errno_text(-status);

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
		const char *name = status == 0 ? "OK" : errno_name(-status);

		return name ? name : "E?";
	}
	}
}
