/* What the line scanner takes and what it refuses; tests/property/test_protocol.py compares it with
 * Python's json on generated lines. */
#include "check.h"
#include "json_verb.h"

#include <string.h> /* memset */

static struct vlad_line read_line; /* of the newest call */

static enum vlad_line_error scan(const char *line)
{
    /* An exact copy on the heap, so that ASan sees a read past the end. */
    size_t size = strlen(line);
    char *copy = malloc(size ? size : 1);
    enum vlad_line_error error;

    memcpy(copy, line, size);
    error = vlad_json_verb(copy, size, &read_line);
    free(copy);
    if (error)
        CHECK_EQ(read_line.verb, VLAD_VERB_OTHER);
    return error;
}

static enum vlad_line_error scan_args(const char *args)
{
    char line[4096];

    snprintf(line, sizeof line, "{\"v\":1,\"id\":1,\"verb\":\"load\",\"args\":%s}", args);
    return scan(line);
}

static void verbs(void)
{
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"hold\"}"), VLAD_LINE_OK);
    CHECK_EQ(read_line.verb, VLAD_VERB_HOLD);
    CHECK_EQ(scan(" { \"verb\" : \"stop\" , \"id\" : \"x\" , \"v\" : 1 , \"args\" : {} } \r"),
             VLAD_LINE_OK);
    CHECK_EQ(read_line.verb, VLAD_VERB_HOLD);
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"limp\",\"args\":[1,{\"verb\":\"hold\"}]}"),
             VLAD_LINE_OK);
    CHECK_EQ(read_line.verb, VLAD_VERB_LIMP);
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"\\u0076erb\":\"\\u0068\\u006Fld\"}"), VLAD_LINE_OK);
    CHECK_EQ(read_line.verb, VLAD_VERB_HOLD);
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"holds\"}"), VLAD_LINE_OK);
    CHECK_EQ(read_line.verb, VLAD_VERB_OTHER);
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"hol\"}"), VLAD_LINE_OK);
    CHECK_EQ(read_line.verb, VLAD_VERB_OTHER);
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"\"}"), VLAD_LINE_OK);
    CHECK_EQ(read_line.verb, VLAD_VERB_OTHER);
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"status\",\"args\":{\"verb\":\"hold\"}}"),
             VLAD_LINE_OK);
    CHECK_EQ(read_line.verb, VLAD_VERB_OTHER);
}

static void ids(void)
{
    static const char line[] = "{\"id\":\"a\\n\\\"b\",\"v\":1,\"verb\":\"status\"}";
    char wide[128];
    struct vlad_line read;

    CHECK_EQ(vlad_json_verb(line, sizeof line - 1, &read), VLAD_LINE_OK);
    CHECK_EQ(read.id_size, 8);
    CHECK(memcmp(read.id, "\"a\\n\\\"b\"", 8) == 0);
    CHECK_EQ(scan("{\"v\":1,\"id\":-0,\"verb\":\"x\"}"), VLAD_LINE_OK);
    CHECK_EQ(scan("{\"v\":1,\"id\":1.0,\"verb\":\"x\"}"), VLAD_LINE_ID);
    CHECK_EQ(scan("{\"v\":1,\"id\":1e3,\"verb\":\"x\"}"), VLAD_LINE_ID);
    CHECK_EQ(scan("{\"v\":1,\"id\":null,\"verb\":\"x\"}"), VLAD_LINE_ID);
    CHECK_EQ(scan("{\"v\":1,\"id\":true,\"verb\":\"x\"}"), VLAD_LINE_ID);
    CHECK_EQ(scan("{\"v\":1,\"id\":[1],\"verb\":\"x\"}"), VLAD_LINE_ID);
    CHECK_EQ(scan("{\"v\":1,\"verb\":\"hold\"}"), VLAD_LINE_ID);
    memset(wide, '7', sizeof wide);
    for (size_t digits = 64; digits <= 65; digits++) {
        char text[256];
        snprintf(text, sizeof text, "{\"v\":1,\"verb\":\"x\",\"id\":%.*s}", (int)digits, wide);
        CHECK_EQ(scan(text), digits == 64 ? VLAD_LINE_OK : VLAD_LINE_ID);
    }
}

