#include "serve/arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "base/nearest.h"
#include "base/yaml.h"
#include "serve/flags.h"

namespace quern::serve {
namespace {

const Flag* find(std::span<const Flag> flags, std::string_view name) {
  for (const Flag& flag : flags)
    if (flag.name == name) return &flag;
  return nullptr;
}

const Flag* find(std::string_view name) {
  for (const auto flags : {used_flags(), ignored_flags(), refused_flags()})
    if (const Flag* flag = find(flags, name)) return flag;
  return nullptr;
}

std::vector<std::string> known_names() {
  std::vector<std::string> names = {"--config", "--help"};
  for (const auto flags : {used_flags(), ignored_flags(), refused_flags()})
    for (const Flag& flag : flags) names.push_back("--" + std::string(flag.name));
  return names;
}

// '_' and '-' are the same in names; in the keys behind the first '.' they are not.
std::string dashed(std::string_view name) {
  std::string result(name);
  const size_t end = std::min(result.find('.'), result.size());
  std::replace(result.begin(), result.begin() + static_cast<ptrdiff_t>(end), '_', '-');
  return result;
}

std::optional<bool> parse_truth(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), ::tolower);
  for (const char* yes : {"true", "yes", "on"})
    if (text == yes) return true;
  for (const char* no : {"false", "no", "off"})
    if (text == no) return false;
  return std::nullopt;
}

template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

// What a value of a dotted option or of a JSON object may look like on a command line.
JsonValue loose_value(const std::string& text) {
  try {
    return parse_json(text, "value", {.bytes = 1 << 20, .depth = 32});
  } catch (const Error&) {
  }
  if (const auto size = parse_size(text)) return *size;
  return text;
}

class Reader {
 public:
  explicit Reader(const Environment& environment) : environment_(environment) {}

  Arguments read(const std::vector<std::string>& words) {
    read_environment();
    read_file_of(words);
    place_ = {};
    from_command_line_.clear();
    for (next_ = 0; next_ < words.size();) read_word(words);
    return std::move(arguments_);
  }

 private:
  [[noreturn]] void refuse(const std::string& name, const std::string& why) const {
    fail(Exit::usage, "{}--{}: {}", place_, name, why);
  }

  void read_environment() {
    for (const char* prefix : {"VLLM_", "QUERN_"}) {
      auto value = environment_(prefix + std::string("API_KEY"));
      if (value) arguments_.given["api-key"] = JsonValue::array({*value});
    }
  }

  void read_file_of(const std::vector<std::string>& words) {
    std::optional<std::string> file;
    for (size_t i = 0; i < words.size(); ++i) {
      if (words[i] != "--config" && !words[i].starts_with("--config=")) continue;
      if (file) fail(Exit::usage, "--config may be given once");
      const bool apart = words[i] == "--config";
      if (apart && i + 1 == words.size()) fail(Exit::usage, "--config needs a file");
      file = apart ? words[i + 1] : words[i].substr(words[i].find('=') + 1);
    }
    if (file) read_file(*file);
  }

  void read_file(const std::string& file) {
    if (!file.ends_with(".yaml") && !file.ends_with(".yml"))
      fail(Exit::usage, "--config {}: the file must be called .yaml or .yml", file);
    const std::string text = quern::read_file(file, 1 << 20);
    const JsonValue document = parsed_file(text, file);
    if (document.is_null()) return;
    if (!document.is_object()) fail(Exit::usage, "{}: must hold `name: value` lines", file);
    for (const auto& [key, value] : document.items()) {
      place_ = fmt::format("{}:{}: ", file, line_of(text, key));
      read_entry(key, value);
    }
  }

  static JsonValue parsed_file(const std::string& text, const std::string& file) {
    try {
      return parse_yaml(text, file);
    } catch (const Error& error) {
      fail(Exit::usage, "{}", error.what());
    }
  }

