/* A disk that fails when it is told to. Loaded before libc (LD_PRELOAD), it owns what becomes of writes and syncs
 * on files below TIDEWIRE_FAULT_DIR, and must not know what is written.
 *
 * The file TIDEWIRE_FAULT_CONTROL, while it exists, holds one word:
 *   full         a write takes nothing (ENOSPC)
 *   short        a write takes the first part, the next nothing: how disks really fill up
 *   write-fails  EIO
 *   sync-fails   EIO, and what was to be synced counts as clean, as Linux has it: the next sync will not write it
 *   sync-hangs   a sync waits until the word is gone
 *   sync-lies    a sync does nothing and says that all is well
 * The first call that it meets makes a file of that name with ".hit".
 *
 * TIDEWIRE_FAULT_PLATTER, if set, names a directory that gets what has been synced, and only that: one file for
 * each inode, with the bytes of a file or the names in a directory. It is what a power cut would leave. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FILES_MAX 4096

struct range {
    struct range *next;
    off_t start, end;
};
static struct dirty {
    ino_t inode;
    struct range *ranges;
} files[FILES_MAX];
static int file_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int parity;

/* Whether an open file lies below the directory. Sockets and pipes have no such path. */
static int ours(int fd) {
    const char *directory = getenv("TIDEWIRE_FAULT_DIR");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = directory ? readlink(link, path, sizeof path - 1) : -1;
    if (length < 0) return 0;
    path[length] = 0;
    size_t prefix = strlen(directory);
    return strncmp(path, directory, prefix) == 0 && (path[prefix] == '/' || path[prefix] == 0);
}

/* Whether the control file holds this word. */
static int told(const char *word) {
    const char *control = getenv("TIDEWIRE_FAULT_CONTROL");
    char text[64] = "", path[4096];
    int fd = control ? open(control, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0 || strcmp(text, word) != 0) return 0;
    snprintf(path, sizeof path, "%s.hit", control);
    fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (fd >= 0) close(fd);
    return 1;
}

/* What a write to one of our files shall do: 0 go on, 1 take a part, else an errno. */
static int verdict(void) {
    if (told("full")) return ENOSPC;
    if (told("write-fails")) return EIO;
    if (told("short")) return atomic_fetch_add(&parity, 1) % 2 == 0 ? 1 : ENOSPC;
    return 0;
}

static struct dirty *find(ino_t inode) {
    for (int i = 0; i < file_count; i++)
        if (files[i].inode == inode) return &files[i];
    if (file_count == FILES_MAX) abort();
    files[file_count].inode = inode;
    return &files[file_count++];
}

static void forget(struct dirty *file) {
    while (file->ranges) {
        struct range *range = file->ranges;
        file->ranges = range->next;
        free(range);
    }
}

static void note(int fd, off_t start, ssize_t length) {
    struct stat stat;
    if (length <= 0 || !getenv("TIDEWIRE_FAULT_PLATTER") || fstat(fd, &stat) != 0) return;
    pthread_mutex_lock(&lock);
    struct dirty *file = find(stat.st_ino);
    if (file->ranges && file->ranges->end == start) {
        file->ranges->end += length;
    } else {
        struct range *range = malloc(sizeof *range);
        *range = (struct range){file->ranges, start, start + length};
        file->ranges = range;
    }
    pthread_mutex_unlock(&lock);
}

/* Where a write that moves the position began. */
static off_t before(int fd, ssize_t length) {
    return lseek(fd, 0, SEEK_CUR) - length;
}

static void shadow_path(char *path, size_t size, ino_t inode) {
    snprintf(path, size, "%s/%lu", getenv("TIDEWIRE_FAULT_PLATTER"), (unsigned long)inode);
}

/* Takes the dirty ranges of a file. The copy is made from these: what is written later waits for its own sync. */
static struct dirty take(int fd, struct stat *stat) {
    struct dirty taken = {0, NULL};
    if (!getenv("TIDEWIRE_FAULT_PLATTER") || fstat(fd, stat) != 0 || !S_ISREG(stat->st_mode)) return taken;
    pthread_mutex_lock(&lock);
    struct dirty *file = find(stat->st_ino);
    taken = *file;
    file->ranges = NULL;
    pthread_mutex_unlock(&lock);
    return taken;
}

