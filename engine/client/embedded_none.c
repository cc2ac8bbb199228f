/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/client/embedded.h"

#include <errno.h>

int embedded_open(const char *settings, struct embedded **out)
{
	(void)settings;
	(void)out;
	return -ENOTSUP;
}

int embedded_connect(struct embedded *node)
{
	(void)node;
	return -ENOTSUP;
}

void embedded_close(struct embedded *node)
{
	(void)node;
}