  static size_t line_of(const std::string& text, const std::string& key) {
    size_t line = 1;
    for (size_t begin = 0; begin < text.size(); ++line) {
      if (text.compare(begin, key.size(), key) == 0) return line;
      begin = std::min(text.find('\n', begin), text.size()) + 1;
    }
    return 1;
  }

  void read_entry(const std::string& key, const JsonValue& value) {
    const std::string name = dashed(key);
    const Flag* negated = negated_flag(name);
    const Flag& flag = negated ? *negated : flag_named(name);
    if (value.is_null()) return;
    if (flag.kind == Kind::flag) {
      const auto truth =
          value.is_boolean()
              ? value.get<bool>()
              : parse_truth(value.is_string() ? value.get<std::string>() : value.dump());
      if (!truth) refuse(name, "must be true or false");
      return set(flag, *truth != (negated != nullptr));
    }
    if (value.is_boolean()) refuse(name, fmt::format("needs a value, not {}", value.dump()));
    // vLLM's older files have JSON text in quotes.
    if (flag.kind == Kind::json && value.is_string())
      return set(flag, convert(flag, value.get<std::string>()));
    if (flag.kind == Kind::json) return set(flag, check_object(flag, value));
    if (value.is_object()) refuse(name, "takes no mapping");
    if (flag.kind == Kind::list) {
      JsonValue list = JsonValue::array();
      for (const JsonValue& entry : value.is_array() ? value : JsonValue::array({value}))
        list.push_back(entry.is_string() ? entry.get<std::string>() : entry.dump());
      if (!list.empty()) set(flag, list);
      return;
    }
    if (value.is_array()) refuse(name, "takes one value");
    set(flag, convert(flag, value.is_string() ? value.get<std::string>() : value.dump()));
  }

  // The flag X of the name no-X; null if it is no such name.
  static const Flag* negated_flag(std::string_view name) {
    if (!name.starts_with("no-") || find(name)) return nullptr;
    const Flag* flag = find(name.substr(3));
    return flag && flag->kind == Kind::flag ? flag : nullptr;
  }

  const Flag& flag_named(const std::string& name) const {
    if (const Flag* flag = find(name)) return *flag;
    fail(Exit::usage, "{}there is no option --{}{}", place_, name,
         did_you_mean("--" + name, known_names()));
  }

  JsonValue check_object(const Flag& flag, const JsonValue& value) const {
    if (value.is_object() || value.is_array()) return value;
    refuse(std::string(flag.name), "must be a JSON object");
  }

  JsonValue convert(const Flag& flag, const std::string& text) const {
    const std::string name(flag.name);
    switch (flag.kind) {
      case Kind::flag:
        if (const auto truth = parse_truth(text)) return *truth;
        refuse(name, "must be true or false, not \"" + text + "\"");
      case Kind::text:
        check_choice(flag, text);
        return text;
      case Kind::list:
        return JsonValue::array({text});
      case Kind::integer:
        check_choice(flag, text);
        if (const auto value = parse_number<int64_t>(text)) return *value;
        refuse(name, "must be a whole number, not \"" + text + "\"");
      case Kind::size:
        if (text == "auto") return -1;
        if (const auto value = parse_size(text)) return *value;
        refuse(name,
               "must be a number such as 4096, 25.6k (25600) or 32K (32768), not \"" + text + "\"");
      case Kind::number:
        if (const auto value = parse_number<double>(text); value && std::isfinite(*value))
          return *value;
        refuse(name, "must be a number, not \"" + text + "\"");
      case Kind::json:
        return check_object(flag, parsed(name, text));
    }
    return nullptr;
  }

  JsonValue parsed(const std::string& name, const std::string& text) const {
    try {
      return parse_json(text, "--" + name, {.bytes = 1 << 20});
    } catch (const Error& error) {
      fail(Exit::usage, "{}{}", place_, error.what());
    }
  }

