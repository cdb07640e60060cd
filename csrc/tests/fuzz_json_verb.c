/* libFuzzer: the request scanner on any bytes. What it reports lies within the line, and no line
 * that was cut short counts, a stop least of all. */
#include "json_verb.h"

#include <stdint.h>
#include <stdlib.h> /* abort */
#include <string.h> /* memchr */

#define MUST(condition) \
    do {                \
        if (!(condition)) \
            abort();    \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum vlad_line_error scan(const char *line, size_t size, struct vlad_line *read)
{
    enum vlad_line_error error = vlad_json_verb(line, size, read);

    MUST(error < VLAD_N_LINE_ERRORS);
    MUST(*vlad_line_error_text(error));
    MUST(read->error_at <= size);
    MUST(!error || read->verb == VLAD_VERB_OTHER);
    if (!error)
        MUST(read->id != NULL);
    if (read->id) {
        MUST(read->id >= line && read->id + read->id_size <= line + size);
        MUST(read->id_size > 0 && read->id_size <= VLAD_LINE_MAX_ID);
        MUST(!memchr(read->id, '\n', read->id_size));
        MUST((read->id[0] == '"') == (read->id[read->id_size - 1] == '"'));
    }
    return error;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *line = (const char *)data;
    struct vlad_line read;

    if (scan(line, size, &read) != VLAD_LINE_OK)
        return 0;
    while (size && line[size - 1] != '}') /* trailing space may go */
        size--;
    for (size_t cut = 0; cut < size; cut += 1 + size / 64) {
        char *copy = malloc(cut ? cut : 1); /* so that a read past the end is seen */
        MUST(copy != NULL);
        memcpy(copy, line, cut);
        MUST(scan(copy, cut, &read) != VLAD_LINE_OK);
        free(copy);
    }
    return 0;
}
