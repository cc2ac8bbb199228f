/* SPDX-License-Identifier: Apache-2.0 */
/* What systemd is told arrives as it wants it; where nobody listens nothing happens. */
#include "tools/skepd/notify.c"

#include "tests/base/unit.h"

static int listener(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t length = strlen(name);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	memcpy(address.sun_path, name, length);
	if (*name == '@')
		address.sun_path[0] = 0;
	REQUIRE(fd >= 0);
	REQUIRE_EQ(bind(fd, (struct sockaddr *)&address,
			   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)),
		0);
	return fd;
}

static void arrives(const char *name)
{
	int fd = listener(name);
	char text[128];
	ssize_t got;

	setenv("NOTIFY_SOCKET", name, 1);
	REQUIRE_EQ(notify_send("READY=1\nSTATUS=serving"), 1);
	got = recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);
	REQUIRE(got > 0);
	text[got] = 0;
	REQUIRE_TEXT(text, "READY=1\nSTATUS=serving");
	REQUIRE_EQ(notify_reloading(), 1);
	got = recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);
	REQUIRE(got > 0);
	text[got] = 0;
	REQUIRE(!strncmp(text, "RELOADING=1\nMONOTONIC_USEC=", 27) && text[27] >= '1');
	close(fd);
}

int main(void)
{
	char path[64], name[64], pid[16];

	unsetenv("NOTIFY_SOCKET");
	REQUIRE_EQ(notify_send("READY=1"), 0);
	snprintf(path, sizeof(path), "/tmp/skep-notify-%d", (int)getpid());
	snprintf(name, sizeof(name), "@skep-notify-%d", (int)getpid());
	arrives(path);
	REQUIRE_EQ(unlink(path), 0);
	arrives(name);
	REQUIRE(notify_send("READY=1") < 0); /* the listener is gone */
	setenv("NOTIFY_SOCKET", "nonsense", 1);
	REQUIRE_EQ(notify_send("READY=1"), -EINVAL);

	unsetenv("WATCHDOG_USEC");
	REQUIRE_EQ(notify_watchdog_ns(), 0);
	setenv("WATCHDOG_USEC", "2000000", 1);
	REQUIRE_EQ(notify_watchdog_ns(), 2 * NS_PER_S);
	/* Inherited from a parent that was meant. */
	setenv("WATCHDOG_PID", "1", 1);
	REQUIRE_EQ(notify_watchdog_ns(), 0);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("WATCHDOG_PID", pid, 1);
	REQUIRE_EQ(notify_watchdog_ns(), 2 * NS_PER_S);
	setenv("WATCHDOG_USEC", "2s", 1);
	REQUIRE_EQ(notify_watchdog_ns(), 0);
	return 0;
}