  void check_choice(const Flag& flag, const std::string& text) const {
    std::vector<std::string> choices;
    for (std::string_view rest = flag.choices; !rest.empty();) {
      choices.emplace_back(rest.substr(0, rest.find('|')));
      rest.remove_prefix(std::min(rest.size(), choices.back().size() + 1));
    }
    if (choices.empty() || std::find(choices.begin(), choices.end(), text) != choices.end()) return;
    refuse(std::string(flag.name),
           fmt::format("must be one of {}, not \"{}\"", fmt::join(choices, ", "), text));
  }

  // A list on the command line replaces that of the file; of a repeated option it grows.
  void set(const Flag& flag, JsonValue value) {
    const std::string name(flag.name);
    if (find(refused_flags(), name))
      refuse(name, std::string("this server does not have it: ") + std::string(flag.help));
    if (find(ignored_flags(), name)) {
      const std::string note = fmt::format("--{} means nothing here: {}", name, flag.help);
      if (std::find(arguments_.notes.begin(), arguments_.notes.end(), note) ==
          arguments_.notes.end())
        arguments_.notes.push_back(note);
    }
    const bool again = std::find(from_command_line_.begin(), from_command_line_.end(), name) !=
                       from_command_line_.end();
    from_command_line_.push_back(name);
    JsonValue& held = arguments_.given[name];
    if (flag.kind == Kind::list && again)
      held.insert(held.end(), value.begin(), value.end());
    else
      held = std::move(value);
  }

  // One option with its values, or the model.
  void read_word(const std::vector<std::string>& words) {
    const std::string word = words[next_++];
    if (word == "-h") {
      arguments_.help = "";
    } else if (word.starts_with("--")) {
      read_option(word.substr(2), words);
    } else if (word.starts_with("-") && word.size() > 1) {
      read_short(word, words);
    } else if (std::exchange(has_model_, true)) {
      fail(Exit::usage, "\"{}\": there is a model already, {}", word,
           arguments_.given["model"].dump());
    } else {
      arguments_.given["model"] = word;
    }
  }

  void read_short(const std::string& word, const std::vector<std::string>& words) {
    const Alias* best = nullptr;  // the longest: -tp and not -t
    for (const Alias& alias : aliases())
      if (word.starts_with(alias.given) && (!best || alias.given.size() > best->given.size()))
        best = &alias;
    if (!best) fail(Exit::usage, "there is no option {}; `quern serve --help` lists all", word);
    std::string rest = word.substr(best->given.size());
    if (rest.starts_with('=')) rest.erase(0, 1);
    read_option(std::string(best->meant) + (rest.empty() ? "" : "=" + rest), words);
  }

  void read_option(const std::string& option, const std::vector<std::string>& words) {
    const size_t equals = option.find('=');
    const std::string name = dashed(option.substr(0, equals));
    std::optional<std::string> value;
    if (equals != std::string::npos) value = option.substr(equals + 1);
    if (name == "help") {
      arguments_.help = value.value_or("");
      return;
    }
    if (name == "config") {
      if (!value) ++next_;
      return;
    }
    if (name.find('.') != std::string::npos) return read_dotted(name, value, words);
    if (const Flag* flag = negated_flag(name); flag && !value) return set(*flag, false);
    const Flag& flag = flag_named(name);
    if (name == "model")
      arguments_.notes.push_back("--model is the older spelling: the model goes without it");
    if (flag.kind == Kind::flag && !value) return set(flag, true);
    if (flag.kind == Kind::list && !value) return read_list(flag, words);
    set(flag, convert(flag, value ? *value : next_value(name, words)));
  }

  std::string next_value(const std::string& name, const std::vector<std::string>& words) {
    if (next_ == words.size() || words[next_].starts_with("--")) refuse(name, "needs a value");
    return words[next_++];
  }

  void read_list(const Flag& flag, const std::vector<std::string>& words) {
    JsonValue list = JsonValue::array({next_value(std::string(flag.name), words)});
    while (next_ < words.size() && !words[next_].starts_with("-")) list.push_back(words[next_++]);
    set(flag, list);
  }

