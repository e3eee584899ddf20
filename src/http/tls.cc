#include "http/tls.h"

#include <functional>

#include "base/error.h"

namespace quern::http {

namespace asio = boost::asio;

namespace {

void read(const char* option, const std::string& file, const std::function<void()>& load) {
  if (file.empty())
    fail(Exit::usage, "--{} is missing: TLS needs a certificate and its key", option);
  try {
    load();
  } catch (const boost::system::system_error& error) {
    fail(Exit::usage,
         "--{} {}: {}; it must be a PEM file without a password, and the key that of the "
         "certificate",
         option, file, error.code().message());
  }
}

}  // namespace

asio::ssl::context server_tls(const Options& options) {
  asio::ssl::context context(asio::ssl::context::tls_server);
  SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_2_VERSION);
  // OpenSSL would ask the terminal.
  context.set_password_callback([](size_t, asio::ssl::context::password_purpose) { return ""; });
  read("ssl-certfile", options.certificate_file,
       [&] { context.use_certificate_chain_file(options.certificate_file); });
  read("ssl-keyfile", options.key_file,
       [&] { context.use_private_key_file(options.key_file, asio::ssl::context::pem); });
  if (!options.ca_file.empty())
    read("ssl-ca-certs", options.ca_file, [&] { context.load_verify_file(options.ca_file); });
  auto mode = asio::ssl::verify_none;
  if (options.client_certificate > 0) mode = asio::ssl::verify_peer;
  if (options.client_certificate > 1) mode |= asio::ssl::verify_fail_if_no_peer_cert;
  context.set_verify_mode(mode);
  return context;
}

}  // namespace quern::http
