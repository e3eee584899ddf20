// C ABI of the crate in rust/: tokenizers, chat templates, patterns, parquet rows. Every function
// that can fail returns a QtStatus and stores its result or error message in a QtBytes that the
// caller frees. No panic crosses this interface, and every limit is a parameter.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum QtStatus {
  QT_OK = 0,
  QT_FAILED = 1,  // the input is invalid
  QT_RAISED = 2,  // a template called raise_exception; the message is verbatim
  QT_LIMIT = 3,   // the input reached a limit of the caller
  QT_END = 4,     // no more rows
  QT_PANIC = 5,   // a bug in this crate
} QtStatus;

typedef struct QtBytes {
  uint8_t* data;
  size_t size;
} QtBytes;

typedef struct QtTokenizer QtTokenizer;
typedef struct QtTemplate QtTemplate;
typedef struct QtPattern QtPattern;
typedef struct QtRows QtRows;

void qt_free(QtBytes bytes);

// Reads a tokenizer.json. `backtracks` limits the backtracking steps of one regular-expression
// match.
int32_t qt_tokenizer_new(const char* json, size_t size, uint64_t backtracks,
                         QtTokenizer** tokenizer, QtBytes* message);
void qt_tokenizer_free(QtTokenizer* tokenizer);
// `out`: the ids, as native uint32_t.
int32_t qt_tokenizer_encode(const QtTokenizer* tokenizer, const char* text, size_t size,
                            int32_t add_special, QtBytes* out);
// Ids outside the vocabulary are skipped.
int32_t qt_tokenizer_decode(const QtTokenizer* tokenizer, const uint32_t* ids, size_t count,
                            int32_t skip_special, QtBytes* out);
// One more than the largest id, added tokens included.
uint32_t qt_tokenizer_ids(const QtTokenizer* tokenizer);
// QT_FAILED if there is no such token.
int32_t qt_tokenizer_token(const QtTokenizer* tokenizer, uint32_t id, QtBytes* out);
int32_t qt_tokenizer_id(const QtTokenizer* tokenizer, const char* text, size_t size, uint32_t* id);

typedef struct QtTemplateLimits {
  uint64_t steps;         // instructions of one rendering
  uint64_t output_bytes;  // of the result, and of every intermediate string
  uint64_t work_bytes;    // sum of all strings that operators, filters and methods read or write
  uint32_t parse_depth;   // nesting of brackets, tags and operators in the source
  uint32_t recursion;     // nested macro calls
} QtTemplateLimits;

// Local time for strftime_now; fields as in struct tm, but with the full year.
typedef struct QtTime {
  int32_t year, month, day, hour, minute, second, weekday, yearday;
} QtTime;

int32_t qt_template_new(const char* source, size_t size, const QtTemplateLimits* limits,
                        QtTemplate** chat_template, QtBytes* message);
// `context`: a JSON object, the variables of the template.
int32_t qt_template_render(const QtTemplate* chat_template, const char* context, size_t size,
                           const QtTime* now, QtBytes* out);
void qt_template_free(QtTemplate* chat_template);

// A Python regular expression with the meaning of re.match: anchored at the start only.
int32_t qt_pattern_new(const char* regex, size_t size, uint64_t backtracks, QtPattern** pattern,
                       QtBytes* message);
int32_t qt_pattern_match(const QtPattern* pattern, const char* text, size_t size, int32_t* matched,
                         QtBytes* message);
void qt_pattern_free(QtPattern* pattern);

// Rows of a parquet file, each as a JSON object. `row_bytes` limits one row.
int32_t qt_rows_open(const char* path, size_t size, uint64_t row_bytes, QtRows** rows,
                     QtBytes* message);
// The number of rows according to the file.
uint64_t qt_rows_count(const QtRows* rows);
// Skips `count` rows; QT_END if there are fewer.
int32_t qt_rows_skip(QtRows* rows, uint64_t count, QtBytes* message);
int32_t qt_rows_next(QtRows* rows, QtBytes* out);
void qt_rows_free(QtRows* rows);

#ifdef __cplusplus
}
#endif
