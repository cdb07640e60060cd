/* json_verb.h: reads one line of the control protocol far enough to act on it without Python.
 *
 * Pure. The whole line must be one well-formed JSON object (RFC 8259) before anything in it counts:
 * a truncated or corrupted `hold` lowers nothing. Everything but the three members below is checked
 * for form and otherwise left to the Python side.
 */
#ifndef VLAD_JSON_VERB_H
#define VLAD_JSON_VERB_H

#include <stddef.h> /* size_t */

#define VLAD_PROTOCOL_VERSION 1
#define VLAD_LINE_MAX_DEPTH 16   /* objects and arrays within each other, the line's own included */
#define VLAD_LINE_MAX_MEMBERS 16 /* of the line's own object */
#define VLAD_LINE_MAX_ID 64      /* bytes of the id as written, quotes included */

enum vlad_line_error {
    VLAD_LINE_OK,
    VLAD_LINE_SYNTAX,     /* not JSON, or not an object */
    VLAD_LINE_UTF8,       /* a string that is not UTF-8 */
    VLAD_LINE_DEPTH,      /* nested too deeply */
    VLAD_LINE_MEMBERS,    /* too many members */
    VLAD_LINE_DUPLICATE,  /* one name twice */
    VLAD_LINE_VERSION,    /* "v" missing or not this protocol's */
    VLAD_LINE_ID,         /* "id" missing, too long, or neither integer nor string */
    VLAD_LINE_VERB,       /* "verb" missing or not a string */
    VLAD_N_LINE_ERRORS
};

enum vlad_verb {
    VLAD_VERB_OTHER,
    VLAD_VERB_HOLD, /* "hold" or "stop" */
    VLAD_VERB_LIMP
};

struct vlad_line {
    enum vlad_verb verb;
    const char *id;  /* as written, within the line; NULL where the line gave no usable one */
    size_t id_size;
    size_t error_at; /* offset of the first byte that cannot be, for SYNTAX, UTF8 and DEPTH */
};

/* `line` is without its newline. On any error read->verb is VLAD_VERB_OTHER. */
enum vlad_line_error vlad_json_verb(const char *line, size_t size, struct vlad_line *read);

/* What is wrong and what is expected, for an error reply: never NULL, no quotes or backslashes. */
const char *vlad_line_error_text(enum vlad_line_error error);

#endif
