// C ABI of the crate in rust/: tokenizers, chat templates, patterns, parquet rows. Every function
// that can fail returns a QtStatus and leaves its result, or the message of its error, in a QtBytes
// that the caller frees. No panic crosses this border, and every limit is a parameter.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum QtStatus {
  QT_OK = 0,
  QT_FAILED = 1,  // the input is at fault
  QT_RAISED = 2,  // a template called raise_exception; the message is its text, verbatim
  QT_LIMIT = 3,   // a limit given by the caller was reached
  QT_END = 4,     // no more rows
  QT_PANIC = 5,   // a defect of this crate
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

// tokenizer.json. `backtracks` bounds the steps back of one regular-expression match.
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
// QT_FAILED when there is no such token.
int32_t qt_tokenizer_token(const QtTokenizer* tokenizer, uint32_t id, QtBytes* out);
int32_t qt_tokenizer_id(const QtTokenizer* tokenizer, const char* text, size_t size, uint32_t* id);

typedef struct QtTemplateLimits {
  uint64_t steps;         // instructions of one rendering
  uint64_t output_bytes;  // of the result, and of every string on the way
  uint64_t work_bytes;    // sum over all strings that operators, filters and methods touch
  uint32_t parse_depth;   // nesting of brackets, tags and operators in the source
  uint32_t recursion;     // nested macro calls
} QtTemplateLimits;

// Local time for strftime_now; fields as in struct tm, the year in full.
typedef struct QtTime {
  int32_t year, month, day, hour, minute, second, weekday, yearday;
} QtTime;

int32_t qt_template_new(const char* source, size_t size, const QtTemplateLimits* limits,
                        QtTemplate** chat_template, QtBytes* message);
// `context`: a JSON object, the variables of the template.
int32_t qt_template_render(const QtTemplate* chat_template, const char* context, size_t size,
                           const QtTime* now, QtBytes* out);
void qt_template_free(QtTemplate* chat_template);

// A Python regular expression, matched as re.match does: anchored at the start only.
int32_t qt_pattern_new(const char* regex, size_t size, uint64_t backtracks, QtPattern** pattern,
                       QtBytes* message);
int32_t qt_pattern_match(const QtPattern* pattern, const char* text, size_t size, int32_t* matched,
                         QtBytes* message);
void qt_pattern_free(QtPattern* pattern);

// Rows of a parquet file, each as a JSON object. `row_bytes` bounds one row.
int32_t qt_rows_open(const char* path, size_t size, uint64_t row_bytes, QtRows** rows,
                     QtBytes* message);
// As many as the file says that it has.
uint64_t qt_rows_count(const QtRows* rows);
// Passes over `count` rows; QT_END when there are fewer.
int32_t qt_rows_skip(QtRows* rows, uint64_t count, QtBytes* message);
int32_t qt_rows_next(QtRows* rows, QtBytes* out);
void qt_rows_free(QtRows* rows);

#ifdef __cplusplus
}
#endif
