// Reading a mapped file that somebody made shorter ends in the signal SIGBUS. Here the program ends
// with the name of the file instead.
#pragma once

#include <cstddef>
#include <string>

namespace quern {

// From now on a SIGBUS in this range ends the program with Exit::invalid_input and a message that
// names `file`; every other SIGBUS goes where it went before. Returns a number for forget_mapping;
// -1 when too many are watched.
int watch_mapping(const void* begin, size_t size, const std::string& file);
void forget_mapping(int number);

}  // namespace quern
