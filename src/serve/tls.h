// What OpenSSL is told before it speaks for a server.
#pragma once

#include <boost/asio/ssl/context.hpp>

#include "serve/http.h"

namespace quern::serve {

// Certificate, key and what is asked of clients. Fails with Exit::usage, naming the file.
boost::asio::ssl::context server_tls(const HttpOptions& options);

}  // namespace quern::serve
