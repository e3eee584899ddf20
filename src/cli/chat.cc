// quern chat: a conversation in the terminal with a server, or with a model that is served for it
// alone.
#include <unistd.h>

#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "cli/interrupt.h"
#include "cli/program.h"
#include "cli/serve.h"
#include "cli/terminal.h"
#include "http/client.h"

namespace quern::cli {
namespace {

struct ChatCommand {
  std::string target, model, key, system;
  std::optional<double> temperature;
  std::optional<int64_t> max_tokens;
  std::optional<bool> thinking;
  bool hide_thoughts = false, insecure = false;
};

// The server at the other end; its own one lives as long as this.
class Partner {
 public:
  explicit Partner(const ChatCommand& command)
      : key_(command.key), trust_(command.insecure ? http::Trust::anybody : http::Trust::check) {
    if (command.target.find("://") != std::string::npos) {
      url_ = http::Url::of(command.target);
      return;
    }
    const serve::Arguments arguments =
        serve::read_arguments({command.target, "--port", "0", "--disable-log-stats"}, environment);
    const serve::ServerOptions options = serve::server_options(arguments, environment);
    if (!options.admission.api_keys.empty()) key_ = options.admission.api_keys.front();
    server_.emplace(options);
    load_model(*server_, arguments);
    waiting_ = std::thread([this] {
      try {
        server_->wait();
      } catch (const std::exception& error) {  // the conversation ends with the connection
        log_warning("{}", error.what());
      }
    });
    url_ = http::Url::of(server_->url());
  }
  ~Partner() {
    if (!server_) return;
    server_->stop();
    waiting_.join();
  }

  const http::Url& url() const { return url_; }
  const std::string& key() const { return key_; }
  http::Trust trust() const { return trust_; }

 private:
  std::string key_;
  http::Trust trust_;
  http::Url url_;
  std::optional<serve::Server> server_;
  std::thread waiting_;
};

std::string first_model(const Partner& partner) {
  const JsonValue list = parse_json(
      http::fetch(partner.url(), "GET", "/v1/models", "", partner.key(), partner.trust()),
      "/v1/models");
  return Json(list, "/v1/models").at("data").at(0).get<std::string>("id");
}

class Chat {
 public:
  Chat(const ChatCommand& command, const Partner& partner)
      : command_(command),
        partner_(partner),
        model_(command.model.empty() ? first_model(partner) : command.model) {
    if (!command.system.empty())
      messages_.push_back({{"role", "system"}, {"content", command.system}});
  }
  const std::string& model() const { return model_; }

  // One turn. An interrupt ends the answer, not the chat.
  void ask(const std::string& question) {
    messages_.push_back({{"role", "user"}, {"content", question}});
    http::Client client(partner_.url(), partner_.trust());
    const FinishFirst finish("interrupted; once more to quit", [&client] { client.stop(); });
    said_.clear();
    std::string failure, body;
    int status = 0;
    http::EventReader events;
    client.start({.path = "/v1/chat/completions",
                  .body = request(),
                  .key = partner_.key(),
                  .head = [&](int got) { status = got; },
                  .piece =
                      [&](std::string_view piece) {
                        if (status != 200) body += piece;
                        events.push(piece, [&](std::string_view data) { take(data); });
                      },
                  .end = [&](const std::string& error) { failure = error; }});
    client.run();
    show_thought("");
    print("\n");
    if (!failure.empty()) fail("the server does not answer: {}", failure);
    if (status != 200 && !finish.asked()) fail("status {}: {}", status, body);
    messages_.push_back({{"role", "assistant"}, {"content", said_}});
  }

 private:
  std::string request() const {
    JsonValue body = {{"model", model_}, {"messages", messages_}, {"stream", true}};
    if (command_.temperature) body["temperature"] = *command_.temperature;
    if (command_.max_tokens) body["max_completion_tokens"] = *command_.max_tokens;
    if (command_.thinking) body["chat_template_kwargs"] = {{"enable_thinking", *command_.thinking}};
    return body.dump(-1, ' ', false, JsonValue::error_handler_t::replace);
  }

  void take(std::string_view data) {
    if (data == "[DONE]") return;
    const JsonValue event = parse_json(data, "the server's answer");
    if (event.contains("error")) fail("the server's answer: {}", event["error"].dump());
    if (!event.contains("choices") || event["choices"].empty()) return;
    const JsonValue& delta = event["choices"][0]["delta"];
    for (const char* key : {"reasoning", "reasoning_content"}) {
      if (!delta.contains(key) || !delta[key].is_string()) continue;
      show_thought(delta[key].get<std::string>());
      break;
    }
    if (!delta.contains("content") || !delta["content"].is_string()) return;
    const auto text = delta["content"].get<std::string>();
    if (text.empty()) return;
    show_thought("");
    said_ += text;
    print(text);
  }

  // Dimmed, on standard error; an empty one ends the thoughts.
  void show_thought(const std::string& text) {
    if (command_.hide_thoughts) return;
    if (!text.empty())
      std::fputs(standard_error().dim(text).c_str(), stderr);
    else if (thinking_)
      std::fputs("\n", stderr);
    thinking_ = !text.empty();
  }

  const ChatCommand& command_;
  const Partner& partner_;
  std::string model_, said_;
  JsonValue messages_ = JsonValue::array();
  bool thinking_ = false;
};

void run(const ChatCommand& command) {
  const bool person = ::isatty(STDIN_FILENO) && standard_error().interactive();
  const Partner partner(command);
  Chat chat(command, partner);
  if (person) log_info("Chat with {}. Ctrl-C ends an answer, Ctrl-D ends the chat.", chat.model());
  std::string line;
  for (;;) {
    if (person) std::fputs("> ", stderr);
    if (!std::getline(std::cin, line)) return;
    if (!line.empty()) chat.ask(line);
  }
}

}  // namespace

void add_chat(CLI::App& app, Program& program) {
  auto command = std::make_shared<ChatCommand>();
  CLI::App* verb = app.add_subcommand("chat", "Talk to a server, or to a model");
  verb->footer(R"(
Examples:
  quern chat http://127.0.0.1:8000
  quern chat MODEL --no-thinking

Each line of standard input is a turn.)");
  verb->add_option("TARGET", command->target, "URL of an OpenAI server, or a model folder")
      ->required();
  verb->add_option("--model", command->model, "Name to ask the server for (default: its first)");
  verb->add_option("--api-key", command->key, "Key of the server")->envname("OPENAI_API_KEY");
  verb->add_flag("--insecure", command->insecure, "Ask for no certificate that can be trusted");
  verb->add_option("--system", command->system, "System message");
  verb->add_option("--temperature", command->temperature, "0 takes the likeliest token always");
  verb->add_option("--max-tokens", command->max_tokens, "New tokens of an answer, at most");
  verb->add_flag("--enable-thinking,!--no-thinking", command->thinking,
                 "Ask the chat template for thoughts before the answer, or for none");
  verb->add_flag("--hide-thoughts", command->hide_thoughts, "Show answers alone");
  verb->callback([&program, command] { program.run = [command] { run(*command); }; });
}

}  // namespace quern::cli
