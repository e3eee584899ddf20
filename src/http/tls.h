// What OpenSSL is told before it speaks for a server.
#pragma once

#include <boost/asio/ssl/context.hpp>

#include "http/server.h"

namespace quern::http {

// Certificate, key and what is asked of clients. Fails with Exit::usage, naming the file.
boost::asio::ssl::context server_tls(const Options& options);

}  // namespace quern::http
