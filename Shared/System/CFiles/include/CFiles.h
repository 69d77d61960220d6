// System calls about files that have no function of their own in glibc, or a variadic one, which Swift cannot call.
#ifndef FORETASTE_CFILES_H
#define FORETASTE_CFILES_H

// Opens the file at `path` for reading, without waiting, below the open folder `folder` and nowhere else: no symbolic link is followed,
// whatever happens to the path meanwhile (openat2, Linux 5.6). Returns the descriptor; or -1 with errno, ENOSYS where there is no such call.
int foretaste_open_beneath(int folder, const char *path);

// Makes a file without a name in the open folder `folder`, for writing; it is gone when its descriptor is, unless it was named. Returns the
// descriptor; or -1 with errno, EOPNOTSUPP where the file system has none.
int foretaste_open_unnamed(int folder, unsigned mode);

// Gives such a file a name in the open folder `folder`. Returns 0; or -1 with errno, EEXIST when the name is taken.
int foretaste_name_file(int descriptor, int folder, const char *name);

#endif
