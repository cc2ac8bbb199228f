/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEPD_NOTIFY_H
#define SKEP_TOOLS_SKEPD_NOTIFY_H

#include <stdint.h>

/*
 * What systemd is told, as datagrams to $NOTIFY_SOCKET (sd_notify(3) describes the protocol).
 * Where no service manager asked for it every call does nothing. Main thread; never blocks.
 */

/*
 * Sends lines such as "READY=1". Return: 1 sent; 0 nobody asked; or the negative errno of the
 * socket (the daemon goes on: its manager's deafness is no fault of its clients).
 */
int notify_send(const char *lines);

/* The same with "RELOADING=1" and the time stamp that goes with it. */
int notify_reloading(void);

/* Nanoseconds between two signs of life that the manager wants to see at most; 0: none wanted. */
uint64_t notify_watchdog_ns(void);

#endif
