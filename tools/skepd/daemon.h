/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEPD_DAEMON_H
#define SKEP_TOOLS_SKEPD_DAEMON_H

#include <pthread.h>

#include "store/node.h"
#include "tools/skepd/settings.h"

/*
 * What the threads of skepd share: main (signals, service manager), the command worker, and the
 * HTTP page's thread. The node itself may be called from any of them.
 */
struct daemon {
	struct node *node;
	pthread_mutex_t lock;	   /* of settings: main replaces it at a reload */
	struct settings *settings; /* in force */
};

#endif
