// Compiled once for every instruction set, each time with its own namespace ISA.
#include "backward.h"

namespace ISA {
int run_forward(const Problem &p) { return p.doubles ? forward<double>(p) : forward<float>(p); }
int run_backward(const Problem &p) { return p.doubles ? backward<double>(p) : backward<float>(p); }
} // namespace ISA
