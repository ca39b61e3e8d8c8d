// Compiled once for every instruction set, each time with its own namespace ISA.
#include "backward.h"
#include "short_rows.h"
#include "statistics.h"

namespace ISA {

template <class T> static int attend(const Problem &p) {
    if (p.batch == 0 || p.heads == 0 || p.queries == 0) return DONE;
    if (p.queries <= FEW_QUERIES) return decode<T>(p);
    return is_short(p) ? short_rows<T, T>(p, false) : forward<T>(p);
}
template <class T> static int differentiate(const Problem &p) { return is_short(p) ? short_rows<T, T>(p, true) : backward<T>(p); }

int run_forward(const Problem &p) {
    if (p.bfloat16) return is_short(p) ? short_rows<float, BFloat16>(p, false) : BAD_PROBLEM;
    return p.doubles ? attend<double>(p) : attend<float>(p);
}
int run_backward(const Problem &p) {
    if (p.bfloat16) return is_short(p) ? short_rows<float, BFloat16>(p, true) : BAD_PROBLEM;
    return p.doubles ? differentiate<double>(p) : differentiate<float>(p);
}
int run_statistics(const Problem &p) { return p.doubles ? statistics<double>(p) : statistics<float>(p); }

} // namespace ISA
