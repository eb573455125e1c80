/* Makes the n-th write, fsync, rename or truncation inside one folder fail, or kills or interrupts
 * the process there. Loaded with LD_PRELOAD, so that it sees what HDF5 and torch do as well. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static long count, target = -1;
static int action; /* 0: SIGKILL, INTERRUPT: SIGINT, else the errno to give back */
#define INTERRUPT -1
static char folder[PATH_MAX];

void fault_arm(const char *where, long n, int what) {
    snprintf(folder, sizeof folder, "%s", where);
    action = what;
    count = 0;
    target = n;
}

long fault_count(void) { return count; }

/* 0: go on. 1: this call is to fail. Ctrl-C fails no call. */
static int strikes(void) {
    if (target < 0 || __sync_fetch_and_add(&count, 1) != target) return 0;
    if (action == INTERRUPT) kill(getpid(), SIGINT);
    return action != INTERRUPT;
}

static int fails(void) {
    if (!strikes()) return 0;
    if (action == 0) kill(getpid(), SIGKILL);
    errno = action;
    return 1;
}

static int inside(const char *path) { return strncmp(path, folder, strlen(folder)) == 0; }

static int inside_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (target < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return inside(path);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* A write that is struck leaves half of its bytes behind. */
ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (inside_fd(fd) && strikes()) {
        real(fd, data, size / 2);
        if (action == 0) kill(getpid(), SIGKILL);
        errno = action;
        return -1;
    }
    return real(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int number) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return inside_fd(fd) && fails() ? -1 : real(fd, parts, number);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return inside_fd(fd) && fails() ? -1 : real(fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return inside_fd(fd) && fails() ? -1 : real(fd, data, size, offset);
}

ssize_t sendfile(int to, int from, off_t *offset, size_t size) {
    REAL(ssize_t, "sendfile", int, int, off_t *, size_t);
    return inside_fd(to) && fails() ? -1 : real(to, from, offset, size);
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return inside_fd(fd) && fails() ? -1 : real(fd);
}

int ftruncate64(int fd, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    return inside_fd(fd) && fails() ? -1 : real(fd, size);
}

/* Gives the error back and leaves errno alone. */
int posix_fallocate64(int fd, off64_t offset, off64_t size) {
    REAL(int, "posix_fallocate64", int, off64_t, off64_t);
    return inside_fd(fd) && fails() ? action : real(fd, offset, size);
}

int posix_fallocate(int fd, off_t offset, off_t size) {
    REAL(int, "posix_fallocate", int, off_t, off_t);
    return inside_fd(fd) && fails() ? action : real(fd, offset, size);
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return target >= 0 && fails() ? -1 : real(from, to);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return target >= 0 && fails() ? -1 : real(path);
}
