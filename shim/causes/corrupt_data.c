/* SPDX-License-Identifier: MIT
 *
 * corrupt_data: a data file is damaged or incomplete, by the words of the exception that reading it
 * raised. Words alone: never certain.
 */
#include "crash.h"

#include <stdio.h>
#include <string.h>

/* Of an exception or abort message; `type`: only for exceptions of that type. */
static const struct {
    const char *type, *words;
} sign[] = {
    {NULL, "mmap length is greater than file size"},
    {NULL, "allow_pickle=False"},
    {NULL, "No data left in file"},
    {NULL, "Failed to interpret file"},
    {NULL, "EOF: reading array"},
    {NULL, "magic string is not correct"},
    {NULL, "Bad CRC-32"},
    {NULL, "CRC check failed"},
    {NULL, "File is not a zip file"},
    {NULL, "Bad magic number for"},
    {NULL, "while decompressing data"},
    {NULL, "incorrect header check"},
    {NULL, "incomplete or truncated stream"},
    {NULL, "Compressed file ended before the end-of-stream marker"},
    {NULL, "Compressed data ended before the end-of-stream marker"},
    {NULL, "Not a gzipped file"},
    {NULL, "truncated file"},
    {NULL, "file signature not found"},
    {NULL, "blosc2_schunk_open"},
    {NULL, "b2nd_open"},
    {NULL, "Error while decompressing"},
    {NULL, "Error while getting the slice"},
    {NULL, "Could not decompress"},
    {NULL, "pickle data was truncated"},
    {NULL, "invalid load key"},
    {NULL, "Ran out of input"},
    {NULL, "Unable to determine ImageIO reader"},
    {NULL, "Empty file"},
    {NULL, "could not be read"},
    {NULL, "MDB_CORRUPTED"},
    {NULL, "MDB_PAGE_NOTFOUND"},
    {"BadZipFile", ""},
    {"UnpicklingError", ""},
    {"BadGzipFile", ""},
    {"LZMAError", ""},
    {"ImageFileError", ""},
    {"error", "Error -3"},
    {"error", "Error -5"},
    {"ValueError", "cannot reshape array of size"},
};

static const char *sign_of(const struct nng_evidence *ev)
{
    for (size_t i = 0; i < sizeof sign / sizeof sign[0]; i++) {
        if (sign[i].type && strcmp(ev->tb.type, sign[i].type) != 0)
            continue;
        if (!sign[i].words[0] || strstr(ev->tb.message, sign[i].words))
            return sign[i].words[0] ? sign[i].words : sign[i].type;
    }
    return NULL;
}

/* cannot reshape: usual for a cut .npy, but also an ordinary mistake; then only from numpy's own reader. */
static bool from_reader(const struct nng_evidence *ev)
{
    return strstr(ev->tb.origin, "numpy/lib/") || strstr(ev->tb.origin, "npyio") ||
           strstr(ev->tb.origin, "numpy/core/memmap") ||
           strstr(ev->tb.origin, "numpy/_core/memmap");
}

static bool data_file(const char *path)
{
    static const char *const ends[] = {".npz", ".npy",  ".b2nd", ".nii.gz", ".nii",  ".pkl",
                                       ".h5",  ".hdf5", ".mha",  ".nrrd",   ".zarr", ".lmdb",
                                       ".mdb", ".gz",   ".zip",  ".json",   ".dcm",  ".png",
                                       ".tif", ".tiff", ".pt",   ".pth"};
    size_t n = strlen(path);

    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        size_t len = strlen(ends[i]);
        if (n > len && strcmp(path + n - len, ends[i]) == 0)
            return true;
    }
    return false;
}

/* The file that the message names, else the newest data file that it opened. *named tells which. */
static const char *which(const struct nng_evidence *ev, bool *named)
{
    const char *path = nng_ev_path_in_words(ev);

    *named = path[0] != '\0';
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
    if (strstr(what, "cannot reshape") && !from_reader(ev))
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
    return file[0] ? NNG_LIKELY : NNG_POSSIBLE;
}

NNG_CAUSE(corrupt_data, 30, match);
