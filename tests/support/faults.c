/* Faults for the tests: the n-th call that touches a file of one directory fails, or is the last.
 *
 * Preloaded into a test process, where the functions below named fault_* are called by ctypes.
 * Counts calls whose file, by its path or by what its descriptor refers to, lies below the armed
 * directory.  Before it is armed, and in all other calls, everything goes through unchanged.
 * Not thread-safe beyond its atomic counter: the tests that use it have one thread that matters.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OP_WRITE = 1, OP_SYNC = 2, OP_OPEN = 4, OP_RENAME = 8, OP_UNLINK = 16, OP_SIZE = 32,
       OP_POINT = 64 };
enum { COUNT = 0, KILL_BEFORE = 1, KILL_AFTER = 2, FAIL = 3, FAIL_LATE = 4, SHORT = 5 };

static char directory[4096];
static int armed_ops, action, error_code, sticky;
static long nth;
static atomic_long calls;

/* From now on count the calls of these kinds; the nth gets the action, with sticky all later too. */
void fault_arm(const char *below, int ops, int what, long number, int code, int on)
{
    strncpy(directory, below, sizeof directory - 1);
    action = what;
    nth = number;
    error_code = code;
    sticky = on;
    atomic_store(&calls, 0);
    armed_ops = ops;
}

/* End the faults; how many calls have been counted. */
long fault_disarm(void)
{
    armed_ops = 0;
    return atomic_load(&calls);
}

static int is_below(const char *path)
{
    return path && strncmp(path, directory, strlen(directory)) == 0;
}

static int is_fd_below(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_below(path);
}

/* What is to happen to this call. */
static int due(void)
{
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (number == nth || (sticky && number > nth)) {
        if (action == KILL_BEFORE)
            raise(SIGKILL);
        return action;
    }
    return COUNT;
}

static int due_fd(int op, int fd)
{
    int saved = errno, what = COUNT;
    if ((armed_ops & op) && is_fd_below(fd))
        what = due();
    errno = saved;
    return what;
}

static int due_path(int op, const char *path)
{
    return (armed_ops & op) && is_below(path) ? due() : COUNT;
}

static long ended(int what, long result)
{
    if (what == KILL_AFTER)
        raise(SIGKILL);
    if (what == FAIL_LATE) {
        /* The work is done, and the error comes all the same: a flush that is told too late. */
        errno = error_code;
        return -1;
    }
    return result;
}

/* A step without a system call of its own. */
void fault_point(void)
{
    if (armed_ops & OP_POINT)
        ended(due(), 0);
}

#define REAL(name, type, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) \
        real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define REFUSE(what) \
    do { if ((what) == FAIL) { errno = error_code; return -1; } } while (0)

#define PWRITE(name) \
    ssize_t name(int fd, const void *data, size_t size, off_t at) \
    { \
        REAL(#name, ssize_t, int, const void *, size_t, off_t); \
        int what = due_fd(OP_WRITE, fd); \
        REFUSE(what); \
        if (what == SHORT && size > 1) \
            size /= 2; \
        return ended(what, real(fd, data, size, at)); \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define PWRITEV(name) \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t at) \
    { \
        REAL(#name, ssize_t, int, const struct iovec *, int, off_t); \
        int what = due_fd(OP_WRITE, fd); \
        REFUSE(what); \
        if (what == SHORT && count > 1) \
            count /= 2; \
        return ended(what, real(fd, parts, count, at)); \
    }
PWRITEV(pwritev)
PWRITEV(pwritev64)

ssize_t write(int fd, const void *data, size_t size)
{
    REAL("write", ssize_t, int, const void *, size_t);
    int what = due_fd(OP_WRITE, fd);
    REFUSE(what);
    if (what == SHORT && size > 1)
        size /= 2;
    return ended(what, real(fd, data, size));
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL("writev", ssize_t, int, const struct iovec *, int);
    int what = due_fd(OP_WRITE, fd);
    REFUSE(what);
    return ended(what, real(fd, parts, count));
}

#define SYNC(name) \
    int name(int fd) \
    { \
        REAL(#name, int, int); \
        int what = due_fd(OP_SYNC, fd); \
        REFUSE(what); \
        return (int)ended(what, real(fd)); \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(name) \
    int name(int fd, off_t size) \
    { \
        REAL(#name, int, int, off_t); \
        int what = due_fd(OP_SIZE, fd); \
        REFUSE(what); \
        return (int)ended(what, real(fd, size)); \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        REAL(#name, int, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = va_arg(rest, int); \
        va_end(rest); \
        int what = due_path(OP_OPEN, path); \
        REFUSE(what == FAIL_LATE ? FAIL : what); \
        return (int)ended(what, real(path, flags, mode)); \
    }
OPEN(open)
OPEN(open64)

int rename(const char *from, const char *to)
{
    REAL("rename", int, const char *, const char *);
    int what = due_path(OP_RENAME, to);
    REFUSE(what);
    return (int)ended(what, real(from, to));
}

int unlink(const char *path)
{
    REAL("unlink", int, const char *);
    int what = due_path(OP_UNLINK, path);
    REFUSE(what);
    return (int)ended(what, real(path));
}

int unlinkat(int at, const char *path, int flags)
{
    REAL("unlinkat", int, int, const char *, int);
    int what = due_path(OP_UNLINK, path);
    REFUSE(what);
    return (int)ended(what, real(at, path, flags));
}
