// HTTPS: who trusts the certificate is answered, who does not leaves, and all else ends in order.
#include "http/tls.h"

#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <fstream>

#include "base/error.h"
#include "http/client.h"
#include "tests/serve/running.h"

namespace quern::serve {
namespace {

namespace fs = std::filesystem;

// A folder that goes away with the test.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("quern-tls-test-" + std::to_string(::getpid()))) {
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

// A key and a certificate that it signed itself, for these names, as files NAME.pem and NAME.key.
void make_identity(const Folder& folder, const std::string& name, const char* names,
                   const char* password = nullptr) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME* subject = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_issuer_name(certificate, subject);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, names);
  X509_add_ext(certificate, extension, -1);
  X509_sign(certificate, key, EVP_sha256());
  FILE* file = std::fopen(folder.file(name + ".pem").c_str(), "w");
  PEM_write_X509(file, certificate);
  std::fclose(file);
  file = std::fopen(folder.file(name + ".key").c_str(), "w");
  PEM_write_PrivateKey(file, key, password ? EVP_aes_128_cbc() : nullptr, nullptr, 0, nullptr,
                       const_cast<char*>(password));
  std::fclose(file);
  X509_EXTENSION_free(extension);
  X509_free(certificate);
  EVP_PKEY_free(key);
}

class TlsTest : public testing::Test {
 protected:
  TlsTest() {
    make_identity(folder_, "ours", "IP:127.0.0.1");
    make_identity(folder_, "other", "IP:127.0.0.1");
    trust("ours");
  }
  ~TlsTest() override { ::unsetenv("SSL_CERT_FILE"); }

