// Compiled once for every instruction set, each time with its own namespace ISA.
#include "forward.h"

namespace ISA {
int run_forward(const Problem &p) { return p.doubles ? forward<double>(p) : forward<float>(p); }
} // namespace ISA
