/* SPDX-License-Identifier: MIT
 *
 * corrupt_data: a data file is damaged or incomplete, by the words of the exception that reading it
 * raised. Words alone: never certain.
 */
#include "crash.h"

#include <stdio.h>
#include <string.h>

/* What a sign needs beside its words. Loose ones are said of other things, too. */
enum needs { NOTHING, READER, DATA_FILE };

/* Of an exception message; `type`: only for exceptions of that type. */
static const struct {
    const char *type, *words;
    enum needs needs;
} sign[] = {
    {NULL, "mmap length is greater than file size", NOTHING},
    {NULL, "No data left in file", READER},
    {NULL, "Failed to interpret file", NOTHING},
    {NULL, "Cannot load file containing pickled data", READER},
    {NULL, "EOF: reading array", NOTHING},
    {NULL, "magic string is not correct", NOTHING},
    {NULL, "Bad CRC-32", NOTHING},
    {NULL, "CRC check failed", READER},
    {NULL, "File is not a zip file", NOTHING},
    {NULL, "Bad magic number for", READER},
    {NULL, "while decompressing data", DATA_FILE},
    {NULL, "incorrect header check", DATA_FILE},
    {NULL, "incomplete or truncated stream", DATA_FILE},
    {NULL, "Compressed file ended before the end-of-stream marker", NOTHING},
    {NULL, "Compressed data ended before the end-of-stream marker", DATA_FILE},
    {NULL, "Not a gzipped file", READER},
    {NULL, "truncated file: eof", NOTHING},
    {NULL, "truncated file", READER},
    {NULL, "file signature not found", READER},
    {NULL, "blosc2_schunk_open", NOTHING},
    {NULL, "b2nd_open", NOTHING},
    {NULL, "Error while decompressing", READER},
    {NULL, "Error while getting the slice", READER},
    {NULL, "Could not decompress", READER},
    {NULL, "pickle data was truncated", DATA_FILE},
    {NULL, "invalid load key", DATA_FILE},
    {NULL, "Ran out of input", DATA_FILE},
    {NULL, "failed finding central directory", NOTHING},
    {NULL, "invalid header or archive is corrupted", NOTHING},
    {NULL, "Unable to determine ImageIO reader", READER},
    {NULL, "Empty file", READER},
    {NULL, "could not be read", READER},
    {NULL, "MDB_CORRUPTED", NOTHING},
    {NULL, "MDB_PAGE_NOTFOUND", NOTHING},
    {"BadZipFile", "", NOTHING},
    {"UnpicklingError", "", DATA_FILE},
    {"BadGzipFile", "", NOTHING},
    {"LZMAError", "", DATA_FILE},
    {"ImageFileError", "", READER},
    {"error", "Error -3", DATA_FILE},
    {"error", "Error -5", DATA_FILE},
    {"ValueError", "cannot reshape array of size", READER},
};

/* Messages about healthy files: of an array of objects, of a checkpoint that torch 2.6 and later will not
 * unpickle unasked, of a file of a kind that the reader does not know. */
static const char *const healthy[] = {"Object arrays cannot be", "Weights only load failed",
                                      "Cannot work out file type"};

/* The innermost frame is one of a library that reads files. */
static bool from_reader(const struct nng_evidence *ev)
{
    static const char *const reader[] = {"numpy/lib/",
                                         "npyio",
                                         "numpy/core/memmap",
                                         "numpy/_core/memmap",
                                         "/zipfile",
                                         "/gzip.py",
                                         "/lzma.py",
                                         "/bz2.py",
                                         "/_compression.py",
                                         "blosc2",
                                         "/pickle.py",
                                         "nibabel/",
                                         "SimpleITK/",
                                         "h5py",
                                         "zarr/",
                                         "numcodecs",
                                         "tifffile/",
                                         "imageio/",
                                         "PIL/",
                                         "lmdb",
                                         "serialization.py",
                                         "joblib/",
                                         "pydicom/",
                                         "nrrd/",
                                         "skimage/io"};

    for (size_t i = 0; i < sizeof reader / sizeof reader[0]; i++)
        if (strstr(ev->tb.origin, reader[i]))
            return true;
    return false;
}

static bool ends_with_one_of(const char *path, const char *const *ends, size_t n_ends)
{
    size_t n = strlen(path);

    for (size_t i = 0; i < n_ends; i++) {
        size_t len = strlen(ends[i]);
        if (n > len && strcmp(path + n - len, ends[i]) == 0)
            return true;
    }
    return false;
}

