/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_STORE_HBM_PRIV_H
#define SKEP_STORE_HBM_PRIV_H

/* hbm.c: blocks in the GPU memory of engine processes, as the rest of the keeper meets them. */

#include "store/store_priv.h"

int hbm_create(struct realm *realm);
void hbm_destroy(struct realm *realm);
int hbm_announce(struct session *session, const struct submission *message);
int hbm_withdraw(struct session *session, const struct submission *message);
int hbm_asks(struct session *session, const struct submission *message);
void hbm_asks_cancel(struct session *session, const struct submission *message);
void hbm_session_gone(struct session *session);
/* Has some session announced it? */
static inline bool hbm_held(const struct realm *realm, uint32_t slot)
{
	return realm->hbm.of_slot[slot] != 0;
}
/* It may not leave DRAM: a child in hbm rests on it, and it is not there itself. */
static inline bool hbm_keeps(const struct realm *realm, uint32_t slot)
{
	return realm->index.slots[slot].hbm_children && !hbm_held(realm, slot);
}
/* How many sessions announced it. */
uint32_t hbm_holders(const struct realm *realm, uint32_t slot);
/* One of these. */
const struct session *hbm_holder(const struct realm *realm, uint32_t slot);
/* A name without bytes in any tier of this node. */
static inline bool hbm_state(enum entry_state state)
{
	return state == ENTRY_HBM || state == ENTRY_EMPTY;
}
/* The block's bytes have left this node. Return: true: its name stays, for a session has it or a
 * child of it. */
bool hbm_stays(struct realm *realm, uint32_t slot);
/* Nobody has it any more, by force. */
void hbm_block_end(struct realm *realm, uint32_t slot);
/* A name above one that went: without bytes, holder and child it goes as well. */
void hbm_settle(struct realm *realm, uint32_t slot);
/* A block that is announced: one that a successor takes over too. Return: 0, -ENOSPC. */
int hbm_hold_make(struct session *session, uint32_t slot);
/* Marks what may not be emptied of frames, or of records. */
void hbm_mark(struct realm *realm, bool records, void (*mark)(struct realm *, uint32_t slot));
/* The block that a load needs next has no bytes here. Return: -EINPROGRESS: somebody was asked;
 * -ENOENT, -ETIMEDOUT. */
int hbm_await(struct realm *realm, struct load *load);
/* Asks sessions for what is wanted of them. */
void hbm_pump(struct realm *realm);
/* A message that another process took, too: is it one that can be answered? */
bool hbm_asks_sound(const struct session *session, const struct submission *message);
/* Loads wait for nobody's GPU memory any more: the keeper comes to rest. */
void hbm_rest(struct realm *realm);

#endif
