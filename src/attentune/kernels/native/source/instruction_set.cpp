// Compiled once for every instruction set, each time with its own namespace ISA.
#include "backward.h"
#include "statistics.h"

namespace ISA {

template <class T> static int attend(const Problem &p) {
    if (p.batch == 0 || p.heads == 0 || p.queries == 0) return DONE;
    return p.queries <= FEW_QUERIES ? decode<T>(p) : forward<T>(p);
}

int run_forward(const Problem &p) { return p.doubles ? attend<double>(p) : attend<float>(p); }
int run_backward(const Problem &p) { return p.doubles ? backward<double>(p) : backward<float>(p); }
int run_statistics(const Problem &p) { return p.doubles ? statistics<double>(p) : statistics<float>(p); }

} // namespace ISA