/* Nothing makes a checkpoint anew but the training itself. */
static bool checkpoint(const char *path)
{
    static const char *const ends[] = {".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".tar"};

    return ends_with_one_of(path, ends, sizeof ends / sizeof ends[0]);
}

static bool data_file(const char *path)
{
    static const char *const ends[] = {
        ".npz",  ".npy",  ".b2nd", ".nii.gz", ".nii", ".pkl", ".h5",  ".hdf5", ".mha",  ".nrrd",
        ".zarr", ".lmdb", ".mdb",  ".gz",     ".zip", ".dcm", ".png", ".tif",  ".tiff", ".pickle"};

    return ends_with_one_of(path, ends, sizeof ends / sizeof ends[0]) || checkpoint(path);
}

static const char *sign_of(const struct nng_evidence *ev)
{
    bool reader = from_reader(ev), data = ev->n_files > 0 && data_file(NNG_FIELD(ev->files[0]));

    for (size_t i = 0; i < sizeof healthy / sizeof healthy[0]; i++)
        if (strstr(ev->tb.message, healthy[i]))
            return NULL;
    for (size_t i = 0; i < sizeof sign / sizeof sign[0]; i++) {
        if (sign[i].type && strcmp(ev->tb.type, sign[i].type) != 0)
            continue;
        if (!reader && (sign[i].needs == READER || (sign[i].needs == DATA_FILE && !data)))
            continue;
        if (!sign[i].words[0] || strstr(ev->tb.message, sign[i].words))
            return sign[i].words[0] ? sign[i].words : sign[i].type;
    }
    return NULL;
}

/* Quotes and a slash do not make a file: "config entry 'optimizer/lr'". */
static bool opened(const struct nng_evidence *ev, const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? strlen(slash) : 0;

    for (int i = 0; n > 1 && i < ev->n_files && i < (int)NNG_FILES_N; i++) {
        const char *file = NNG_FIELD(ev->files[i]);
        if (strlen(file) >= n && strcmp(file + strlen(file) - n, slash) == 0)
            return true;
    }
    return false;
}

/* The file that the message names, else the newest data file that it opened. *named tells which. */
static const char *which(const struct nng_evidence *ev, bool *named)
{
    const char *path = nng_ev_path_in_words(ev);

    *named = path[0] && (path[0] == '/' || data_file(path) || opened(ev, path));
    if (*named)
        return path;
    for (int i = 0; i < ev->n_files && i < (int)NNG_FILES_N; i++)
        if (data_file(NNG_FIELD(ev->files[i])))
            return NNG_FIELD(ev->files[i]);
    return "";
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const char *what, *file;
    bool named = false;
    struct nng_fix *f;

    if (!nng_ev_left(ev) || !ev->tb.present || !(what = sign_of(ev)))
        return NNG_NO;
    /* usual for a cut .npy, but also an ordinary mistake */
    if (strstr(what, "cannot reshape") && !strstr(ev->tb.origin, "npyio") &&
        !strstr(ev->tb.origin, "numpy/lib/") && !strstr(ev->tb.origin, "/memmap"))
        return NNG_NO;
    file = which(ev, &named);
    if (file[0])
        nng_v_why(v, "a data file is damaged or incomplete: %s", "数据文件损坏或不完整:%s",
                  nng_path_short(file, 70));
    else
        nng_v_why(v, "a data file is damaged or incomplete", "有数据文件损坏或不完整");
    nng_v_short(v, "a data file is damaged or incomplete%s%s", "数据文件损坏或不完整%s%s",
                file[0] ? ": " : "", nng_path_short(file, 70));
    nng_v_proof(v, "reading it failed: %s%s%s", "读取失败:%s%s%s", ev->tb.type,
                ev->tb.message[0] ? ": " : "", nng_text_short(ev->tb.message, 90));
    if (file[0] && !named)
        nng_v_proof(v, "that file is the one it opened last; the message names none",
                    "该文件是它最后打开的;错误信息没有指明文件");
    nng_v_signal_facts(v, ev);
    nng_v_exception_facts(v, ev);
    nng_v_fact_str(v, "corrupt.file", file, named ? "exception message" : "open hooks");
    if (!file[0])
        f = nng_v_fix(v, false, "the traceback in report.txt shows which file was being read",
                      "report.txt 中的回溯信息说明了当时在读哪个文件");
    else if (checkpoint(file))
        f = nng_v_fix(v, false, "go on from another checkpoint, and keep this one until that works",
                      "改用另一个检查点继续;在确认可用之前保留这一个");
    else
        f = nng_v_fix(v, false, "remove it and make it anew: preprocess again; is the disk full?",
                      "删除并重新生成它:重新预处理;检查磁盘是否已满");
    if (file[0] == '/')
        nng_fix_command(f, "ls -l %s; df -h %s", nng_text_quoted(file, strlen(file)),
                        nng_text_quoted(file, strlen(file)));
    if (ev->machine.nnunet)
        nng_v_fix(v, false, "files unpacked half (.npy next to .npz): delete the .npy files",
                  "若是解压到一半的文件(.npz 旁的 .npy):删除这些 .npy");
    nng_v_doubt(v, "its words say so; a checksum of the file would show it",
                "这是它自己的说法;文件的校验和可以证明");
    return nng_ev_end_cap(ev, v, NULL, file[0] ? NNG_LIKELY : NNG_POSSIBLE);
}

NNG_CAUSE(corrupt_data, 30, match);