static void envelope(void)
{
    CHECK_EQ(scan("{\"id\":7,\"verb\":\"hold\"}"), VLAD_LINE_VERSION);
    CHECK(read_line.id != NULL);
    CHECK_EQ(scan("{\"v\":2,\"id\":7,\"verb\":\"hold\"}"), VLAD_LINE_VERSION);
    CHECK_EQ(scan("{\"v\":\"1\",\"id\":7,\"verb\":\"hold\"}"), VLAD_LINE_VERSION);
    CHECK_EQ(scan("{\"v\":11,\"id\":7,\"verb\":\"hold\"}"), VLAD_LINE_VERSION);
    CHECK_EQ(scan("{\"v\":1.0,\"id\":7,\"verb\":\"hold\"}"), VLAD_LINE_VERSION);
    CHECK_EQ(scan("{\"v\":1,\"id\":7}"), VLAD_LINE_VERB);
    CHECK_EQ(scan("{\"v\":1,\"id\":7,\"verb\":1}"), VLAD_LINE_VERB);
    CHECK_EQ(scan("{}"), VLAD_LINE_ID);
}

static void duplicates(void)
{
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"status\",\"verb\":\"hold\"}"), VLAD_LINE_DUPLICATE);
    CHECK(read_line.id == NULL);
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"hold\",\"\\u0076erb\":\"status\"}"),
             VLAD_LINE_DUPLICATE);
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"x\",\"\xF0\x9F\x98\x80\":1,\"\\ud83d\\uDE00\":2}"),
             VLAD_LINE_DUPLICATE);
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"x\",\"\\n\":1,\"\\u000a\":2}"),
             VLAD_LINE_DUPLICATE);
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"x\",\"/\":1,\"\\/\":2}"), VLAD_LINE_DUPLICATE);
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"x\",\"\\ud83d\":1,\"\\ud83d\\u0041\":2}"),
             VLAD_LINE_OK);
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"x\",\"\xC3\xA9\":1,\"\\u00e9\":2}"),
             VLAD_LINE_DUPLICATE);
    CHECK_EQ(scan("{\"v\":1,\"id\":1,\"verb\":\"x\",\"\xE2\x82\xAC\":1,\"\\u20ac\":2}"),
             VLAD_LINE_DUPLICATE);
    CHECK_EQ(scan_args("{\"a\":1,\"a\":2}"), VLAD_LINE_OK); /* judged by the verb's own schema */
}

static void members(void)
{
    char line[512] = "{\"v\":1,\"id\":1,\"verb\":\"hold\"";

    for (int i = 3; i <= 16; i++) {
        char one[16];
        CHECK(i == 3 || scan(line) == VLAD_LINE_SYNTAX);
        snprintf(one, sizeof one, i < 16 ? ",\"k%d\":0" : ",\"k%d\":0}", i);
        strcat(line, one);
    }
    CHECK_EQ(scan(line), VLAD_LINE_MEMBERS);
}

