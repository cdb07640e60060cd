#include "json_verb.h"

#include <stdbool.h>
#include <stdint.h> /* code points */
#include <string.h> /* memcmp */

struct cursor {
    const char *at, *end;
    enum vlad_line_error error; /* of the value that failed */
};

struct span {
    const char *at;
    size_t size;
};

static bool fail(struct cursor *cursor, enum vlad_line_error error)
{
    cursor->error = error;
    return false;
}

static void skip_space(struct cursor *cursor)
{
    while (cursor->at < cursor->end && (*cursor->at == ' ' || *cursor->at == '\t' ||
                                        *cursor->at == '\r' || *cursor->at == '\n'))
        cursor->at++;
}

static bool take(struct cursor *cursor, char wanted)
{
    if (cursor->at == cursor->end || *cursor->at != wanted)
        return false;
    cursor->at++;
    return true;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Bytes of the UTF-8 sequence at `at`, 0 when it is not one (RFC 3629: no overlong forms, no
 * surrogates, nothing above U+10FFFF). */
static size_t utf8_size(const char *at, size_t left)
{
    unsigned char first = (unsigned char)at[0];
    unsigned char low = 0x80, high = 0xBF;
    size_t size;

    if (first < 0x80)
        return 1;
    if (first >= 0xC2 && first <= 0xDF)
        size = 2;
    else if (first >= 0xE0 && first <= 0xEF)
        size = 3;
    else if (first >= 0xF0 && first <= 0xF4)
        size = 4;
    else
        return 0;
    if (size > left)
        return 0;
    if (first == 0xE0)
        low = 0xA0;
    else if (first == 0xED)
        high = 0x9F;
    else if (first == 0xF0)
        low = 0x90;
    else if (first == 0xF4)
        high = 0x8F;
    for (size_t i = 1; i < size; i++) {
        unsigned char byte = (unsigned char)at[i];
        if (byte < low || byte > high)
            return 0;
        low = 0x80;
        high = 0xBF;
    }
    return size;
}

static bool escape(struct cursor *cursor)
{
    cursor->at++; /* the backslash */
    if (cursor->at == cursor->end)
        return fail(cursor, VLAD_LINE_SYNTAX);
    if (*cursor->at != 'u') {
        if (*cursor->at == '\0' || !strchr("\"\\/bfnrt", *cursor->at))
            return fail(cursor, VLAD_LINE_SYNTAX);
        cursor->at++;
        return true;
    }
    cursor->at++;
    for (int i = 0; i < 4; i++) {
        if (cursor->at == cursor->end || hex_digit(*cursor->at) < 0)
            return fail(cursor, VLAD_LINE_SYNTAX);
        cursor->at++;
    }
    return true;
}

/* *inside gets what is between the quotes, escapes and all. */
static bool string(struct cursor *cursor, struct span *inside)
{
    if (!take(cursor, '"'))
        return fail(cursor, VLAD_LINE_SYNTAX);
    inside->at = cursor->at;
    while (cursor->at < cursor->end) {
        size_t size;

        if (*cursor->at == '"') {
            inside->size = (size_t)(cursor->at - inside->at);
            cursor->at++;
            return true;
        }
        if (*cursor->at == '\\') {
            if (!escape(cursor))
                return false;
            continue;
        }
        if ((unsigned char)*cursor->at < 0x20)
            return fail(cursor, VLAD_LINE_SYNTAX);
        size = utf8_size(cursor->at, (size_t)(cursor->end - cursor->at));
        if (size == 0)
            return fail(cursor, VLAD_LINE_UTF8);
        cursor->at += size;
    }
    return fail(cursor, VLAD_LINE_SYNTAX);
}

static bool digits(struct cursor *cursor)
{
    const char *first = cursor->at;

    while (cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9')
        cursor->at++;
    return cursor->at > first || fail(cursor, VLAD_LINE_SYNTAX);
}

static bool number(struct cursor *cursor, bool *integer)
{
    *integer = true;
    take(cursor, '-');
    if (!take(cursor, '0') && !digits(cursor))
        return false;
    if (take(cursor, '.')) {
        *integer = false;
        if (!digits(cursor))
            return false;
    }
    if (take(cursor, 'e') || take(cursor, 'E')) {
        *integer = false;
        if (!take(cursor, '+'))
            take(cursor, '-');
        if (!digits(cursor))
            return false;
    }
    return true;
}

static bool word(struct cursor *cursor, const char *wanted)
{
    for (; *wanted; wanted++)
        if (!take(cursor, *wanted))
            return fail(cursor, VLAD_LINE_SYNTAX);
    return true;
}

static bool value(struct cursor *cursor, int depth);

/* An array, or an object whose names do not matter. */
static bool container(struct cursor *cursor, int depth)
{
    bool object = *cursor->at == '{';
    char close = object ? '}' : ']';
    struct span name;

    if (depth == VLAD_LINE_MAX_DEPTH)
        return fail(cursor, VLAD_LINE_DEPTH);
    cursor->at++;
    skip_space(cursor);
    if (take(cursor, close))
        return true;
    for (;;) {
        skip_space(cursor);
        if (object) {
            if (!string(cursor, &name))
                return false;
            skip_space(cursor);
            if (!take(cursor, ':'))
                return fail(cursor, VLAD_LINE_SYNTAX);
            skip_space(cursor);
        }
        if (!value(cursor, depth + 1))
            return false;
        skip_space(cursor);
        if (take(cursor, close))
            return true;
        if (!take(cursor, ','))
            return fail(cursor, VLAD_LINE_SYNTAX);
    }
}

static bool value(struct cursor *cursor, int depth)
{
    struct span inside;
    bool integer;

    if (cursor->at == cursor->end)
        return fail(cursor, VLAD_LINE_SYNTAX);
    switch (*cursor->at) {
    case '{':
    case '[':
        return container(cursor, depth);
    case '"':
        return string(cursor, &inside);
    case 't':
        return word(cursor, "true");
    case 'f':
        return word(cursor, "false");
    case 'n':
        return word(cursor, "null");
    default:
        return number(cursor, &integer);
    }
}

static uint32_t hex4(const char *at)
{
    uint32_t unit = 0;

    for (int i = 0; i < 4; i++)
        unit = unit << 4 | (uint32_t)hex_digit(at[i]);
    return unit;
}

/* Next code point of a string that `string` has accepted: two spellings of a name are one name. */
static uint32_t next_code_point(struct span *text)
{
    const char *at = text->at;
    size_t size;
    uint32_t point;

    if (at[0] == '\\' && at[1] == 'u') {
        size = 6;
        point = hex4(at + 2);
        if (point >= 0xD800 && point < 0xDC00 && text->size >= 12 && at[6] == '\\' &&
            at[7] == 'u') {
            uint32_t low = hex4(at + 8);
            if (low >= 0xDC00 && low < 0xE000) {
                size = 12;
                point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
            }
        }
    } else if (at[0] == '\\') {
        static const char written[] = "bfnrt", meant[] = "\b\f\n\r\t";
        const char *control = strchr(written, at[1]);
        size = 2;
        point = (uint32_t)(unsigned char)(control ? meant[control - written] : at[1]);
    } else {
        static const unsigned char lead_bits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
        size = utf8_size(at, text->size);
        point = (unsigned char)at[0] & lead_bits[size];
        for (size_t i = 1; i < size; i++)
            point = point << 6 | ((unsigned char)at[i] & 0x3F);
    }
    text->at += size;
    text->size -= size;
    return point;
}

static bool same_text(struct span a, struct span b)
{
    while (a.size && b.size)
        if (next_code_point(&a) != next_code_point(&b))
            return false;
    return !a.size && !b.size;
}

static bool text_is(struct span text, const char *literal)
{
    return same_text(text, (struct span){literal, strlen(literal)});
}

struct members {
    struct span name[VLAD_LINE_MAX_MEMBERS];
    struct span written[VLAD_LINE_MAX_MEMBERS]; /* the value */
    size_t count;
};

/* The line's own object, up to its closing brace. */
static bool object_members(struct cursor *cursor, struct members *members)
{
    if (!take(cursor, '{'))
        return fail(cursor, VLAD_LINE_SYNTAX);
    skip_space(cursor);
    if (take(cursor, '}'))
        return true;
    for (;;) {
        struct span name;
        const char *first;

        skip_space(cursor);
        if (!string(cursor, &name))
            return false;
        skip_space(cursor);
        if (!take(cursor, ':'))
            return fail(cursor, VLAD_LINE_SYNTAX);
        skip_space(cursor);
        first = cursor->at;
        if (!value(cursor, 1))
            return false;
        if (members->count == VLAD_LINE_MAX_MEMBERS)
            return fail(cursor, VLAD_LINE_MEMBERS);
        for (size_t i = 0; i < members->count; i++)
            if (same_text(members->name[i], name))
                return fail(cursor, VLAD_LINE_DUPLICATE);
        members->name[members->count] = name;
        members->written[members->count++] = (struct span){first, (size_t)(cursor->at - first)};
        skip_space(cursor);
        if (take(cursor, '}'))
            return true;
        if (!take(cursor, ','))
            return fail(cursor, VLAD_LINE_SYNTAX);
    }
}

static struct span member(const struct members *members, const char *name)
{
    for (size_t i = 0; i < members->count; i++)
        if (text_is(members->name[i], name))
            return members->written[i];
    return (struct span){"", 0};
}

static bool id_usable(struct span id)
{
    struct cursor cursor = {.at = id.at, .end = id.at + id.size};
    bool integer;

    if (id.size == 0 || id.size > VLAD_LINE_MAX_ID)
        return false;
    return id.at[0] == '"' || (number(&cursor, &integer) && integer);
}

enum vlad_line_error vlad_json_verb(const char *line, size_t size, struct vlad_line *read)
{
    struct cursor cursor = {.at = line, .end = line + size};
    struct members members = {.count = 0};
    struct span version, id, verb;
    bool whole;

    *read = (struct vlad_line){.verb = VLAD_VERB_OTHER};
    skip_space(&cursor);
    whole = object_members(&cursor, &members);
    if (whole) {
        skip_space(&cursor);
        whole = cursor.at == cursor.end || fail(&cursor, VLAD_LINE_SYNTAX);
    }
    if (!whole) {
        read->error_at = (size_t)(cursor.at - line);
        return cursor.error;
    }
    id = member(&members, "id");
    if (!id_usable(id))
        return VLAD_LINE_ID;
    read->id = id.at;
    read->id_size = id.size;
    version = member(&members, "v");
    if (version.size != 1 || version.at[0] != '0' + VLAD_PROTOCOL_VERSION)
        return VLAD_LINE_VERSION;
    verb = member(&members, "verb");
    if (verb.size == 0 || verb.at[0] != '"')
        return VLAD_LINE_VERB;
    verb = (struct span){verb.at + 1, verb.size - 2};
    if (text_is(verb, "hold") || text_is(verb, "stop"))
        read->verb = VLAD_VERB_HOLD;
    else if (text_is(verb, "limp"))
        read->verb = VLAD_VERB_LIMP;
    return VLAD_LINE_OK;
}

const char *vlad_line_error_text(enum vlad_line_error error)
{
    static const char *const text[VLAD_N_LINE_ERRORS] = {
        [VLAD_LINE_OK] = "no error",
        [VLAD_LINE_SYNTAX] = "the line is not one JSON object",
        [VLAD_LINE_UTF8] = "a string is not UTF-8",
        [VLAD_LINE_DEPTH] = "nested deeper than 16 levels",
        [VLAD_LINE_MEMBERS] = "more than 16 members",
        [VLAD_LINE_DUPLICATE] = "a member is given twice",
        [VLAD_LINE_VERSION] = "member v must be 1: this daemon speaks protocol version 1",
        [VLAD_LINE_ID] = "member id must be an integer or a string of at most 64 bytes",
        [VLAD_LINE_VERB] = "member verb must be a string",
    };

    return text[error];
}
