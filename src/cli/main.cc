#include "cli/program.h"

int main(int argc, char** argv) { return quern::cli::run_program(argc, argv); }
