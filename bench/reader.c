/* A reader, and a writer, that costs next to nothing itself: open, read, close. Prints one line of JSON as bare_client does.
 *
 *   reader read FILE     one file from front to back in reads of 1 MiB
 *   reader stream FILE   the same, and what was read is let go of the page cache, so that a large file costs little memory
 *   reader small DIR     every DIR/x/y once in directory order; the time of listing the names is not counted, as in bare_client
 *   reader walk DIR      the same, but each directory is listed when it is its turn, and that counts
 *   reader shuffled NAMES DIR SEED  every DIR/x/y once: x in random order, and in each x all y in random order. The names are those
 *                        of the directory NAMES, which looks like DIR; what was read is let go of the page cache
 *   reader mixed NAMES DIR SEED     the same, with all x/y in one random order
 *   reader write FILE MIB           a file that is there, in writes of 1 MiB and an fsync
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, KEPT_BYTES = 64 << 20, FILES_MAX = 1 << 20 };

static char buffer[BLOCK];

static void stop(const char *what)
{
    perror(what);
    exit(1);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

enum { KEEPS = 0, LETS_GO = 1, LETS_ALL_GO = 2 };

static long long read_all(int directory, const char *name, int lets_go)
{
    long long bytes = 0, dropped = 0;
    ssize_t count;
    int file = openat(directory, name, O_RDONLY);
    if (file < 0)
        stop(name);
    while ((count = read(file, buffer, BLOCK)) > 0) {
        bytes += count;
        if (lets_go == LETS_GO && bytes - dropped >= KEPT_BYTES) {
            posix_fadvise(file, 0, bytes, POSIX_FADV_DONTNEED);
            dropped = bytes;
        }
    }
    if (count < 0)
        stop(name);
    if (lets_go == LETS_ALL_GO)
        posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    close(file);
    return bytes;
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* Opens a directory and lists what is in it; returns its descriptor. */
static int list(int at, const char *path, struct dirent ***entries, int *count)
{
    int directory = openat(at, path, O_RDONLY | O_DIRECTORY);
    if (directory < 0 || (*count = scandirat(directory, ".", entries, visible, NULL)) < 0)
        stop(path);
    return directory;
}

static void report(double elapsed, long long bytes, long files)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"seconds\": %.6f, \"bytes\": %lld, \"files\": %ld, \"cpu_seconds\": %.3f, \"rss_kib\": %ld}\n",
           elapsed, bytes, files, cpu, usage.ru_maxrss);
}

static void read_one(const char *path, int lets_go)
{
    double begin = seconds();
    long long bytes = read_all(AT_FDCWD, path, lets_go);
    report(seconds() - begin, bytes, 1);
}

static void write_one(const char *path, long mib)
{
    int file = open(path, O_WRONLY | O_TRUNC);
    double begin = seconds();
    if (file < 0)
        stop(path);
    memset(buffer, 0x5a, BLOCK);
    for (long i = 0; i < mib; i++)
        if (write(file, buffer, BLOCK) != BLOCK)
            stop("write");
    if (fsync(file) || close(file))
        stop("fsync and close");
    report(seconds() - begin, (long long)mib * BLOCK, 1);
}

static void read_small(const char *path)
{
    static int directories[FILES_MAX];
    static char *names[FILES_MAX];
    struct dirent **subdirectories, **entries;
    long files = 0;
    long long bytes = 0;
    int count, inside;
    int root = list(AT_FDCWD, path, &subdirectories, &count);
    for (int i = 0; i < count; i++) {
        int directory = list(root, subdirectories[i]->d_name, &entries, &inside);
        for (int j = 0; j < inside && files < FILES_MAX; j++, files++) {
            directories[files] = directory;
            names[files] = entries[j]->d_name;
        }
    }
    double begin = seconds();
    for (long i = 0; i < files; i++)
        bytes += read_all(directories[i], names[i], KEEPS);
    report(seconds() - begin, bytes, files);
}

static void read_walking(const char *path)
{
    struct dirent **subdirectories, **entries;
    long files = 0;
    long long bytes = 0;
    double begin = seconds();
    int count, inside;
    int root = list(AT_FDCWD, path, &subdirectories, &count);
    for (int i = 0; i < count; i++) {
        int directory = list(root, subdirectories[i]->d_name, &entries, &inside);
        for (int j = 0; j < inside; j++, files++)
            bytes += read_all(directory, entries[j]->d_name, KEEPS);
        close(directory);
    }
    report(seconds() - begin, bytes, files);
}

static void shuffle(char **texts, long count)
{
    for (long i = count - 1; i > 0; i--) {
        long other = random() % (i + 1);
        char *text = texts[i];
        texts[i] = texts[other];
        texts[other] = text;
    }
}

static void read_at_random(const char *names, const char *path, int is_mixed)
{
    static char *all[FILES_MAX];
    struct dirent **subdirectories, **entries;
    long files = 0;
    long long bytes = 0;
    int count, inside;
    int listed = list(AT_FDCWD, names, &subdirectories, &count), root = open(path, O_RDONLY | O_DIRECTORY);
    if (root < 0)
        stop(path);
    shuffle((char **)subdirectories, count);
    for (int i = 0; i < count; i++) {
        const char *directory = subdirectories[i]->d_name;
        long first = files;
        list(listed, directory, &entries, &inside);
        for (int j = 0; j < inside && files < FILES_MAX; j++, files++)
            if (asprintf(&all[files], "%s/%s", directory, entries[j]->d_name) < 0)
                stop(directory);
        shuffle(all + first, files - first);
    }
    if (is_mixed)
        shuffle(all, files);
    double begin = seconds();
    for (long i = 0; i < files; i++)
        bytes += read_all(root, all[i], LETS_ALL_GO);
    report(seconds() - begin, bytes, files);
}

int main(int count, char **arguments)
{
    if (count == 3 && !strcmp(arguments[1], "read"))
        read_one(arguments[2], KEEPS);
    else if (count == 3 && !strcmp(arguments[1], "stream"))
        read_one(arguments[2], LETS_GO);
    else if (count == 4 && !strcmp(arguments[1], "write"))
        write_one(arguments[2], atol(arguments[3]));
    else if (count == 3 && !strcmp(arguments[1], "small"))
        read_small(arguments[2]);
    else if (count == 3 && !strcmp(arguments[1], "walk"))
        read_walking(arguments[2]);
    else if (count == 5 && (!strcmp(arguments[1], "shuffled") || !strcmp(arguments[1], "mixed"))) {
        srandom(atoi(arguments[4]));
        read_at_random(arguments[2], arguments[3], !strcmp(arguments[1], "mixed"));
    } else {
        fprintf(stderr, "usage: reader read FILE | stream FILE | small DIR | walk DIR | shuffled|mixed NAMES DIR SEED | write FILE MIB\n");
        return 2;
    }
    return 0;
}