  void trust(const std::string& name) const {
    ::setenv("SSL_CERT_FILE", folder_.file(name + ".pem").c_str(), 1);
  }
  ServerOptions options(const std::string& certificate = "ours.pem",
                        const std::string& key = "ours.key") const {
    ServerOptions options;
    options.http.certificate_file = folder_.file(certificate);
    options.http.key_file = folder_.file(key);
    return options;
  }
  static http::Url url(const RunningServer& server) {
    return http::Url::of("https://127.0.0.1:" + std::to_string(server.port()));
  }
  // Why no server starts.
  std::string refusal(const ServerOptions& options) const {
    try {
      RunningServer server({}, options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::usage);
      return error.what();
    }
    return "";
  }
  std::string failure(const http::Url& url) const {
    try {
      http::fetch(url, "GET", "/v1/models", "", "");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  Folder folder_;
};

TEST_F(TlsTest, AnswersWhoTrustsItsCertificate) {
  ServerOptions generous = options();
  generous.text_bytes = 1 << 20;
  RunningServer server({}, generous);
  EXPECT_EQ(server->url(), "https://127.0.0.1:" + std::to_string(server.port()));
  const JsonValue models = JsonValue::parse(http::fetch(url(server), "GET", "/v1/models", "", ""));
  EXPECT_EQ(models["data"][0]["id"], "tiny");
  // More than a TLS record, out and in.
  const JsonValue body = {{"prompt", std::string(100'000, 'x')}, {"return_token_strs", true}};
  const JsonValue tokens =
      JsonValue::parse(http::fetch(url(server), "POST", "/tokenize", body.dump(), ""));
  EXPECT_EQ(tokens["count"], tokens["token_strs"].size());
  EXPECT_GT(tokens["count"], 10'000);
}

TEST_F(TlsTest, StreamsToManyAtOnce) {
  RunningServer server({.tokens_per_s = 200}, options());
  http::Client client(url(server));
  constexpr int kStreams = 40, kTokens = 20;
  int whole = 0, events = 0;
  std::vector<http::EventReader> readers(kStreams);
  for (http::EventReader& reader : readers)
    client.start({.path = "/v1/completions",
                  .body = R"({"prompt": "x", "stream": true, "max_tokens": 20})",
                  .piece =
                      [&](std::string_view piece) {
                        reader.push(piece, [&](std::string_view) { ++events; });
                      },
                  .end = [&](const std::string& error) { whole += error.empty(); }});
  client.run();
  EXPECT_EQ(whole, kStreams);
  EXPECT_GT(events, kStreams * kTokens / 2);
}

TEST_F(TlsTest, AStrangersCertificateIsNotTaken) {
  RunningServer server({}, options());
  trust("other");
  EXPECT_NE(failure(url(server)).find("certificate is not to be trusted"), std::string::npos);
  EXPECT_FALSE(http::fetch(url(server), "GET", "/v1/models", "", "", http::Trust::anybody).empty());
}

TEST_F(TlsTest, ACertificateForAnotherNameIsNotTaken) {
  make_identity(folder_, "elsewhere", "DNS:example.org");
  trust("elsewhere");
  RunningServer server({}, options("elsewhere.pem", "elsewhere.key"));
  EXPECT_NE(failure(url(server)).find("certificate is not to be trusted"), std::string::npos);
}

TEST_F(TlsTest, CertificatesAreReadAgain) {
  RunningServer server({}, options());
  EXPECT_EQ(failure(url(server)), "");
  const auto replace = [&](const char* suffix) {
    fs::copy_file(folder_.file(std::string("other") + suffix),
                  folder_.file(std::string("ours") + suffix), fs::copy_options::overwrite_existing);
  };
  replace(".pem");  // without its key: the old ones stay
  server->reload();
  trust("other");
  EXPECT_NE(failure(url(server)), "");
  replace(".key");
  server->reload();
  EXPECT_EQ(failure(url(server)), "");
}

TEST_F(TlsTest, PlainHttpIsToldSo) {
  RunningServer server({}, options());
  Wire plain(server.port());
  const Received got = plain.ask(get("/v1/models"));
  EXPECT_EQ(got.status, 400);
  EXPECT_NE(got.body.find("HTTPS only"), std::string::npos);
  EXPECT_TRUE(plain.ended());
  Wire noise(server.port());
  noise.send(std::string("\x16\x03\x01\x00\x05hello", 10));
  EXPECT_TRUE(noise.ended());
  Wire zeros(server.port());
  zeros.send(std::string(100, '\0'));
  EXPECT_TRUE(zeros.ended());
  EXPECT_EQ(failure(url(server)), "");
}

TEST_F(TlsTest, WhoIsSilentIsNotWaitedFor) {
  ServerOptions impatient = options();
  impatient.http.header_seconds = 1;
  RunningServer server({}, impatient);
  Wire silent(server.port()), half(server.port());
  half.send(std::string("\x16\x03\x01\x02\x00\x01", 6));
  EXPECT_TRUE(silent.ended());
  EXPECT_TRUE(half.ended());
}

TEST_F(TlsTest, AClientThatLeavesEndsItsRequest) {
  RunningServer server({.tokens_per_s = 50}, options());
  {
    http::Client client(url(server));
    int pieces = 0;
    client.start({.path = "/v1/completions",
                  .body = R"({"prompt": "x", "stream": true, "max_tokens": 4000})",
                  .piece = [&](std::string_view) {
                    if (++pieces == 3) client.stop();
                  }});
    client.run();
    EXPECT_EQ(server->state().running, 1);
  }
  EXPECT_TRUE(soon([&] { return server->state().running == 0; }, 2));
}

TEST_F(TlsTest, ALargePieceArrivesWhole) {
  RunningServer server({}, options());
  const std::vector<int32_t> ids(4000, 7);
  const JsonValue body = {
      {"prompt", ids}, {"echo", true}, {"stream", true}, {"logprobs", 20}, {"max_tokens", 1}};
  const std::string got = http::fetch(url(server), "POST", "/v1/completions", body.dump(), "");
  EXPECT_TRUE(got.ends_with("data: [DONE]\n\n"));
  EXPECT_GT(got.size(), size_t{1} << 20);
  EXPECT_EQ(failure(url(server)), "");
}

TEST_F(TlsTest, AClientMayLeaveAtAnyPiece) {
  RunningServer server({}, options());
  for (int left_at = 1; left_at < 40; ++left_at) {
    http::Client client(url(server));
    int pieces = 0;
    client.start({.path = "/v1/completions",
                  .body = R"({"prompt": "x", "stream": true, "max_tokens": 40, "n": 2})",
                  .piece = [&](std::string_view) {
                    if (++pieces == left_at) client.stop();
                  }});
    client.run();
  }
  EXPECT_TRUE(soon([&] { return server->state().running == 0; }, 5));
  EXPECT_EQ(server->state().kv_tokens_used, 0);
  EXPECT_EQ(failure(url(server)), "");
}

// As curl and Python see the end of an answer that has no length.
TEST_F(TlsTest, TheEndIsTold) {
  RunningServer server({}, options());
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  Wire client(server.port());
  SSL* tls = SSL_new(context);
  SSL_set_fd(tls, client.descriptor());
  ASSERT_EQ(SSL_connect(tls), 1);
  const std::string body = R"({"prompt": "x", "stream": true, "max_tokens": 3})";
  const std::string request =
      "POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  SSL_write(tls, request.data(), static_cast<int>(request.size()));
  std::string answer;
  char piece[4096];
  int size;
  while ((size = SSL_read(tls, piece, sizeof piece)) > 0)
    answer.append(piece, static_cast<size_t>(size));
  EXPECT_EQ(SSL_get_error(tls, size), SSL_ERROR_ZERO_RETURN);
  EXPECT_TRUE(answer.ends_with("data: [DONE]\n\n")) << answer;
  SSL_free(tls);
  SSL_CTX_free(context);
}

TEST_F(TlsTest, AWrongKeyOrCertificateIsRefusedAtTheStart) {
  make_identity(folder_, "locked", "IP:127.0.0.1", "password");
  std::ofstream(folder_.file("text.pem")) << "no certificate\n";
  ServerOptions no_key = options();
  no_key.http.key_file = "";
  for (const auto& [wrong, said] : std::vector<std::pair<ServerOptions, std::string>>{
           {options("none.pem"), "--ssl-certfile"},
           {options("text.pem"), "--ssl-certfile"},
           {options("ours.pem", "none.key"), "--ssl-keyfile"},
           {options("ours.pem", "other.key"), "--ssl-keyfile"},
           {options("ours.pem", "ours.pem"), "--ssl-keyfile"},
           {options("locked.pem", "locked.key"), "--ssl-keyfile"},
           {no_key, "--ssl-keyfile"}}) {
    const std::string why = refusal(wrong);
    EXPECT_NE(why.find(said), std::string::npos) << said << ": " << why;
    EXPECT_NE(why.find(wrong.http.key_file.empty() ? "missing" : "PEM file"), std::string::npos)
        << why;
  }
}

TEST_F(TlsTest, ClientsMayHaveToShowACertificate) {
  ServerOptions strict = options();
  strict.http.ca_file = folder_.file("other.pem");
  strict.http.client_certificate = 2;
  RunningServer server({}, strict);
  EXPECT_NE(failure(url(server)), "");
}

}  // namespace
}  // namespace quern::serve
