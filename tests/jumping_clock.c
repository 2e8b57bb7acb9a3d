/* Preloaded into a process, shifts its wall clock by the seconds that the file $CLOCK_SHIFT names. Monotonic clocks,
   timeouts and the rest of the machine stay as they are, as when an operator or a time server sets the clock. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    const char *path = clock == CLOCK_REALTIME ? getenv("CLOCK_SHIFT") : NULL;
    if (result == 0 && path != NULL) {
        char text[32] = {0};
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0)
                now->tv_sec += atol(text);
            close(file);
        }
    }
    return result;
}
