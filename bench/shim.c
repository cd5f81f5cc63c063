/* A modelled slow disk, preloaded into every process that is measured.
 *
 * Each call that makes data durable (fsync, fdatasync, msync with MS_SYNC, sync_file_range, syncfs,
 * and a write through a descriptor opened with O_SYNC or O_DSYNC) is done, then delayed, then
 * counted. Delay and counters are in a shared file, so that one parent steers and reads a whole
 * tree of processes. The same for every peer: LMDB writes its meta page through an O_DSYNC
 * descriptor, the others call fdatasync.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The layout is repeated in shim.py, where a test holds the two together. */
struct control {
    uint64_t delay_us;
    uint64_t fsyncs;
    uint64_t fdatasyncs;
    uint64_t msyncs;
    uint64_t range_syncs;
    uint64_t synced_writes;
};

static struct control unused;
static struct control *control = &unused;

__attribute__((constructor)) static void attach(void)
{
    const char *path = getenv("BENCH_SHIM_CONTROL");
    if (path == NULL)
        return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        control = map;
}

static void flushed(uint64_t *counter)
{
    int saved = errno;
    __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
    uint64_t delay_us = __atomic_load_n(&control->delay_us, __ATOMIC_RELAXED);
    if (delay_us > 0) {
        struct timespec left = {(time_t)(delay_us / 1000000), (long)(delay_us % 1000000) * 1000};
        while (nanosleep(&left, &left) != 0 && errno == EINTR)
            ;
    }
    errno = saved;
}

static int synced(int fd)
{
    int saved = errno;
    int flags = fcntl(fd, F_GETFL);
    errno = saved;
    return flags >= 0 && (flags & O_DSYNC) != 0; /* O_SYNC includes the bit of O_DSYNC */
}

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (next == NULL) \
        next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int fsync(int fd)
{
    NEXT(fsync);
    int outcome = next(fd);
    flushed(&control->fsyncs);
    return outcome;
}

int fdatasync(int fd)
{
    NEXT(fdatasync);
    int outcome = next(fd);
    flushed(&control->fdatasyncs);
    return outcome;
}

int syncfs(int fd)
{
    NEXT(syncfs);
    int outcome = next(fd);
    flushed(&control->fsyncs);
    return outcome;
}

int msync(void *address, size_t length, int flags)
{
    NEXT(msync);
    int outcome = next(address, length, flags);
    if (flags & MS_SYNC)
        flushed(&control->msyncs);
    return outcome;
}

int sync_file_range(int fd, off64_t offset, off64_t count, unsigned int flags)
{
    NEXT(sync_file_range);
    int outcome = next(fd, offset, count, flags);
    if (flags & SYNC_FILE_RANGE_WAIT_AFTER)
        flushed(&control->range_syncs);
    return outcome;
}

ssize_t write(int fd, const void *data, size_t length)
{
    NEXT(write);
    ssize_t outcome = next(fd, data, length);
    if (synced(fd))
        flushed(&control->synced_writes);
    return outcome;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    NEXT(pwrite);
    ssize_t outcome = next(fd, data, length, offset);
    if (synced(fd))
        flushed(&control->synced_writes);
    return outcome;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    NEXT(pwrite64);
    ssize_t outcome = next(fd, data, length, offset);
    if (synced(fd))
        flushed(&control->synced_writes);
    return outcome;
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    NEXT(writev);
    ssize_t outcome = next(fd, parts, count);
    if (synced(fd))
        flushed(&control->synced_writes);
    return outcome;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    NEXT(pwritev);
    ssize_t outcome = next(fd, parts, count, offset);
    if (synced(fd))
        flushed(&control->synced_writes);
    return outcome;
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
{
    NEXT(pwritev64);
    ssize_t outcome = next(fd, parts, count, offset);
    if (synced(fd))
        flushed(&control->synced_writes);
    return outcome;
}

/* Python's os.pwritev is this one; RWF_DSYNC makes a single write durable. */
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    NEXT(pwritev2);
    ssize_t outcome = next(fd, parts, count, offset, flags);
    if ((flags & RWF_DSYNC) || synced(fd))
        flushed(&control->synced_writes);
    return outcome;
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
{
    NEXT(pwritev64v2);
    ssize_t outcome = next(fd, parts, count, offset, flags);
    if ((flags & RWF_DSYNC) || synced(fd))
        flushed(&control->synced_writes);
    return outcome;
}
