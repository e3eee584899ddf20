// Reading a mapped file that was truncated raises SIGBUS. This handler ends the program with a
// message that names the file.
#pragma once

#include <cstddef>
#include <string>

namespace quern {

// From now on a SIGBUS in this range ends the program with Exit::invalid_input and a message that
// names `file`; every other SIGBUS goes to the previous handler. Returns a number for
// forget_mapping; -1 if too many ranges are watched.
int watch_mapping(const void* begin, size_t size, const std::string& file);
void forget_mapping(int number);

}  // namespace quern