static void values(void)
{
    static const char *const good[] = {
        "0", "-0", "10", "-1.5e+10", "1E-2", "0.0", "true", "false", "null", "\"\"", "[]", "{}",
        "[ 1 , 2 ]", "{ \"a\" : [ ] }", "\"\\u0000\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\x7F\"",
        "\"\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEF\xBF\xBF\xF0\x90\x80\x80\xF4\x8F\xBF\xBF\"",
        "\"\\ud800\"",
    };
    static const char *const bad[] = {
        "", "01", "+1", "1.", ".5", "1e", "1e+", "-", "--1", "0x1", "NaN", "Infinity", "-Infinity",
        "tru", "True", "nul", "nulll", "'a'", "\"", "\"a", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"",
        "\"\\", "\"\t\"", "\"\x1F\"", "[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "{", "{\"a\"",
        "{\"a\":", "{\"a\":1", "{\"a\":1,}", "{\"a\" 1}", "{a:1}", "{1:1}", "]", "[}", "{]", "1 1",
        "/**/1", "\xEF\xBB\xBF" "1",
    };
    static const char *const not_utf8[] = {
        "\"\x80\"", "\"\xC0\x80\"", "\"\xC1\xBF\"", "\"\xC3\"", "\"\xE0\x9F\x80\"",
        "\"\xED\xA0\x80\"", "\"\xE2\x82\"", "\"\xF0\x8F\x80\x80\"", "\"\xF4\x90\x80\x80\"",
        "\"\xF5\x80\x80\x80\"", "\"\xFF\"",
    };

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        CHECK_EQ(scan_args(good[i]), VLAD_LINE_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_EQ(scan_args(bad[i]), VLAD_LINE_SYNTAX);
    for (size_t i = 0; i < sizeof not_utf8 / sizeof not_utf8[0]; i++)
        CHECK_EQ(scan_args(not_utf8[i]), VLAD_LINE_UTF8);
}

static void whole_lines(void)
{
    static const char good[] =
        "{\"v\":1,\"id\":1,\"verb\":\"hold\",\"args\":{\"a\":[1,\"\\u00e9\",null]}}";
    static const char with_nul[] = "{\"v\":1,\"id\":1,\"verb\":\"hold\"}";
    static const char *const bad[] = {
        "", " ", "1", "\"hold\"", "[]", "hold", "{\"v\":1,\"id\":1,\"verb\":\"hold\"}}",
        "{\"v\":1,\"id\":1,\"verb\":\"hold\"}{}", "{\"v\":1,\"id\":1,\"verb\":\"hold\"} x",
        "{\"v\":1,\"id\":1,\"verb\":\"hold\",}", "{,\"v\":1}", "{\"v\"}", "{\"v\":1 \"id\":1}",
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_EQ(scan(bad[i]), VLAD_LINE_SYNTAX);
    /* Cut anywhere, and a hold is no hold. */
    for (size_t size = 0; size < sizeof good - 1; size++) {
        char cut[sizeof good];
        memcpy(cut, good, size);
        cut[size] = '\0';
        CHECK_EQ(scan(cut), VLAD_LINE_SYNTAX);
        CHECK_EQ(read_line.error_at, size);
    }
    CHECK_EQ(scan(good), VLAD_LINE_OK);
    CHECK_EQ(vlad_json_verb(with_nul, sizeof with_nul, &read_line), VLAD_LINE_SYNTAX);
}

static void depth(void)
{
    char line[300000];

    for (int inner = 14; inner <= 15; inner++) {
        size_t at = (size_t)sprintf(line, "{\"v\":1,\"id\":1,\"verb\":\"x\",\"args\":");
        for (int i = 0; i <= inner; i++)
            line[at++] = '[';
        for (int i = 0; i <= inner; i++)
            line[at++] = ']';
        strcpy(line + at, "}");
        CHECK_EQ(scan(line), inner == 14 ? VLAD_LINE_OK : VLAD_LINE_DEPTH);
    }
    memset(line, '[', sizeof line - 1);
    line[sizeof line - 1] = '\0';
    memcpy(line, "{\"a\":", 5);
    CHECK_EQ(scan(line), VLAD_LINE_DEPTH);
}

static void texts(void)
{
    for (int error = 0; error < VLAD_N_LINE_ERRORS; error++) {
        const char *text = vlad_line_error_text((enum vlad_line_error)error);
        CHECK(text && *text && !strpbrk(text, "\"\\\n"));
    }
}

int main(void)
{
    verbs();
    ids();
    envelope();
    duplicates();
    members();
    values();
    whole_lines();
    depth();
    texts();
    CHECK_DONE();
}
