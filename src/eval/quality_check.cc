#include "base/error.h"
#include "eval/checks.h"
#include "eval/sample.h"
#include "eval/sample_text.h"
#include "models/models.h"
#include "prompt/stop_ids.h"
#include "prompt/tokenizer.h"

namespace quern::eval {
namespace {

// A trained model stays below this perplexity on any text in a language that it knows.
constexpr double kUnknownText = 200;

void check_gates(const Comparison& c, const VerifyOptions& options, VerifyReport& report) {
  for (const auto& [who, scores] :
       {std::pair("the source", c.reference), {"the artifact", c.artifact}}) {
    if (scores.not_finite == 0) continue;
    found(report, "", "the logits of {} are not finite for {} of {} tokens", who, scores.not_finite,
          scores.tokens);
  }
  if (c.reference.perplexity > kUnknownText) {
    report.findings.push_back(
        {Severity::warning, "",
         fmt::format("the source hardly predicts this text (perplexity {:.0f}), so the divergence "
                     "means little; give a text of the kind that the model was trained on",
                     c.reference.perplexity)});
  }
  // In this form NaN fails.
  if (!(c.mean_kld < options.max_kld)) {
    found(report, "", "the mean KL divergence is {:.5f} nats per token, but must be below {}",
          c.mean_kld, options.max_kld);
  }
  if (!(c.top1_agreement > options.min_top1)) {
    found(report, "",
          "the most likely token equals the source's for {:.2f}% of the tokens, but must "
          "for more than {:.2f}%",
          100 * c.top1_agreement, 100 * options.min_top1);
  }
}

// A loop is the artifact's fault only if the source would not produce it too.
void check_sample(const Pair& pair, const prompt::Tokenizer& tokenizer, const std::string& question,
                  const VerifyOptions& options, VerifyReport& report) {
  const auto stops = prompt::stop_ids(pair.source->files.folder(), tokenizer);
  const auto prompt = tokenizer.encode(question);
  const auto answer = greedy(pair.artifact, prompt, options.sample_tokens, stops);
  report.sample = {.prompt = question,
                   .answer = tokenizer.decode(answer, prompt::Show::text),
                   .degenerate = is_degenerate(answer)};
  if (!report.sample->degenerate) return;
  Window said = {prompt, std::ssize(prompt)};
  said.tokens.insert(said.tokens.end(), answer.begin(), answer.end());
  const double agreement =
      compare(pair.source, pair.artifact, std::span(&said, 1), options.score).top1_agreement;
  if (agreement >= options.min_top1) {
    report.findings.push_back(
        {Severity::note, "", "the sample repeats itself, as the source would"});
  } else {
    found(report, "", "the sample repeats itself, but the source would produce only {:.0f}% of it",
          100 * agreement);
  }
}

}  // namespace

void check_quality(const Pair& pair, const VerifyOptions& options, VerifyReport& report) {
  const prompt::Tokenizer tokenizer(pair.source->files.folder());
  const SampleText sample = sample_text(pair.source->files.folder());
  const std::string& text = options.text.empty() ? sample.text : options.text;
  WindowOptions cut = options.windows;
  cut.bos = models::make_model(pair.source->files.config())->bos();
  const auto windows = text_windows(text, tokenizer, cut);
  try {
    report.quality = compare(pair.source, pair.artifact, windows, options.score);
    check_gates(*report.quality, options, report);
    if (options.sample_tokens > 0) check_sample(pair, tokenizer, sample.question, options, report);
  } catch (const Error& error) {
    if (error.code() == Exit::internal) throw;
    found(report, "", "the artifact does not run: {}", error.what());
  }
}

}  // namespace quern::eval