  // --name.key.key VALUE, --name.list+ VALUE
  void read_dotted(const std::string& name, const std::optional<std::string>& given,
                   const std::vector<std::string>& words) {
    const size_t dot = name.find('.');
    const Flag& flag = flag_named(name.substr(0, dot));
    if (flag.kind != Kind::json) refuse(std::string(flag.name), "has no keys");
    std::string path = name.substr(dot + 1);
    const bool append = path.ends_with('+');
    if (append) path.pop_back();
    const JsonValue value = loose_value(given ? *given : next_value(name, words));
    JsonValue object = JsonValue::object();
    if (arguments_.given.contains(flag.name)) object = arguments_.given[std::string(flag.name)];
    JsonValue* place = &object;
    for (size_t begin = 0; begin <= path.size();) {
      const size_t end = std::min(path.find('.', begin), path.size());
      if (!place->is_object()) *place = JsonValue::object();
      place = &(*place)[path.substr(begin, end - begin)];
      begin = end + 1;
    }
    if (append) {
      if (!place->is_array()) *place = JsonValue::array();
      place->push_back(value);
    } else {
      *place = value;
    }
    set(flag, object);
  }

  const Environment& environment_;
  Arguments arguments_;
  std::string place_;  // "file.yaml:3: "
  std::vector<std::string> from_command_line_;
  size_t next_ = 0;
  bool has_model_ = false;
};

}  // namespace

std::optional<int64_t> parse_size(std::string_view text) {
  if (const auto plain = parse_number<int64_t>(text)) return plain;
  if (text.size() < 2) return std::nullopt;
  constexpr std::string_view kDecimal = "kmgt", kBinary = "KMGT";
  const char suffix = text.back();
  const std::string_view digits = text.substr(0, text.size() - 1);
  const size_t binary = kBinary.find(suffix), decimal = kDecimal.find(suffix);
  if (binary != std::string_view::npos) {
    const auto value = parse_number<int64_t>(digits);
    const int64_t factor = int64_t{1} << (10 * (binary + 1));
    if (!value || *value < 0 || *value > (int64_t{1} << 62) / factor) return std::nullopt;
    return *value * factor;
  }
  const auto value = parse_number<double>(digits);
  if (decimal == std::string_view::npos || !value) return std::nullopt;
  const double result = *value * std::pow(1000.0, static_cast<double>(decimal + 1));
  if (!(result >= 0 && result < 0x1p62) || result != std::floor(result)) return std::nullopt;
  return static_cast<int64_t>(result);
}

JsonValue Arguments::value(const std::string& name) const {
  if (given.contains(name)) return given[name];
  const Flag* flag = find(name);
  QUERN_CHECK(flag != nullptr);
  return JsonValue::parse(flag->otherwise);
}

Arguments read_arguments(const std::vector<std::string>& words, const Environment& environment) {
  return Reader(environment).read(words);
}

std::string help_text(const std::string& word) {
  std::string text;
  for (const auto flags : {used_flags(), ignored_flags(), refused_flags()}) {
    const bool used = flags.data() == used_flags().data();
    if (!used && (word.empty())) continue;
    for (const Flag& flag : flags) {
      const bool all = word.empty() || word == "all";
      if (!all && flag.name.find(word) == std::string_view::npos &&
          flag.help.find(word) == std::string_view::npos)
        continue;
      const std::string name =
          (flag.kind == Kind::flag ? "--[no-]" : "--") + std::string(flag.name);
      const std::string otherwise =
          flag.otherwise == "null" ? "" : fmt::format(" [{}]", flag.otherwise);
      text +=
          fmt::format("  {:<34} {}{}{}\n", name, used ? "" : "(not here) ", flag.help, otherwise);
    }
  }
  return text;
}

std::string effective_yaml(const Arguments& arguments) {
  JsonValue all = JsonValue::object();
  for (const Flag& flag : used_flags()) {
    const std::string name(flag.name);
    const JsonValue value = arguments.value(name);
    if (!value.is_null() && name != "check-config") all[name] = value;
  }
  return to_yaml(all);
}

}  // namespace quern::serve
