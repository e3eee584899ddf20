// Tells the service manager that started this program how it does (sd_notify of systemd).
#pragma once

#include <string>

namespace quern::cli {

// "READY=1", "STOPPING=1": one datagram to the socket of $NOTIFY_SOCKET; nothing without one.
void notify_service(const std::string& state);

}  // namespace quern::cli
