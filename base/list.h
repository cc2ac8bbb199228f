/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_BASE_LIST_H
#define SKEP_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

/* A circular doubly linked list with its head as a member; an item links at most once at a time. */
struct list {
	struct list *next, *prev;
};

#define list_item(node, type, member) ((type *)((char *)(node)-offsetof(type, member)))
#define list_each(node, head)                                                                      \
	for (struct list *node = (head)->next; node != (head); node = node->next)
#define list_each_safe(node, head)                                                                 \
	for (struct list *node = (head)->next, *node##_next = node->next; node != (head);          \
		node = node##_next, node##_next = node->next)

static inline void list_init(struct list *head)
{
	head->next = head->prev = head;
}

static inline bool list_empty(const struct list *head)
{
	return head->next == head;
}

static inline void list_add_before(struct list *at, struct list *node)
{
	node->prev = at->prev;
	node->next = at;
	at->prev->next = node;
	at->prev = node;
}

/* Appends @node at the end of @head's list. */
static inline void list_append(struct list *head, struct list *node)
{
	list_add_before(head, node);
}

/* Unlinks and leaves @node as a list of its own, so that a second removal is harmless. */
static inline void list_remove(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

#endif