static void keep(int fd, struct dirty *taken, const struct stat *stat) {
    char name[4096], own[64], buffer[65536];
    struct stat shadow_stat;
    shadow_path(name, sizeof name, taken->inode);
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    int from = open(own, O_RDONLY | O_CLOEXEC), to = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (from < 0 || to < 0) abort();
    for (struct range *range = taken->ranges; range; range = range->next)
        for (off_t at = range->start; at < range->end;) {
            size_t want = range->end - at < (off_t)sizeof buffer ? range->end - at : (off_t)sizeof buffer;
            ssize_t got = pread(from, buffer, want, at);
            if (got <= 0) break;
            if (NEXT(pwrite)(to, buffer, got, at) != got) abort();
            at += got;
        }
    if (fstat(to, &shadow_stat) == 0 && shadow_stat.st_size != stat->st_size && ftruncate(to, stat->st_size)) abort();
    close(from);
    close(to);
}

/* A new file is there after a power cut only if its directory was synced. */
static void keep_names(int fd, ino_t inode) {
    char name[4096], own[64];
    shadow_path(name, sizeof name, inode);
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    DIR *directory = opendir(own);
    FILE *to = fopen(name, "w");
    if (!directory || !to) abort();
    for (struct dirent *entry; (entry = readdir(directory));) fprintf(to, "%s\n", entry->d_name);
    closedir(directory);
    fclose(to);
}

static int synced(int fd, int (*next)(int)) {
    if (!ours(fd)) return next(fd);
    while (told("sync-hangs")) usleep(2000);
    if (told("sync-lies")) return 0;
    struct stat stat = {0};
    struct dirty taken = take(fd, &stat);
    int failed = told("sync-fails");
    int result = failed ? -1 : next(fd);
    if (result == 0 && taken.inode) keep(fd, &taken, &stat);
    if (result == 0 && S_ISDIR(stat.st_mode)) keep_names(fd, stat.st_ino);
    forget(&taken);
    if (failed) errno = EIO;
    return result;
}

int fsync(int fd) { return synced(fd, NEXT(fsync)); }
int fdatasync(int fd) { return synced(fd, NEXT(fdatasync)); }

ssize_t write(int fd, const void *bytes, size_t length) {
    int fault = 0, mine = ours(fd);
    if (mine) fault = verdict();
    if (fault > 1) return errno = fault, -1;
    if (fault == 1 && length > 1) length /= 2;
    ssize_t result = NEXT(write)(fd, bytes, length);
    if (mine) note(fd, before(fd, result), result);
    return result;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    int fault = 0, mine = ours(fd);
    if (mine) fault = verdict();
    if (fault > 1) return errno = fault, -1;
    struct iovec first;
    if (fault == 1 && count > 0) {
        first = (struct iovec){parts[0].iov_base, (parts[0].iov_len + 1) / 2};
        parts = &first, count = 1;
    }
    ssize_t result = NEXT(writev)(fd, parts, count);
    if (mine) note(fd, before(fd, result), result);
    return result;
}

static ssize_t written_at(int fd, const void *bytes, size_t length, off_t start) {
    int fault = 0, mine = ours(fd);
    if (mine) fault = verdict();
    if (fault > 1) return errno = fault, -1;
    if (fault == 1 && length > 1) length /= 2;
    ssize_t result = NEXT(pwrite)(fd, bytes, length, start);
    if (mine) note(fd, start, result);
    return result;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t start) { return written_at(fd, bytes, length, start); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t start) { return written_at(fd, bytes, length, start); }

static ssize_t parts_written_at(int fd, const struct iovec *parts, int count, off_t start) {
    /* One part is a short write, which is allowed at any time. */
    return count > 0 ? written_at(fd, parts[0].iov_base, parts[0].iov_len, start) : 0;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t start) { return parts_written_at(fd, parts, count, start); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t start) { return parts_written_at(fd, parts, count, start); }

/* Room that is asked for beforehand is refused on a full disk as well. */
static int allocated(int fd, int mode, off_t start, off_t length, int (*next)(int, int, off_t, off_t)) {
    if (ours(fd) && (told("full") || told("short"))) return errno = ENOSPC, -1;
    return next(fd, mode, start, length);
}

int fallocate(int fd, int mode, off_t start, off_t length) { return allocated(fd, mode, start, length, NEXT(fallocate)); }
int fallocate64(int fd, int mode, off64_t start, off64_t length) { return allocated(fd, mode, start, length, NEXT(fallocate64)); }

/* The inode of a removed file may come again: its past must not. */
static void removed(const char *path) {
    char name[4096];
    struct stat found;
    if (!getenv("TIDEWIRE_FAULT_PLATTER") || stat(path, &found) != 0 || found.st_nlink > 1) return;
    pthread_mutex_lock(&lock);
    forget(find(found.st_ino));
    pthread_mutex_unlock(&lock);
    shadow_path(name, sizeof name, found.st_ino);
    NEXT(unlink)(name);
}

int unlink(const char *path) {
    removed(path);
    return NEXT(unlink)(path);
}

int rename(const char *from, const char *to) {
    removed(to);
    return NEXT(rename)(from, to);
}
